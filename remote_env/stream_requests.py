"""What a client wants of a stream. ``requesting.py`` says what the stream then is."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import CODECS, RAW
from remote_env.protocol.values import Value

__all__ = ["AUTO", "QUALITY", "StreamRequest", "read_request"]

AUTO: Final = "auto"
QUALITY: Final = 85
_LARGEST: Final = 1 << 16
_LEAST_RATE: Final = 1e-6  # Hz: what is less has no period that can be computed with


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What to send of one stream, in place of what the robot has.

    The robot's side crops first, then resizes, then makes it grey, then encodes, once for each
    capture and for all clients that ask for the same. Cropping and resizing belong to the camera:
    picture, depth and intrinsics of one camera stay aligned, pixel by pixel, whichever of them
    this is said of. ``every_n`` and ``max_rate`` belong to the stream; a camera's calibration is
    that of its picture. In between the learner has the capture before, with its true age.

    Attributes:
        size: Height and width to shrink to, in pixels, after cropping. Pictures by averaging over
            the area of each new pixel; depth by taking the nearest pixel, because the mean of two
            depths is where nothing is. Nothing is enlarged.
        crop: Top, left, height and width of the part to send, in pixels of the camera.
        grayscale: Whether to send one channel, (height, width, 1): the luma of ITU-R BT.601,
            0.299 R + 0.587 G + 0.114 B, as JPEG and OpenCV have it.
        codec: How it travels: ``"raw"``; ``"jpeg"`` for pictures of 8 bits; ``"depth16"`` for
            depth, in whole millimetres, 0.5 mm off at most and up to 65.535 m; ``"auto"`` for raw
            where that is carried easily, and one of these where it is not. None is ``"raw"``, or
            what is said for all cameras.
        quality: Of JPEG, 1 to 100; 85 if None. A picture of the simulated arm is off by 41 dB
            (PSNR) at 85 and takes a fiftieth of the bytes. From 90 on colours have their full
            resolution.
        max_rate: At most so many captures a second by their stamps, in Hz; None is all.
        every_n: Every so manyth capture. Counted from the reset, in lockstep exactly; in real
            time the newest one that is so many after the last.
    """

    size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    grayscale: bool = False
    codec: str | None = None
    quality: int | None = None
    max_rate: float | None = None
    every_n: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without the robot.

        Raises:
            ConfigurationError: Saying what is wrong.
        """
        object.__setattr__(self, "size", _read_pixels("size", self.size, 2))
        object.__setattr__(self, "crop", _read_pixels("crop", self.crop, 4))
        if not isinstance(self.grayscale, (bool, np.bool_)):
            raise ConfigurationError(f"grayscale must be True or False, not {self.grayscale!r:.40}")
        if not isinstance(self.codec, (str, type(None))) or self.codec not in (None, AUTO, *CODECS):
            offered = ", ".join(map(repr, (*CODECS, AUTO)))
            raise ConfigurationError(f"codec must be one of {offered}, not {self.codec!r:.40}")
        if self.quality is not None and not _is_int(self.quality, 1, 100):
            raise ConfigurationError(f"quality must be from 1 to 100, not {self.quality!r:.40}")
        if not _is_int(self.every_n, 1, 1 << 31):
            raise ConfigurationError(f"every_n must be a whole number from 1, not {self.every_n!r}")
        rate = self.max_rate
        if rate is not None:
            is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
            if not is_number or not _LEAST_RATE <= rate < math.inf:
                raise ConfigurationError(
                    f"max_rate must be a positive number of Hz, not {rate!r:.40}"
                )
            object.__setattr__(self, "max_rate", float(rate))
        object.__setattr__(self, "grayscale", bool(self.grayscale))
        object.__setattr__(self, "every_n", int(self.every_n))

    @property
    def is_paced(self) -> bool:
        """Whether captures are left out."""
        return self.max_rate is not None or self.every_n > 1

    @property
    def changes(self) -> bool:
        """Whether what is sent of a capture is not what the robot has."""
        return bool(self.size or self.crop or self.grayscale or self.codec not in (None, RAW))

    @property
    def form(self) -> StreamRequest:
        """The same without the rates: whoever wants the same form can have the same bytes."""
        return replace(self, max_rate=None, every_n=1)

    def to_wire(self) -> dict[str, Value]:
        """Return what differs from the default, as plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
            if value != getattr(_NOTHING, name)
        }


def read_request(raw: object) -> StreamRequest:
    """Read what ``to_wire`` wrote.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if not isinstance(raw, dict) or not raw.keys() <= {f.name for f in fields(StreamRequest)}:
        known = ", ".join(f.name for f in fields(StreamRequest))
        raise ConfigurationError(f"a request for a stream is a map of {known}, not {raw!r:.80}")
    request = StreamRequest(**raw)
    if request.codec == AUTO:
        raise ConfigurationError("codec 'auto' is for the client to decide; name one")
    return request


def _is_int(value: object, least: int, most: int) -> bool:
    is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_number and least <= int(value) <= most  # type: ignore[call-overload]


def _read_pixels(name: str, given: Any, count: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    what = "(height, width)" if count == 2 else "(top, left, height, width)"
    if (
        not isinstance(given, (tuple, list))
        or len(given) != count
        or not all(_is_int(n, 0, _LARGEST) for n in given)
        or not all(n >= 1 for n in given[-2:])
    ):
        raise ConfigurationError(f"{name} must be {what} in pixels, not {given!r:.60}")
    return tuple(int(n) for n in given)


_NOTHING: Final = StreamRequest()
