"""Arrays as fewer bytes, and back: ``jpeg`` for pictures, ``depth16`` for depth.

``jpeg``
    8-bit pictures of 1 or 3 channels, as baseline JPEG with all channels in one scan. It loses:
    see ``StreamRequest.quality`` for how much.
``depth16``
    Depth in whole millimetres, as LZ4. Of float metres at most half a millimetre is lost (and
    the rounding of the float's own type), of uint16 millimetres nothing. What is 0, negative or
    no number is unknown, and stays 0; what is nearer than half a millimetre becomes that too.
    What is farther than 65.535 m becomes 65.535 m.

Who decodes trusts nothing: how large the result is was agreed before, and is compared with what
the bytes say before anything is decoded, and a JPEG whose decoding takes more than one pass (a
small file can ask for thousands) is refused. Damage of any kind raises ``RemoteProtocolError``.

The two libraries are optional, and loaded when they are needed.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.protocol.arrays import CODECS, RAW, ArraySpec

__all__ = [
    "FULL_COLOUR",
    "available_codecs",
    "check_codec",
    "decode_array",
    "encode_array",
    "fits_codec",
]

_LIBRARIES: Final = {"jpeg": "simplejpeg", "depth16": "lz4"}
# From this quality on colours are stored in full resolution (4:4:4), below it in half (4:2:0):
# a third smaller and twice as fast, but a red edge is then off by up to 100 of 255.
FULL_COLOUR: Final = 90
_MILLIMETRES: Final = 1000.0
_MOST_MILLIMETRES: Final = 65535
_COLOURS: Final = {1: "GRAY", 3: "RGB"}
# Markers of JPEG, ISO/IEC 10918-1, table B.1.
_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_SCAN: Final = 0xDA
_FRAME: Final = 0xC0  # baseline
# Tables, comments, applications' own. No others: some have no length, and a decoder that skips
# what we took for one would read another picture than we looked at.
_OTHERS: Final = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})


@functools.cache
def available_codecs() -> tuple[str, ...]:
    """Return the codecs that this machine has what they need for; ``"raw"`` is always there."""
    found = {name for name, module in _LIBRARIES.items() if importlib.util.find_spec(module)}
    return tuple(name for name in CODECS if name == RAW or name in found)


def check_codec(codec: str) -> None:
    """Refuse a codec that this machine lacks.

    Raises:
        ConfigurationError: Saying what to install.
    """
    if codec not in available_codecs():
        raise ConfigurationError(
            f"codec {codec!r} needs {_LIBRARIES[codec]} on this machine; install it with "
            "pip install 'remote-robot-env[image]', or choose codec='raw'"
        )


def fits_codec(codec: str, spec: ArraySpec, *, is_depth: bool) -> bool:
    """Whether arrays like this can be encoded so.

    Args:
        codec: One of ``CODECS``.
        spec: Dtype and shape.
        is_depth: Whether it is depth, ``(height, width)``, metres as floats or millimetres as
            uint16; else it is a picture, ``(height, width, channels)``.
    """
    if codec == "jpeg":
        return not is_depth and spec.dtype == np.uint8 and spec.shape[-1] in _COLOURS
    if codec == "depth16":
        return is_depth and (spec.dtype.kind == "f" or spec.dtype == np.uint16)
    return True


def encode_array(codec: str, array: NDArray[Any], *, quality: int) -> NDArray[np.uint8]:
    """Encode an array that fits; its encoded form is ``(size,)`` uint8, and read-only.

    Args:
        codec: Not ``"raw"``.
        array: C-contiguous.
        quality: Of JPEG, 1 to 100.
    """
    encoded = _encode_jpeg(array, quality) if codec == "jpeg" else _encode_depth(array)
    return np.frombuffer(encoded, np.uint8)


def decode_array(spec: ArraySpec, encoded: NDArray[Any], out: NDArray[Any]) -> None:
    """Decode an array into memory.

    Args:
        spec: What it must be.
        encoded: ``(size,)`` uint8, as it came.
        out: Of the shape and dtype of ``spec``, C-contiguous; what it holds after an error is
            not known.

    Raises:
        RemoteProtocolError: If that is not what the bytes hold.
        ConfigurationError: If the library is not there.
    """
    check_codec(spec.codec)
    if spec.codec == "jpeg":
        _decode_jpeg(spec, encoded, out)
    else:
        _decode_depth(spec, encoded, out)


# JPEG


def _encode_jpeg(image: NDArray[Any], quality: int) -> bytes:
    import simplejpeg

    colours = _COLOURS[image.shape[-1]]
    subsampling = "Gray" if colours == "GRAY" else "444" if quality >= FULL_COLOUR else "420"
    encoded: bytes = simplejpeg.encode_jpeg(
        image, quality=quality, colorspace=colours, colorsubsampling=subsampling, fastdct=False
    )
    return encoded


def _decode_jpeg(spec: ArraySpec, encoded: NDArray[Any], out: NDArray[Any]) -> None:
    import simplejpeg

    data = encoded.tobytes()
    found = _shape_of_jpeg(data)
    if found != spec.shape:
        raise RemoteProtocolError(
            f"{spec.name!r} should be a JPEG of {spec.shape}, and it is one of {found}"
        )
    try:
        simplejpeg.decode_jpeg(data, colorspace=_COLOURS[found[2]], buffer=out, fastdct=False)
    except ValueError as error:
        raise RemoteProtocolError(f"{spec.name!r} is a damaged JPEG: {error}") from error


def _shape_of_jpeg(data: bytes) -> tuple[int, int, int]:
    """Return height, width and channels of a baseline JPEG with one scan.

    Raises:
        RemoteProtocolError: If it is anything else.
    """
    shape: tuple[int, int, int] | None = None
    position = len(_START)
    if not data.startswith(_START) or not data.endswith(_END):
        raise RemoteProtocolError("an encoded picture is no JPEG, or cut")
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + size]
        if marker == _FRAME and shape is None and len(body) >= 6:
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            shape = (height, width, body[5])
        elif marker == _SCAN:
            is_whole = shape is not None and bool(body) and body[0] == shape[2]
            # In what follows every byte FF is stuffed with a 00, so a marker is one.
            if shape is None or not is_whole or data.find(b"\xff\xda", position + 2 + size) >= 0:
                raise RemoteProtocolError("a JPEG must have one frame and one scan")
            return shape
        elif marker not in _OTHERS or size < 2:
            break
        position += 2 + size
    raise RemoteProtocolError("an encoded picture is no baseline JPEG")


# Depth


def _encode_depth(depth: NDArray[Any]) -> bytes:
    import lz4.block

    millimetres = depth if depth.dtype == np.uint16 else _in_millimetres(depth)
    # Low bytes first, then high ones: these hardly change from pixel to pixel.
    halves = np.empty((2, millimetres.size), np.uint8)
    flat = millimetres.reshape(-1)
    np.copyto(halves[0], flat, casting="unsafe")
    np.copyto(halves[1], flat >> np.uint16(8), casting="unsafe")
    encoded: bytes = lz4.block.compress(halves, store_size=False)
    return encoded


def _in_millimetres(depth: NDArray[Any]) -> NDArray[np.uint16]:
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is far, and NaN is told by fmax
        scaled = np.multiply(depth, np.float32(_MILLIMETRES), dtype=np.float32, casting="same_kind")
        np.rint(scaled, out=scaled)
        np.fmax(scaled, 0, out=scaled)  # 0 of NaN
        np.minimum(scaled, _MOST_MILLIMETRES, out=scaled)
    millimetres: NDArray[np.uint16] = scaled.astype(np.uint16)
    return millimetres


def _decode_depth(spec: ArraySpec, encoded: NDArray[Any], out: NDArray[Any]) -> None:
    import lz4.block

    count = out.size
    try:
        data = lz4.block.decompress(encoded.data, uncompressed_size=2 * count)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise RemoteProtocolError(f"{spec.name!r} is damaged depth: {error}") from error
    if len(data) != 2 * count:
        raise RemoteProtocolError(
            f"{spec.name!r} should be depth of {2 * count} bytes, and it is one of {len(data)}"
        )
    halves = np.frombuffer(data, np.uint8).reshape(2, count)
    millimetres = halves[1].astype(np.uint16)
    millimetres <<= np.uint16(8)
    millimetres |= halves[0]
    target = out.reshape(-1)
    if out.dtype == np.uint16:
        np.copyto(target, millimetres)
    else:
        wide = np.result_type(out.dtype, np.float32)  # a float16 knows no 65535
        np.divide(millimetres, _MILLIMETRES, out=target, dtype=wide, casting="same_kind")
