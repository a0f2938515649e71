"""Whose turn it is on a session that several threads use: one call at a time.

Who waits for a turn waits no longer than its own deadline, and then hears what is going on; the
session is not touched by that. A turn within a turn would read the answer that the outer one
waits for, so it is refused: a callback or a signal handler may try.

A step may be sent by one call and received by another. In between its turn is parked: it is
nobody's to take but of the call that receives, or closes; and a heartbeat may be sent meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from remote_env.errors import DeadlineExceededError, LocalProtocolError

__all__ = ["Turns"]


class Turns:
    """Hands out turns. Safe to use from any thread."""

    def __init__(self, url: str) -> None:
        """Nobody has a turn yet.

        Args:
            url: Of the robot, for messages.
        """
        self._url = url
        # Guards all below. The condition is told of an end; to enter it takes three times as long.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._owner: int | None = None  # whoever compares it with itself sees its own value
        self._parked_by: int | None = None
        self._is_lent = False
        self._waiting = 0  # for a change; nobody is told where nobody waits
        self._doing = ""
        self._since = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has a turn, in a call further up its stack."""
        return self._owner == threading.get_ident()

    @property
    def is_parked(self) -> bool:
        """Whether a turn is parked."""
        return self._parked_by is not None

    def try_take(self, what: str, timeout: float, *, may_be_parked: bool = False) -> bool:
        """Take a turn if there is one in time; whoever got one calls ``release``.

        Args:
            what: The call, for whoever waits behind it.
            timeout: In seconds; 0 does not wait.
            may_be_parked: Whether to take also one that is parked.
        """
        if self.is_mine:
            return False
        with self._lock:
            if not self._is_free(may_be_parked=may_be_parked) and not self._wait_until(
                lambda: self._is_free(may_be_parked=may_be_parked), timeout
            ):
                return False
            self._owner, self._parked_by = threading.get_ident(), None
            self._doing, self._since = what, time.monotonic()
            return True

    def _is_free(self, *, may_be_parked: bool) -> bool:
        is_parked = self._parked_by is not None
        return self._owner is None and not self._is_lent and (may_be_parked or not is_parked)

    def _wait_until(self, is_so: Callable[[], bool], timeout: float) -> bool:
        """Wait for a change, with the lock."""
        self._waiting += 1
        try:
            return self._changed.wait_for(is_so, min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            self._waiting -= 1

    def _tell(self) -> None:
        if self._waiting:
            self._changed.notify_all()

    def release(self) -> None:
        """End a turn that was taken, also if it is parked now."""
        with self._lock:
            self._owner = self._parked_by = None
            self._tell()

    @contextlib.contextmanager
    def take(self, what: str, timeout: float) -> Iterator[float]:
        """Take a turn for a ``with`` block, which gets what is left of the timeout, in seconds.

        Args:
            what: The call, for whoever waits behind it.
            timeout: In seconds.

        Raises:
            LocalProtocolError: If the calling thread has a turn already.
            DeadlineExceededError: If others took too long; the session goes on.
        """
        left = self.wait_for(what, timeout)
        try:
            yield left
        finally:
            self.release()

    def wait_for(self, what: str, timeout: float) -> float:
        """Take a turn, as ``take``; whoever got it calls ``release``, or ``park``."""
        with self._lock:
            if self._owner is None and self._parked_by is None and not self._is_lent:
                self._owner = threading.get_ident()
                self._doing, self._since = what, time.monotonic()
                return timeout
        if self.is_mine:
            raise LocalProtocolError(
                f"{what}() in the middle of {self._doing}(), from a callback or a signal handler: "
                f"{self._url} answers one call after the other. Use another client, or "
                "remote_env.emergency_stop(url) to stop the robot"
            )
        if self._parked_by == threading.get_ident():
            raise LocalProtocolError(
                f"{what}() after a step was sent to {self._url} and before its answer was "
                "received; call receive_step() first (of a RobotClient: finish_step()), or use "
                "remote_env.emergency_stop(url) to stop the robot"
            )
        began_at = time.monotonic()
        if not self.try_take(what, timeout):
            raise DeadlineExceededError(
                f"{what}() had no turn within {timeout:.3g} s: another thread has waited in "
                f"{self.going_on()} at {self._url}. The session goes on. Use another client, or "
                "remote_env.emergency_stop(url) to stop the robot",
                waited=timeout,
            )
        return max(timeout - (time.monotonic() - began_at), 0.001)

    def park(self) -> None:
        """Leave the turn that the calling thread has to the call that will ``take_back``."""
        with self._lock:
            self._owner, self._parked_by = None, threading.get_ident()
            self._tell()

    def take_back(self, timeout: float) -> bool:
        """Go on with the turn that is parked, on any thread; then call ``release``.

        Args:
            timeout: How long a heartbeat may hold it up, in seconds.

        Returns:
            Whether there is one.
        """
        with self._lock:
            if self._is_lent:
                self._wait_until(lambda: not self._is_lent, timeout)
            if self._parked_by is None or self._is_lent:
                return False
            self._owner, self._parked_by = threading.get_ident(), None
            return True

    @contextlib.contextmanager
    def lend(self) -> Iterator[bool]:
        """Use the session for a moment if no call does; the block gets whether it may."""
        with self._lock:
            may_use = self._owner is None and not self._is_lent
            if may_use:
                self._is_lent = True
        try:
            yield may_use
        finally:
            if may_use:
                with self._lock:
                    self._is_lent = False
                    self._tell()

    def going_on(self) -> str:
        """Say what the newest turn is for, and since when."""
        return f"{self._doing}() for {time.monotonic() - self._since:.1f} s"
