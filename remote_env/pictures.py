"""Pictures for people: several cameras in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec, StreamKind

__all__ = ["pictures_of", "tile"]


def pictures_of(spec: RobotSpec, observed: Sequence[str]) -> list[str]:
    """Return the image streams to render: those observed, else the first there is.

    Raises:
        ConfigurationError: If the robot has no camera; says why, if the robot does.
    """
    images = [stream.name for stream in spec.streams if stream.kind is StreamKind.IMAGE]
    shown = [name for name in images if name in observed] or images[:1]
    if not shown:
        reason = str(spec.extra.get("no_camera", ""))
        raise ConfigurationError(
            f"render_mode='rgb_array' needs a camera, and {spec.name} offers none"
            f"{f' ({reason})' if reason else ''}; use render_mode=None"
        )
    return shown


def tile(images: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """Put pictures side by side, in rows; copies them.

    Args:
        images: Each ``(height, width, channels)`` with 1 or 3 channels, uint8 or, scaled
            by its own largest value, any other number.

    Returns:
        ``(height, width, 3)`` uint8 RGB; smaller pictures are padded with black.
    """
    pictures = [_as_rgb(image) for image in images]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def _as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        largest = float(image.max()) or 1.0
        image = (np.clip(image, 0, None) * (255.0 / largest)).astype(np.uint8)
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
