"""What sensors write and snapshots read: the newest capture of each camera and stream.

One lock per camera guards a reference to an immutable record of *one capture*: image, depth,
intrinsics, extrinsics, stamps and sequence number. A writer fills a free pre-allocated slot
outside the lock and swaps the reference inside it, so the lock is held for microseconds and
a reader copies nothing. A slot is free again when nobody refers to it: neither the current
record, nor a snapshot, nor a frame on its way out.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import DTYPES

__all__ = [
    "CameraBuffer",
    "CameraConfig",
    "CameraRecord",
    "Field",
    "ProprioBuffer",
    "ProprioConfig",
    "SlotPool",
]


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
        hz: Nominal rate, for people; 0 if it has none.
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

    def __post_init__(self) -> None:
        _check_name(self.name, "camera")
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
        hz: Nominal rate, for people; 0 if it has none.
    """

    name: str
    size: int
    dtype: DTypeLike = np.float32
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    unit: str = ""
    on_request: bool = False
    hz: float = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name, "proprioception stream")
        if self.size < 1:
            raise ConfigurationError(f"stream {self.name!r}: size must be at least 1")
        _check_dtype(self.dtype, f"stream {self.name!r}")
        for what, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and np.shape(bound) not in ((), (self.size,)):
                raise ConfigurationError(
                    f"stream {self.name!r}: {what} must be a number or have the shape "
                    f"({self.size},), not {np.shape(bound)}"
                )


def _references_when_free() -> int:
    """Count what refers to an array that only its pool holds; differs between Pythons."""
    for slot in [np.empty(0)]:
        return sys.getrefcount(slot)
    raise AssertionError


_REFERENCES_WHEN_FREE: Final = _references_when_free()


class SlotPool:
    """Arrays of one shape that are re-used when nobody refers to them any more.

    A taken slot is handed out as a view. While any view of it lives, the slot's reference
    count says so (CPython), so nobody has to give anything back.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, size: int = 3) -> None:
        self._shape = shape
        self._dtype = dtype
        self._slots = [self._allocate() for _ in range(size)]

    def __len__(self) -> int:
        return len(self._slots)

    def take(self) -> NDArray[Any]:
        """Return a free slot's view, growing the pool if none is free.

        Not safe from several threads at once: hold the lock of the owner.
        """
        for slot in self._slots:
            if sys.getrefcount(slot) == _REFERENCES_WHEN_FREE:
                return slot[...]
        self._slots.append(self._allocate())
        return self._slots[-1][...]

    def _allocate(self) -> NDArray[Any]:
        # Zeros and not empty: touching the pages now is cheaper than in a capture.
        slot = np.empty(self._shape, self._dtype)
        slot.fill(0)
        return slot


@dataclass(frozen=True, slots=True)
class Field:
    """One array as it was published; immutable.

    Attributes:
        array: Read-only.
        stamp: The robot's clock when it was measured, in seconds.
        sequence: How often this field was published; 0 is never.
        thread: Of the publisher.
    """

    array: NDArray[Any]
    stamp: float = -np.inf
    sequence: int = 0
    thread: int = 0


@dataclass(frozen=True, slots=True)
class CameraRecord:
    """The newest capture of a camera; immutable.

    Attributes:
        image: ``(height, width, channels)``.
        depth: ``(height, width)``, or None.
        intrinsics: ``(3, 3)`` float64.
        extrinsics: ``(4, 4)`` float64, camera-to-world.
    """

    image: Field
    depth: Field | None
    intrinsics: Field
    extrinsics: Field

    @property
    def is_coherent(self) -> bool:
        """Whether all fields that were ever updated come from one capture."""
        stamps = {f.stamp for f in self.fields().values() if np.isfinite(f.stamp)}
        return len(stamps) <= 1

    def fields(self) -> dict[str, Field]:
        """Return the fields by name."""
        fields = {"image": self.image, "intrinsics": self.intrinsics, "extrinsics": self.extrinsics}
        if self.depth is not None:
            fields["depth"] = self.depth
        return fields


class CameraBuffer:
    """The newest capture of one camera. Safe to use from any thread.

    Owns: one lock, which guards ``_record`` and the pools; held for a swap, never for a copy.
    """

    def __init__(self, config: CameraConfig) -> None:
        self.config = config
        size = (config.height, config.width)
        shapes = {
            "image": ((*size, config.channels), np.dtype(config.image_dtype)),
            "intrinsics": ((3, 3), np.dtype(np.float64)),
            "extrinsics": ((4, 4), np.dtype(np.float64)),
        }
        if config.has_depth:
            shapes["depth"] = (size, np.dtype(config.depth_dtype))
        self._lock = threading.Lock()
        self._pools = {name: SlotPool(*shape) for name, shape in shapes.items()}
        initial = {name: _read_only(pool.take()) for name, pool in self._pools.items()}
        self._record = CameraRecord(
            image=Field(initial["image"]),
            depth=Field(initial["depth"]) if config.has_depth else None,
            intrinsics=_declared(config.intrinsics, 3),
            extrinsics=_declared(config.extrinsics, 4),
        )

    def publish(self, arrays: dict[str, ArrayLike], stamp: float) -> None:
        """Publish some fields of one capture, atomically.

        Copies each array once, outside the lock. Fields that are not named keep their
        arrays and their stamps.

        Args:
            arrays: By field name: ``image``, ``depth``, ``intrinsics``, ``extrinsics``.
            stamp: The robot's clock when the capture was taken, in seconds.

        Raises:
            ValueError: If a shape or dtype does not fit, or the camera has no depth.
        """
        name = self.config.name
        thread = threading.get_ident()
        published = {}
        for key, data in arrays.items():
            if key not in self._pools:
                raise ValueError(
                    f"camera {name!r} was declared without depth; set has_depth=True in its "
                    "CameraConfig"
                )
            with self._lock:
                slot = self._pools[key].take()
            _fill(slot, data, f"{name}/{key}")
            published[key] = slot
        with self._lock:
            record = self._record
            self._record = replace(
                record,
                **{
                    key: Field(slot, stamp, getattr(record, key).sequence + 1, thread)
                    for key, slot in published.items()
                },
            )

    def read(self) -> CameraRecord:
        """Return the newest record, by reference."""
        with self._lock:
            return self._record


class ProprioBuffer:
    """The newest value of one proprioception stream. Safe to use from any thread."""

    def __init__(self, config: ProprioConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._pool = SlotPool((config.size,), np.dtype(config.dtype))
        self._field = Field(_read_only(self._pool.take()))

    def publish(self, data: ArrayLike, stamp: float) -> None:
        """Publish one value; copies it once, outside the lock.

        Raises:
            ValueError: If the shape or dtype does not fit.
        """
        with self._lock:
            slot = self._pool.take()
        _fill(slot, data, self.config.name)
        thread = threading.get_ident()
        with self._lock:
            self._field = Field(slot, stamp, self._field.sequence + 1, thread)

    def read(self) -> Field:
        """Return the newest value, by reference."""
        with self._lock:
            return self._field


def _declared(matrix: NDArray[np.float64] | None, size: int) -> Field:
    """Return a calibration as declared; one that is unknown counts as never published."""
    known = np.eye(size) if matrix is None else np.array(matrix)
    return Field(_read_only(known), sequence=0 if matrix is None else 1)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _fill(slot: NDArray[Any], data: ArrayLike, what: str) -> None:
    given = np.asarray(data)
    if slot.shape == (*given.shape, 1):  # a grayscale image without its channel axis
        given = given[..., np.newaxis]
    if given.shape != slot.shape:
        raise ValueError(f"{what} must have the shape {slot.shape}, not {given.shape}")
    if not np.can_cast(given.dtype, slot.dtype, "same_kind"):
        raise ValueError(f"{what} must be {slot.dtype}, and {given.dtype} would lose values")
    np.copyto(slot, given, casting="same_kind")
    slot.flags.writeable = False
