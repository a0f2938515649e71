"""The newest observation, between the thread that receives and those who ask for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from remote_env.errors import RemoteEnvError
from remote_env.protocol import Value

__all__ = ["Inbox", "Observed", "StoppedError"]


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What an observer got.

    Attributes:
        arrays: By stream name, with the shapes, dtypes and units of the robot's streams; the
            caller's own, writable.
        episode: Which one the robot is in; 0 before the first.
        step: Steps executed in it.
        time: The robot's clock when this was taken, in seconds.
        ages: By stream, how long before that it was measured, in seconds; infinity if never.
        sequences: By stream, how often it was published; 0 is never, and its array is zeros.
        dropped: Observations so far that were due and that this observer did not get: not
            sent because the line was slow, or replaced by a newer one before it was asked for.
        remote: What the robot's side says: who commands, whether the robot is stopped.
    """

    arrays: dict[str, NDArray[Any]]
    episode: int
    step: int
    time: float
    ages: dict[str, float]
    sequences: dict[str, int]
    dropped: int
    remote: dict[str, Value]


class StoppedError(Exception):
    """There is nothing more to come, and nothing is wrong."""


class Inbox:
    """Holds one observation at most.

    Attributes:
        stopped: Set when it is the end.
    """

    def __init__(self) -> None:
        # Guards everything below; told when any of it changes. Reentrant: the collector may
        # finalize an observer, and so stop this, on the very thread that holds it.
        self._changed = threading.Condition(threading.RLock())
        self._newest: Observed | None = None
        self._replaced = 0
        self._failure: RemoteEnvError | None = None
        self._wakers: list[Callable[[], None]] = []
        self._is_stopped = False
        self.stopped = threading.Event()

    def put(self, observed: Observed) -> None:
        """Take a newer one."""
        with self._changed:
            if self._newest is not None:
                self._replaced += 1
            self._newest = replace(observed, dropped=observed.dropped + self._replaced)
            self._wake()

    def fail(self, error: RemoteEnvError) -> None:
        """Take what ended it all."""
        with self._changed:
            self._failure = error
            self._wake()

    def stop(self) -> None:
        """End it; what was not taken is thrown away."""
        with self._changed:
            self._is_stopped = True
            self._wake()
        self.stopped.set()

    def _wake(self) -> None:
        wakers, self._wakers = self._wakers, []
        self._changed.notify_all()
        for wake in wakers:
            wake()

    def take(self) -> Observed:
        """Wait for one that is newer than the last.

        Raises:
            StoppedError: If it was stopped.
            RemoteEnvError: If it failed.
        """
        with self._changed:
            while (observed := self._take()) is None:
                self._changed.wait()
            return observed

    def take_nowait(self, *, wake: Callable[[], None]) -> Observed | None:
        """Return one that is newer than the last, or None; then ``wake`` is called once.

        Who no longer waits for that must say so with ``forget``.
        """
        with self._changed:
            observed = self._take()
            if observed is None:
                self._wakers.append(wake)
            return observed

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake``. Idempotent."""
        with self._changed, contextlib.suppress(ValueError):
            self._wakers.remove(wake)

    def _take(self) -> Observed | None:
        if self._is_stopped:
            raise StoppedError
        observed, self._newest = self._newest, None
        if observed is None and self._failure is not None:
            raise self._failure
        return observed
