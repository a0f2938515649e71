"""Looking for a robot that was lost, and what its last link still holds.

How an outage ends is not known, so there are two kinds of attempts. Short ones, one after the
other: what was sent into the outage is lost, TCP sends it again after 1 s, 3 s and 7 s, and a new
attempt is there sooner. Beside them, once a short one took too long, one at a time that is
patient, and more so each time: on a link that is slow no short one ever gets through.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Self

from remote_env.errors import (
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    RemoteEnvError,
)
from remote_env.protocol import Bye, Connection, Error, Welcome, error_of
from remote_env.protocol.codec import CLIENT_LIMITS, Layouts, decode, read_prefix
from remote_env.transport import Link, connect

__all__ = [
    "SESSION_LASTS",
    "RobotLostError",
    "Search",
    "ServerStoppedError",
    "SessionLostError",
    "find_goodbye",
    "wait_for_welcome",
]

logger = logging.getLogger(__name__)

# For so long a server keeps a session whose link is gone, in seconds (docs/protocol.md): to look
# for it longer would find a server that does not know it.
SESSION_LASTS: Final = 30.0
# How long a short attempt takes, in seconds, and in round trips if that is more.
_SHORT: Final = 0.35
_SHORT_IN_ROUND_TRIPS: Final = 6.0
# How much longer the first patient one takes, and how much longer each after the one before.
_FIRST_GROWTH: Final = 4.0
_GROWTH: Final = 2.0
_BACKOFF: Final = (0.01, 0.05)
# A machine that answers, and on which nothing listens any more, has no session to resume.
_REFUSED_FOR: Final = 1.0
# When the log says that we look for the robot, and how often, in seconds.
_TELL_AFTER: Final = 1.0
_TELL_EVERY: Final = 5.0
# How many frames of a lost link are looked through for a goodbye.
_MOST_UNREAD: Final = 16


class ServerStoppedError(ConnectionLostError):
    """The server said goodbye."""


class SessionLostError(ConnectionLostError):
    """The connection is back, or can be, but the server knows nothing of what went before."""


class RobotLostError(ConnectionLostError):
    """The connection was lost, and there was no other in the time allowed for that."""


class Search:
    """Attempts to connect to one robot, until a deadline; a context manager.

    Attributes:
        greeting: How long the server may take to greet back on the link that was returned last,
            in seconds.
    """

    def __init__(self, url: str, deadline: float, *, round_trip: float, most: float) -> None:
        """Prepare.

        Args:
            url: Of the robot.
            deadline: For all of it, on ``time.monotonic``, in seconds.
            round_trip: The usual one; 0 if it is not known.
            most: How long one attempt may take at most, in seconds.
        """
        self._url = url
        self._deadline = deadline
        self._short = max(_SHORT, _SHORT_IN_ROUND_TRIPS * round_trip)
        self._most = max(most, self._short)
        self._patience = min(_FIRST_GROWTH * self._short, self._most)
        self._least_greeting = self.greeting = self._short
        self._backoff = _BACKOFF[0]
        self._began_at = time.monotonic()
        self._told_at = self._began_at + _TELL_AFTER - _TELL_EVERY
        self._refused_since: float | None = None
        # From the patient attempt: its link and how long that took, or None.
        self._found: SimpleQueue[tuple[Link, float] | None] = SimpleQueue()
        self._is_patient_under_way = False
        self._lock = threading.Lock()  # guards _is_over, and what is put into _found
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._is_over = True
        self._take_patient()

    def _take_patient(self) -> tuple[Link, float] | None:
        """Return what the patient attempt found meanwhile; after the end nobody wants it."""
        try:
            found = self._found.get_nowait()
        except Empty:
            return None
        self._is_patient_under_way = False
        if found is not None and self._is_over:
            found[0].abort()
        return found

    def link(self) -> Link:
        """Make a short attempt, or return what a patient one found meanwhile.

        Raises:
            RemoteEnvError: If there is no link.
        """
        found = self._take_patient()
        began_at = time.monotonic()
        if found is None:
            timeout = min(self._short, max(self._deadline - began_at, 0.001))
            try:
                link = connect(self._url, timeout=timeout, max_frame_size=CLIENT_LIMITS.frame_size)
            except ConnectFailedError:
                is_slow = time.monotonic() - began_at >= 0.9 * self._short
                if is_slow and not self._is_patient_under_way:
                    self._try_patiently()
                raise
            found = link, time.monotonic() - began_at
        # TCP and WebSocket took a round trip each, the greeting takes one.
        self.greeting = max(self._least_greeting, 3.0 * found[1])
        return found[0]

    def _try_patiently(self) -> None:
        self._is_patient_under_way = True
        timeout = min(self._patience, max(self._deadline - time.monotonic(), 0.001))
        self._patience = min(_GROWTH * self._patience, self._most)
        threading.Thread(
            target=self._connect, args=(timeout,), name="remote-env connecting", daemon=True
        ).start()

    def _connect(self, timeout: float) -> None:
        began_at = time.monotonic()
        found = None
        try:
            link = connect(self._url, timeout=timeout, max_frame_size=CLIENT_LIMITS.frame_size)
            found = link, time.monotonic() - began_at
        except RemoteEnvError as error:
            logger.debug("not even within %.1f s: %s", timeout, error)
        with self._lock:
            if not self._is_over:
                self._found.put(found)
                return
        if found is not None:
            found[0].abort()

    def be_patient(self) -> None:
        """Give the next greeting more time: a link stood, and nobody greeted back."""
        self._least_greeting = min(_GROWTH * self._least_greeting, self._most)

    def has_nobody(self, error: RemoteEnvError) -> bool:
        """Whether nothing has listened there for a while, ``error`` being the newest failure."""
        if not isinstance(error.__cause__, ConnectionRefusedError):
            self._refused_since = None
            return False
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since >= _REFUSED_FOR

    def wait(self, error: RemoteEnvError) -> None:
        """Wait a moment before the next attempt; say in the log now and then what goes on."""
        now = time.monotonic()
        left = self._deadline - now
        if now - self._told_at >= _TELL_EVERY and left > 0:
            self._told_at = now
            logger.warning("looking for %s, for %.0f s more: %s", self._url, left, error)
        time.sleep(max(0.0, min(random.uniform(0.5, 1.0) * self._backoff, left)))  # noqa: S311
        self._backoff = min(2 * self._backoff, _BACKOFF[1])


def wait_for_welcome(
    link: Link,
    connection: Connection,
    *,
    url: str,
    timeout: float,
    stopped: Callable[[str], ServerStoppedError],
) -> Welcome:
    """Read until the server greets back.

    Raises:
        RemoteEnvError: If it refuses, or does not within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            frame = link.receive(deadline - time.monotonic())
        except DeadlineExceededError:
            raise DeadlineExceededError(
                f"{url} does not answer within {timeout:.3g} s; is the robot's server "
                "overloaded, or stopped?",
                waited=timeout,
            ) from None
        answer = connection.receive(frame, time.monotonic())
        if isinstance(answer, Error):
            raise error_of(answer)
        if isinstance(answer, Bye):
            raise stopped(answer.reason)
        if isinstance(answer, Welcome):
            return answer


def find_goodbye(link: Link) -> str | None:
    """Return the server's last words, if they are among what is unread on a link.

    Past the protocol connection: an answer that is found here too will be asked for again.
    """
    try:
        for _ in range(_MOST_UNREAD):
            frame = link.receive(0.0)
            if read_prefix(frame, CLIENT_LIMITS)[0] == Bye.KIND:
                goodbye = decode(frame, Layouts(), limits=CLIENT_LIMITS)
                assert isinstance(goodbye, Bye)
                return goodbye.reason
    except RemoteEnvError:
        pass  # that was all
    return None
