"""What is done to a camera's arrays before they are sent: crop, shrink, grey, and K with them.

Integer pictures are computed in integers, so the result is the same on every machine.

The centre of the pixel in row v and column u is at (u, v): the picture begins at (-0.5, -0.5).
Resizing maps the borders of the picture onto each other, not the centres of its corner pixels;
that is what OpenCV's and Pillow's ``resize`` do too.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["crop", "grey", "intrinsics_of", "nearest", "shrink"]

T = TypeVar("T", bound=np.generic)

# 0.299, 0.587 and 0.114 in 65536ths; they make 65536.
_LUMA: Final = (19595, 38470, 7471)


def crop(array: NDArray[T], part: tuple[int, int, int, int]) -> NDArray[T]:
    """Return a part, ``(top, left, height, width)``, of ``(H, W, ...)``: a view."""
    top, left, height, width = part
    return array[top : top + height, left : left + width]


def shrink(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Shrink a picture: each new pixel is the mean of the area that it covers.

    Args:
        image: ``(H, W, channels)``, of integers or floats.
        size: Height and width, at most those of the picture.

    Returns:
        ``(height, width, channels)`` of the same dtype; integers rounded to the nearest, halves
        up.
    """
    height, width, channels = image.shape
    rows, down = _weighted_sums(image.reshape(height, -1), size[0])
    columns = rows.reshape(size[0], width, channels).transpose(1, 0, 2).reshape(width, -1)
    sums, across = _weighted_sums(columns, size[1])
    area = down * across
    if sums.dtype.kind == "f":
        sums /= area
    else:
        sums = _fitting(sums, int(sums.max(initial=0)) + area // 2)
        sums += sums.dtype.type(area // 2)
        sums //= sums.dtype.type(area)
    mean = sums.reshape(size[1], size[0], channels).transpose(1, 0, 2)
    return mean.astype(image.dtype, order="C")


def _weighted_sums(rows: NDArray[Any], count: int) -> tuple[NDArray[Any], int]:
    """Return ``count`` sums of rows, each weighted by how much of it lies in that share.

    Of N rows each share is N / count rows high. In units of 1 / count of a row all edges are
    whole numbers. Row by row, because ``np.add.reduceat`` takes ten times as long.

    Returns:
        The sums, and what the weights of a share sum up to.
    """
    total = len(rows)
    begins = np.arange(count) * total
    first, last = begins // count, (begins + total - 1) // count
    heights = last - first + 1
    # First all rows that a share touches, as if they were whole in it.
    sums = _fitting(rows[first], _most(rows) * int(heights.max()))
    for k in range(1, int(heights.min())):
        sums += rows[first + k]
    for k in range(int(heights.min()), int(heights.max())):
        higher = np.flatnonzero(heights > k)
        sums[higher] += rows[first[higher] + k]
    if total % count == 0:
        return sums, total // count
    sums = _fitting(sums, _most(rows) * int(heights.max()) * count)
    before, beyond = begins % count, (last + 1) * count - begins - total
    sums *= sums.dtype.type(count)
    sums -= rows[first] * before.astype(sums.dtype)[:, np.newaxis]
    sums -= rows[last] * beyond.astype(sums.dtype)[:, np.newaxis]
    return sums, total


def _most(rows: NDArray[Any]) -> int:
    return 0 if rows.dtype.kind == "f" else int(rows.max(initial=1))


def _fitting(array: NDArray[Any], most: int) -> NDArray[Any]:
    """Return an array, with room for numbers up to ``most``: small ones take half the time."""
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind == "i":
        return array.astype(np.int64, copy=False)
    for dtype in (np.uint16, np.uint32):
        if most <= np.iinfo(dtype).max:
            return array.astype(np.promote_types(dtype, array.dtype), copy=False)
    return array.astype(np.uint64, copy=False)


def nearest(array: NDArray[T], size: tuple[int, int]) -> NDArray[T]:
    """Shrink ``(H, W)`` by taking the pixel in which the centre of each new one lies."""
    rows, columns = (
        ((2 * np.arange(count) + 1) * total) // (2 * count)
        for count, total in zip(size, array.shape, strict=True)
    )
    sampled: NDArray[T] = array[rows[:, np.newaxis], columns]
    return sampled


def grey(image: NDArray[Any]) -> NDArray[Any]:
    """Return the luma of ``(H, W, 3)`` RGB, ``(H, W, 1)`` of the same dtype, rounded.

    Source:
        ITU-R BT.601-7, section 2.5.1, as JFIF 1.02 and OpenCV's COLOR_RGB2GRAY have it.
    """
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    if image.dtype.kind == "f":
        weights = [weight / 65536 for weight in _LUMA]
        return (red * weights[0] + green * weights[1] + blue * weights[2]).astype(image.dtype)
    wide: Any = np.uint32 if image.dtype.itemsize <= 2 and image.dtype.kind == "u" else np.int64
    luma = red * wide(_LUMA[0])
    luma += green * wide(_LUMA[1])
    luma += blue * wide(_LUMA[2])
    luma += wide(1 << 15)
    luma >>= wide(16)
    rounded: NDArray[Any] = luma.astype(image.dtype)
    return rounded


def intrinsics_of(
    intrinsics: NDArray[np.float64],
    part: tuple[int, int, int, int],
    size: tuple[int, int] | None,
) -> NDArray[np.float64]:
    """Return K of a picture that was cropped, then resized; the extrinsics stay as they are.

    Args:
        intrinsics: ``(3, 3)`` float64, in pixels of the whole picture.
        part: Top, left, height and width of what was cut out, in pixels.
        size: Height and width that it was resized to; None if it was not.

    Returns:
        ``(3, 3)`` float64, in pixels of the result.

    Source:
        A point at u is at (u - left + 0.5) * scale - 0.5 afterwards, because the borders of the
        picture, half a pixel from the centres of its outermost pixels, are what is mapped onto
        each other. (Heckbert, What Are The Coordinates Of A Pixel?, Graphics Gems, 1990.)
    """
    top, left, height, width = part
    down, across = (1.0, 1.0) if size is None else (size[0] / height, size[1] / width)
    new_from_old = np.array(
        [
            [across, 0.0, (0.5 - left) * across - 0.5],
            [0.0, down, (0.5 - top) * down - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    return new_from_old @ intrinsics
