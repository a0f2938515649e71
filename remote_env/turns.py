"""Whose turn it is on a session that several threads use: one call at a time.

Who waits for a turn waits no longer than its own deadline, and then hears what is going on; the
session is not touched by that. A turn within a turn would read the answer that the outer one
waits for, so it is refused: a callback or a signal handler may try.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

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
        self._lock = threading.Lock()
        self._owner: int | None = None  # whoever compares it with itself sees its own value
        self._doing = ""
        self._since = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has a turn, in a call further up its stack."""
        return self._owner == threading.get_ident()

    def try_take(self, what: str, timeout: float) -> bool:
        """Take a turn if there is one in time; whoever got one calls ``release``.

        Args:
            what: The call, for whoever waits behind it.
            timeout: In seconds; 0 does not wait.
        """
        timeout = min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        if self.is_mine or not self._lock.acquire(timeout=timeout):
            return False
        self._owner = threading.get_ident()
        self._doing, self._since = what, time.monotonic()
        return True

    def release(self) -> None:
        """End the turn that ``try_take`` gave."""
        self._owner = None
        self._lock.release()

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
        if self.is_mine:
            raise LocalProtocolError(
                f"{what}() in the middle of {self._doing}(), from a callback or a signal handler: "
                f"{self._url} answers one call after the other. Use another client, or "
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
        try:
            yield max(timeout - (time.monotonic() - began_at), 0.001)
        finally:
            self.release()

    def going_on(self) -> str:
        """Say what the newest turn is for, and since when."""
        return f"{self._doing}() for {time.monotonic() - self._since:.1f} s"
