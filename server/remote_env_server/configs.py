"""What a robot's author declares of cameras and proprioception."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import DTYPES

__all__ = ["CameraConfig", "ProprioConfig"]

# What a stream may miss before it counts as stale: three captures, and what a busy machine
# adds, in seconds.
_PERIODS: Final = 3.0
_SLACK: Final = 0.05


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a {what} needs a name, not {name!r}")
    if "." in name or name in ("type", "keys"):
        raise ConfigurationError(
            f"{what} name {name!r}: dots, 'type' and 'keys' do not work as keys of torch "
            "modules; use another name"
        )


def _check_dtype(dtype: DTypeLike, what: str) -> np.dtype[Any]:
    checked = np.dtype(dtype)
    if checked.str not in DTYPES:
        raise ConfigurationError(f"{what} cannot have dtype {checked}; use {', '.join(DTYPES)}")
    return checked


def _max_age_of(name: str, hz: float, max_age: float | None) -> float:
    """Return after how many seconds a stream is stale; infinity is never.

    Raises:
        ConfigurationError: If the rate or the age makes no sense, or they contradict each other.
    """
    if not 0 <= hz < math.inf:
        raise ConfigurationError(
            f"{name!r}: hz must be 0, for no rate, or a positive number, not {hz}"
        )
    if max_age is None:
        return _PERIODS / hz + _SLACK if hz else math.inf
    is_number = isinstance(max_age, numbers.Real) and not isinstance(max_age, bool)
    if not is_number or not max_age > 0:  # also refuses NaN
        raise ConfigurationError(
            f"{name!r}: max_age must be a positive number of seconds, math.inf for a stream that "
            f"never goes stale, or None for 3 periods of its hz and 50 ms; not {max_age!r:.40}"
        )
    if hz and max_age <= 1.0 / hz:
        raise ConfigurationError(
            f"{name!r}: with a max_age of {max_age:g} s it is stale between any two captures at "
            f"{hz:g} Hz; give it more than their period, {1.0 / hz:.3g} s"
        )
    return float(max_age)


@dataclass(frozen=True, slots=True, eq=False)
class CameraConfig:
    """One camera, as its author declares it.

    Attributes:
        name: Unique; keys of the observation begin with it: ``"wrist_cam/image"``.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        channels: 3 for RGB, 1 for grayscale.
        has_depth: Whether there is a depth image of the same height and width.
        intrinsics: ``(3, 3)`` float64, K in pixels, until it is updated; None is unknown.
        extrinsics: ``(4, 4)`` float64, camera-to-world, translation in metres, until it is
            updated; None is unknown. (OpenCV's extrinsics are the inverse.)
        image_dtype: Of the image.
        depth_dtype: Of the depth image; float32 is in metres along the optical axis,
            0 where unknown.
        max_depth: Largest depth, in metres, if there is one.
        on_request: Whether the camera is left out of the observation unless a client asks
            for it by name.
        hz: Nominal rate; 0 if it has none.
        max_age: After how many seconds without anything new image and depth are stale; None
            is 3 periods of ``hz`` and 50 ms, or never if it has no rate; ``math.inf`` is
            never.
        may_repeat: Whether two captures may be identical. A real camera has noise, so one that
            repeats itself is frozen; a simulator may say True, and so may a camera that can
            see nothing but black.
    """

    name: str
    height: int
    width: int
    channels: int = 3
    has_depth: bool = False
    intrinsics: NDArray[np.float64] | None = None
    extrinsics: NDArray[np.float64] | None = None
    image_dtype: DTypeLike = np.uint8
    depth_dtype: DTypeLike = np.float32
    max_depth: float | None = None
    on_request: bool = False
    hz: float = 0.0
    max_age: float | None = None
    may_repeat: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name, "camera")
        _max_age_of(self.name, self.hz, self.max_age)
        for what in ("height", "width", "channels"):
            if getattr(self, what) < 1:
                raise ConfigurationError(f"camera {self.name!r}: {what} must be at least 1")
        _check_dtype(self.image_dtype, f"the image of camera {self.name!r}")
        _check_dtype(self.depth_dtype, f"the depth of camera {self.name!r}")
        for what, shape in (("intrinsics", (3, 3)), ("extrinsics", (4, 4))):
            if getattr(self, what) is None:
                continue
            matrix = np.array(getattr(self, what), np.float64)
            if matrix.shape != shape:
                raise ConfigurationError(
                    f"camera {self.name!r}: {what} must be {shape}, not {matrix.shape}"
                )
            object.__setattr__(self, what, matrix)

    @property
    def stale_after(self) -> float:
        """After how many seconds image and depth are stale; infinity is never."""
        return _max_age_of(self.name, self.hz, self.max_age)


@dataclass(frozen=True, slots=True, eq=False)
class ProprioConfig:
    """One stream of what the robot feels of itself.

    Attributes:
        name: Unique; the key in the observation.
        size: How many numbers.
        dtype: Of each.
        low: Smallest value, a number or ``(size,)``; None is minus infinity.
        high: Largest value, a number or ``(size,)``; None is infinity.
        unit: For people: ``"rad"``, ``"m/s"``.
        on_request: Whether the stream is left out of the observation unless a client asks
            for it by name.
        hz: Nominal rate; 0 if it has none.
        max_age: After how many seconds without anything new it is stale; None is 3 periods of
            ``hz`` and 50 ms, or never if it has no rate; ``math.inf`` is never.
        may_repeat: Whether two values in a row may be identical, as those of an encoder at rest.
    """

    name: str
    size: int
    dtype: DTypeLike = np.float32
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    unit: str = ""
    on_request: bool = False
    hz: float = 0.0
    max_age: float | None = None
    may_repeat: bool = True

    def __post_init__(self) -> None:
        _check_name(self.name, "proprioception stream")
        _max_age_of(self.name, self.hz, self.max_age)
        if self.size < 1:
            raise ConfigurationError(f"stream {self.name!r}: size must be at least 1")
        _check_dtype(self.dtype, f"stream {self.name!r}")
        for what, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and np.shape(bound) not in ((), (self.size,)):
                raise ConfigurationError(
                    f"stream {self.name!r}: {what} must be a number or have the shape "
                    f"({self.size},), not {np.shape(bound)}"
                )

    @property
    def stale_after(self) -> float:
        """After how many seconds it is stale; infinity is never."""
        return _max_age_of(self.name, self.hz, self.max_age)
