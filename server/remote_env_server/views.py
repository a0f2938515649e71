"""What one client gets of the newest captures: in the form and as often as it asked for.

A form of a capture is made once, for all clients, and stays with the capture: whoever wants the
same gets the very same array, so what has not changed is still told by identity
(``leaving_out.py``). The forms that the learner wants are made in the thread that publishes the
capture, before it is published, so a snapshot is whole and the control thread waits for no
encoder. Those that only observers want are made on the observers' thread, when they are sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.pixels import crop, grey, intrinsics_of, nearest, shrink
from remote_env.protocol.arrays import RAW
from remote_env.protocol.compressing import encode_array
from remote_env.spec import RobotSpec, StreamKind
from remote_env.stream_requests import StreamRequest
from remote_env_server.buffers import Field

__all__ = ["View", "derive"]

logger = logging.getLogger(__name__)

# Of the period that is asked for, in which a capture may come too early: cameras jitter.
_EARLY: Final = 0.1
_CALIBRATION: Final = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)


def derive(array: NDArray[Any], kind: StreamKind, request: StreamRequest) -> NDArray[Any]:
    """Return what is sent of a capture: cropped, resized, grey, encoded, in this order.

    Args:
        array: Of one stream.
        kind: What it holds.
        request: Of a spec that was ``requested``, so that it fits.

    Returns:
        Read-only; a new array, or bytes ``(size,)`` uint8 if it is encoded.
    """
    if kind is StreamKind.INTRINSICS:
        assert request.crop is not None
        return _read_only(intrinsics_of(array, request.crop, request.size))
    if request.crop is not None:
        array = crop(array, request.crop)
    if request.size is not None:
        array = (nearest if kind is StreamKind.DEPTH else shrink)(array, request.size)
    if request.grayscale:
        array = grey(array)
    if request.codec not in (None, RAW):
        assert request.codec is not None
        contiguous = np.ascontiguousarray(array)
        return encode_array(request.codec, contiguous, quality=request.quality or 0)
    return _read_only(np.array(array, order="C"))


class View:
    """One client's view of a robot. Each method but ``prepare`` is for one thread at a time.

    Attributes:
        streams: What it is subscribed to.
    """

    def __init__(self, streams: Sequence[str], spec: RobotSpec | None = None) -> None:
        """Begin with nothing seen.

        Args:
            streams: Names, in the order in which they are sent.
            spec: The robot's, as this client ``requested`` it; None for all as it is.
        """
        self.streams = tuple(streams)
        chosen = [] if spec is None else [spec.stream(name) for name in streams]
        self._forms = {s.name: (s.kind, s.request.form) for s in chosen if s.request.changes}
        self._paces = {s.name: _Pace(s.request) for s in chosen if s.request.is_paced}
        # A camera's calibration is that of the picture which the client has.
        leaders = {s.camera: s.name for s in chosen if s.name in self._paces and s.camera}
        leaders |= {s.camera: s.name for s in chosen if s.kind is StreamKind.IMAGE}
        self._following = {
            s.name: leaders[s.camera]
            for s in chosen
            if s.kind in _CALIBRATION and leaders.get(s.camera) in self._paces
        }
        self._held: dict[str, Field] = {}

    def forget(self) -> None:
        """Begin anew: the next captures are due, whatever came before."""
        for pace in self._paces.values():
            pace.forget()
        self._held = {}

    def choose(self, fields: Mapping[str, Field]) -> list[Field]:
        """Return what this client is to have of its streams: the newest, or what it has.

        Args:
            fields: The newest captures, by stream name.
        """
        if not self._paces:
            return [fields[name] for name in self.streams]
        for name, pace in self._paces.items():
            field = fields[name]
            if field.sequence == 0 or (name in self._held and not pace.is_due(field)):
                continue
            pace.note(field)
            self._hold(name, field)
            for follower, leader in self._following.items():
                if leader == name:
                    self._hold(follower, fields[follower])
        return [self._held.get(name) or fields[name] for name in self.streams]

    def _hold(self, name: str, field: Field) -> None:
        self._held[name] = field.frozen()

    def arrays_of(self, chosen: Sequence[Field]) -> tuple[NDArray[Any], ...]:
        """Return the arrays to send of what ``choose`` returned; makes forms that are missing."""
        if not self._forms:
            return tuple([field.array for field in chosen])
        return tuple([self._form(n, f) for n, f in zip(self.streams, chosen, strict=True)])

    def _form(self, name: str, field: Field) -> NDArray[Any]:
        form = self._forms.get(name)
        return field.array if form is None else field.derived(form, derive)

    def prepare(self, name: str, field: Field) -> None:
        """Make the form of a capture that is about to be published. Safe from any thread.

        What fails here is tried again by whoever sends it, and fails there.

        Args:
            name: Of the stream.
            field: The capture.
        """
        if name not in self._forms:
            return
        pace = self._paces.get(name)
        if pace is not None and not pace.is_due(field):
            return
        try:
            self._form(name, field)
        except Exception:
            logger.exception("%r could not be prepared for its learner", name)


class _Pace:
    """Which captures of one stream a client is to have."""

    def __init__(self, request: StreamRequest) -> None:
        self._every_n = request.every_n
        self._period = 1.0 / request.max_rate if request.max_rate else 0.0
        self.forget()

    def forget(self) -> None:
        # One reference, because sensor threads read it: sequence and stamp of the capture that
        # the client has, and the stamp from which on the next one is due.
        self._last: tuple[int, float, float] | None = None

    def is_due(self, field: Field) -> bool:
        last = self._last
        if last is None:
            return True
        sequence, stamp, due = last
        if field.sequence < sequence + self._every_n:
            return False
        return not stamp <= field.stamp < due - _EARLY * self._period

    def note(self, field: Field) -> None:
        # On a grid, so that a rate that does not divide the camera's is held on average.
        stamp, due = field.stamp, field.stamp
        if self._last is not None and abs(stamp - self._last[2]) < self._period:
            due = self._last[2]
        self._last = (field.sequence, stamp, due + self._period)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
