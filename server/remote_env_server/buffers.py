"""What sensors write and snapshots read: the newest capture of each camera and stream.

One lock per camera guards a reference to an immutable record of *one capture*: image, depth,
intrinsics, extrinsics, stamps and sequence number. A writer fills a free pre-allocated slot
outside the lock and swaps the reference inside it, so the lock is held for microseconds and
a reader copies nothing. A slot is free again when nobody refers to it: neither the current
record, nor a snapshot, nor a frame on its way out.

A writer also notes what tells a live sensor from one that only seems so: whether the content
and the stamp are other than before (``freshness.py`` judges by it).
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from remote_env.protocol.pool import REFERENCES_WHEN_FREE
from remote_env.protocol.records import record
from remote_env_server.configs import CameraConfig, ProprioConfig

__all__ = ["CameraBuffer", "CameraRecord", "Field", "ProprioBuffer", "SlotPool"]


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
            if sys.getrefcount(slot) == REFERENCES_WHEN_FREE:
                return slot[...]
        self._slots.append(self._allocate())
        return self._slots[-1][...]

    def _allocate(self) -> NDArray[Any]:
        # Zeros and not empty: touching the pages now is cheaper than in a capture.
        slot = np.empty(self._shape, self._dtype)
        slot.fill(0)
        return slot


@record(frozen=True, slots=True)
class Field:
    """One array as it was published; immutable.

    Attributes:
        array: Read-only.
        stamp: The robot's clock when it was measured, in seconds.
        sequence: How often this field was published; 0 is never.
        thread: Of the publisher.
        arrived_at: When it was published. This and the next two are moments on this machine's
            monotonic clock, whatever clock the stamps are on, and infinity if nobody looked.
        advanced_at: When the first capture with this stamp was published; one with a stamp
            that is earlier than that of the capture before does not count.
        changed_at: When the first capture with this very content was published; infinity if
            the stream may repeat itself.
        repeats: How many captures since then had the same content.
        newest_stamp: The greatest stamp so far.
        forms: What was made of the array for clients that want it otherwise; see ``derived``.
    """

    array: NDArray[Any]
    stamp: float = -math.inf
    sequence: int = 0
    thread: int = 0
    arrived_at: float = math.inf
    advanced_at: float = math.inf
    changed_at: float = math.inf
    repeats: int = 0
    newest_stamp: float = -math.inf
    forms: dict[Any, tuple[NDArray[Any], NDArray[Any]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def derived(self, form: tuple[Any, ...], make: Callable[..., NDArray[Any]]) -> NDArray[Any]:
        """Return what ``make(array, *form)`` returns; made once, for all who want this form.

        Safe from any thread. An array that its author may still write to is made anew each time.
        """
        if self.array.flags.writeable:
            return make(self.array, *form)
        made = self.forms.get(form)
        if made is None or made[0] is not self.array:  # somebody has replaced the array
            made = (self.array, make(self.array, *form))
            self.forms[form] = made
        return made[1]

    def frozen(self) -> Field:
        """Return a field whose array nobody writes to: this one, or a copy."""
        if not self.array.flags.writeable:
            return self
        return replace(self, array=_read_only(self.array.copy()), forms={})

    def followed_by(
        self, array: NDArray[Any], stamp: float, *, now: float, may_repeat: bool = True
    ) -> Field:
        """Return what follows when the calling thread publishes.

        Args:
            array: Read-only, C-contiguous, of the same shape and dtype.
            stamp: The robot's clock when it was measured, in seconds.
            now: This machine's monotonic clock, in seconds.
            may_repeat: Whether the same content is no sign of a frozen sensor; it is then not
                compared.
        """
        changed_at, repeats = math.inf, 0
        if not may_repeat:
            changed_at = now
            if self.sequence and _is_same(self.array, array):
                changed_at, repeats = self.changed_at, self.repeats + 1
        return Field(
            array,
            stamp,
            self.sequence + 1,
            threading.get_ident(),
            arrived_at=now,
            advanced_at=self.advanced_at if stamp <= self.stamp else now,
            changed_at=changed_at,
            repeats=repeats,
            newest_stamp=max(self.newest_stamp, stamp),
        )


@dataclass(slots=True)
class CameraRecord:
    """The newest capture of a camera; nobody changes it.

    Attributes:
        name: Of the camera.
        image: ``(height, width, channels)``.
        depth: ``(height, width)``, or None.
        intrinsics: ``(3, 3)`` float64.
        extrinsics: ``(4, 4)`` float64, camera-to-world.
        streams: The fields by the names of their streams: made once, for all snapshots.
        is_coherent: Whether all fields that were ever updated come from one capture.
    """

    name: str
    image: Field
    depth: Field | None
    intrinsics: Field
    extrinsics: Field
    streams: dict[str, Field] = field(init=False)
    is_coherent: bool = field(init=False)

    def __post_init__(self) -> None:
        fields = self.fields()
        self.streams = {f"{self.name}/{key}": value for key, value in fields.items()}
        self.is_coherent = len({f.stamp for f in fields.values() if math.isfinite(f.stamp)}) <= 1

    def fields(self) -> dict[str, Field]:
        """Return the fields by name."""
        fields = {"image": self.image, "intrinsics": self.intrinsics, "extrinsics": self.extrinsics}
        if self.depth is not None:
            fields["depth"] = self.depth
        return fields


class Preparing(Protocol):
    """Makes what is sent of a capture, before it is published; see ``views.py``."""

    def prepare(self, name: str, field: Field) -> None:
        """Look at a capture of the stream of this name; on the thread that publishes it."""


class CameraBuffer:
    """The newest capture of one camera. Safe to use from any thread.

    Attributes:
        config: What was declared.
        view: Of who is to find its captures prepared; None for nobody. Any thread may set it.

    Owns: one lock, which guards ``_record`` and the pools; held for a swap, never for a copy
    or a comparison.
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
        self.view: Preparing | None = None
        self._lock = threading.Lock()
        self._pools = {name: SlotPool(*shape) for name, shape in shapes.items()}
        initial = {name: _read_only(pool.take()) for name, pool in self._pools.items()}
        self._record = CameraRecord(
            config.name,
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
        before = self.read()
        fields: dict[str, Field] = {}
        while True:
            in_vain, fields = fields, self._following(before, published, stamp)
            self._prepare(fields, in_vain)
            with self._lock:
                record = self._record
                if all(getattr(record, key) is getattr(before, key) for key in fields):
                    self._record = replace(record, **cast("dict[str, Any]", fields))
                    return
            before = record  # another thread has published the same field meanwhile

    def _following(
        self, record: CameraRecord, published: Mapping[str, NDArray[Any]], stamp: float
    ) -> dict[str, Field]:
        now = time.monotonic()
        may_repeat = self.config.may_repeat
        return {
            key: getattr(record, key).followed_by(
                slot, stamp, now=now, may_repeat=may_repeat or key not in ("image", "depth")
            )
            for key, slot in published.items()
        }

    def _prepare(self, fields: Mapping[str, Field], before: Mapping[str, Field]) -> None:
        """Make what is sent of a capture; what was made of it in vain is used again."""
        view = self.view
        if view is None:
            return
        for key, published in fields.items():
            if key in before:
                published.forms.update(before[key].forms)
            view.prepare(f"{self.config.name}/{key}", published)

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
        before = self.read()
        while True:
            now = time.monotonic()
            field = before.followed_by(slot, stamp, now=now, may_repeat=self.config.may_repeat)
            with self._lock:
                if self._field is before:
                    self._field = field
                    return
                before = self._field  # another thread has published meanwhile

    def read(self) -> Field:
        """Return the newest value, by reference."""
        with self._lock:
            return self._field


def _declared(matrix: NDArray[np.float64] | None, size: int) -> Field:
    """Return a calibration as declared; one that is unknown counts as never published."""
    known = np.eye(size) if matrix is None else np.array(matrix)
    return Field(_read_only(known), sequence=0 if matrix is None else 1)


_SAMPLED: Final = 256  # bytes


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays, contiguous and of one shape and dtype, have the same bytes.

    Bytes and not numbers: NaN is then equal to itself. A few hundred of them tell almost any
    two captures apart, in 3 us; all of a picture of 640x480 take 40 us as words of 8 bytes,
    and 94 us as bytes.
    """
    a, b = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
    step = a.size // _SAMPLED | 1  # odd, or it might meet the same few columns in each row
    if a[::step].tobytes() != b[::step].tobytes():
        return False
    if step == 1:
        return True
    end = a.size // 8 * 8
    is_same = np.array_equal(a[:end].view(np.uint64), b[:end].view(np.uint64))
    return is_same and a[end:].tobytes() == b[end:].tobytes()


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
