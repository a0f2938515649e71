"""A session with a server: begun, resumed on another link, and ended.

Not safe from several threads, but for ``give_up`` and ``break_link``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Final, Protocol

from remote_env.clock import ClockOffset
from remote_env.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    RemoteEnvError,
    VersionMismatchError,
)
from remote_env.protocol import Bye, Connection, Hello, Message, Role, Welcome
from remote_env.protocol.codec import CLIENT_LIMITS
from remote_env.resuming import (
    RobotLostError,
    Search,
    ServerStoppedError,
    SessionLostError,
    find_goodbye,
    wait_for_welcome,
)
from remote_env.transport import Link, connect

__all__ = ["CLOSED", "MakeHello", "Session"]

logger = logging.getLogger(__name__)

_CLOCK_EVERY: Final = 0.1
CLOSED: Final = "closed by the learner"
# What no further attempt would change.
_FINAL: Final = (AccessDeniedError, ConfigurationError, VersionMismatchError)


class MakeHello(Protocol):
    """Says who we are."""

    def __call__(self, *, id: int, resume: str | None, asking: int) -> Hello:
        """Make the first message on a link; see ``Hello``."""


class Session:
    """One session with a server, and its link of the moment, if it has one.

    Attributes:
        url: Of the server.
        clock: How far the server's monotonic clock is ahead of ours.
        resumptions: How often a link was lost and the session resumed.
        copies: See ``Connection``; for the next link.
    """

    def __init__(
        self,
        url: str,
        make_hello: MakeHello,
        *,
        connect_timeout: float = 5.0,
        is_brief: bool = False,
    ) -> None:
        """Prepare; ``open`` connects.

        Args:
            url: Of the server.
            make_hello: Says who we are.
            connect_timeout: How long it may take to connect again, in seconds.
            is_brief: Whether it is for a few seconds only; see ``transport.connect``.
        """
        self.url = url
        self._connect_timeout = connect_timeout
        self._is_brief = is_brief
        self.copies = True
        self.clock = ClockOffset(window=50)
        self.resumptions = 0
        self._make_hello = make_hello
        self._link: Link | None = None
        self._connection: Connection | None = None
        self._session = ""
        self._goodbye: str | None = None
        self._is_given_up = False
        self._last_hello = 0
        self._clock_at = 0.0
        self._round_trip = 0.0  # the newest
        self._usual_round_trip = 0.0  # the least

    @property
    def has_link(self) -> bool:
        """Whether there is a link, as far as we know."""
        return self._link is not None

    @property
    def carrier(self) -> str:
        """What the link carries frames by; nothing if there is no link."""
        return "" if self._link is None else self._link.carrier

    @property
    def is_open(self) -> bool:
        """Whether there is a session, perhaps one whose link is lost."""
        return self._connection is not None

    def open(self, timeout: float, *, wait: bool = False) -> Welcome:
        """Begin a session.

        Args:
            timeout: For all of it, in seconds.
            wait: Whether to try again, until then, while the server cannot be reached.

        Raises:
            RemoteEnvError: If there is none.
        """
        self.drop()
        self._is_given_up = False
        self.clock = ClockOffset(window=50)  # perhaps of another computer, or restarted
        self._clock_at = 0.0
        deadline = time.monotonic() + timeout
        if wait:
            welcome = self._find(deadline)
        else:
            link = connect(
                self.url,
                timeout=timeout,
                max_frame_size=CLIENT_LIMITS.frame_size,
                is_brief=self._is_brief,
            )
            left = max(deadline - time.monotonic(), 0.001)
            welcome = self._greet(link, left, past=None)
        if self._is_given_up:
            self.close(CLOSED)
            self._check_given_up()
        return welcome

    def _find(self, deadline: float) -> Welcome:
        with self._search(deadline) as search:
            while True:
                self._check_given_up()
                try:
                    return self._try(search, deadline, past=None)
                except _FINAL:
                    raise
                except RemoteEnvError as error:
                    if time.monotonic() >= deadline:
                        raise
                    search.wait(error)

    def drop(self) -> None:
        """Forget the session and end its link at once, without a word. Idempotent."""
        self._cut()
        self._connection = None
        self._session = ""
        self._goodbye = None

    def abandon(self) -> None:
        """Forget the session without touching the link: in a fork it is our parent's."""
        self._link = self._connection = None
        self._session = ""

    def say(self, message: Message) -> None:
        """Send what has no answer.

        Raises:
            ConnectionLostError: If there is no link. The next request resumes it, or the one
                whose answer is not read yet: it may lie there.
        """
        if self._link is None or self._connection is None:
            raise ConnectionLostError(f"there is no connection to {self.url}")
        link, frame = self._link, self._connection.send(message)
        with self._noticing_loss():
            link.send(frame)

    def serve_control_frames(self) -> None:
        """Answer the pings of the link, while nobody waits for an answer.

        Raises:
            ConnectionLostError: As ``say``.
        """
        if self._link is not None:
            with self._noticing_loss():
                self._link.serve_control_frames()

    @contextlib.contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLostError:
            if self._connection is not None and not self._connection.unanswered:
                self._cut_lost()
            raise

    def close(self, reason: str) -> None:
        """Say goodbye, if that can be done at once, and end the session. Idempotent."""
        link = self._link
        if link is not None:
            try:
                self.say(Bye(reason=reason))
                self._link = None
                link.close()
            except RemoteEnvError as error:
                logger.debug("no proper goodbye to %s: %s", self.url, error)
        self.drop()

    def give_up(self) -> None:
        """Let whoever waits for an answer say goodbye and end the session soon.

        It gets a ``ConnectionLostError``. Safe to call from any thread.
        """
        self._is_given_up = True

    def break_link(self) -> None:
        """End the link under whoever uses it. Safe to call from any thread."""
        link = self._link
        if link is not None:
            link.abort()

    def _check_given_up(self) -> None:
        """End what nobody waits for.

        Raises:
            ConnectionLostError: If somebody called ``give_up``.
        """
        if self._is_given_up:
            raise ConnectionLostError(f"{self.url}: close() was called in the middle of this call")

    def _cut(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()

    def _cut_lost(self) -> None:
        """End a link that broke, and note a goodbye that came before it broke."""
        if self._link is not None and self._goodbye is None:
            self._goodbye = find_goodbye(self._link)
        self._cut()

    def _check_goodbye(self) -> None:
        """Do not look for a server that said goodbye.

        Raises:
            ServerStoppedError: If it did.
        """
        if self._goodbye is not None:
            raise self._stopped(self._goodbye)

    def _stopped(self, goodbye: str) -> ServerStoppedError:
        return ServerStoppedError(f"{self.url} said goodbye: {goodbye}")

    def _resume(self, deadline: float, why: RemoteEnvError) -> None:
        """Get a new link for the same session, with attempts until the deadline.

        Raises:
            ConnectionLostError: If that cannot be done.
        """
        past = self._connection
        assert past is not None
        with self._search(deadline) as search:
            last = why
            while time.monotonic() < deadline:
                self._check_given_up()
                try:
                    welcome = self._try(search, deadline, past=past)
                except _FINAL:
                    raise
                except RemoteEnvError as error:
                    last = error
                    if search.has_nobody(error):
                        lost = f"lost {self.url}: {why}, then {error}"
                        raise ConnectionLostError(lost) from error
                    search.wait(error)
                    continue
                if not welcome.resumed:
                    raise SessionLostError(
                        f"lost {self.url} ({why}); it is back and does not know this session any "
                        "more"
                    )
                self.resumptions += 1
                return
        raise RobotLostError(f"lost {self.url} ({why}) and could not resume: {last}")

    def _search(self, deadline: float) -> Search:
        most = self._connect_timeout  # what was enough to connect once
        return Search(self.url, deadline, round_trip=self._usual_round_trip, most=most)

    def _try(self, search: Search, deadline: float, *, past: Connection | None) -> Welcome:
        link = search.link()
        left = max(deadline - time.monotonic(), 0.001)
        try:
            return self._greet(link, min(search.greeting, left), past=past)
        except DeadlineExceededError:
            search.be_patient()
            raise

    def _greet(self, link: Link, timeout: float, *, past: Connection | None) -> Welcome:
        """Begin or resume the session on a new link, which is aborted if that fails."""
        asking = 0 if past is None else past.unanswered
        try:
            connection = Connection(Role.CLIENT, now=time.monotonic(), copies=self.copies)
            if past is not None:
                connection.adopt(past, asking=asking)
                self._last_hello = max(self._last_hello, past.next_id() - 1)
            self._last_hello += 1
            hello = self._make_hello(
                id=self._last_hello, resume=self._session if past else None, asking=asking
            )
            sent_at = time.monotonic()
            link.send(connection.send(hello))
            welcome = wait_for_welcome(
                link, connection, url=self.url, timeout=timeout, stopped=self._stopped
            )
        except BaseException:
            link.abort()
            raise
        self._round_trip = time.monotonic() - sent_at  # a link that was lost may be slower now
        self._usual_round_trip = self._usual_round_trip or self._round_trip
        if past is not None and not welcome.resumed:
            link.abort()
            return welcome
        self._link, self._connection, self._session = link, connection, welcome.session
        return welcome

    def _learn_clock(
        self,
        sent: float,
        received: float,
        answered: float,
        arrived: float,
        *,
        lay_there: bool = False,
    ) -> None:
        """Learn from an exchange, ten times a second at most; see ``ClockOffset.add``.

        Args:
            sent: When the question left, on our clock, in seconds.
            received: When it came, on theirs.
            answered: When the answer left, on theirs.
            arrived: When it was read, on ours.
            lay_there: Whether it may have been there long before.
        """
        if arrived - self._clock_at < _CLOCK_EVERY:
            return
        self._clock_at = arrived
        if self.clock.add(sent, received, answered, arrived):
            estimate = self.clock.estimate(arrived)
            assert estimate is not None
            self._usual_round_trip = estimate.round_trip
            most = (arrived - sent) - (answered - received)
            self._round_trip = min(self._round_trip, most) if lay_there else most
