"""Requests and answers over a connection that outlives its links.

A ``Link`` may die without a word: a cable, a host, a router. Here that is noticed by our own
clock, and within a fraction of a second: whoever waits for an answer sends pings meanwhile,
which the server's network thread answers whatever the robot does. When nothing at all comes in,
the link is aborted, another one is opened, and the same request is sent again, by its id, so
that it is executed once.

Not safe from several threads, but for ``give_up`` and ``break_link``; ``client.py`` hands out
turns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from remote_env.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    RemoteEnvError,
    RemoteProtocolError,
    TransportError,
    VersionMismatchError,
)
from remote_env.protocol import (
    Bye,
    Cancel,
    Connection,
    Error,
    Message,
    Ping,
    Pong,
    Progress,
    ReleaseStop,
    Repeated,
    Reset,
    ResetDone,
    State,
    StepDone,
    error_of,
)
from remote_env.resuming import SESSION_LASTS, ServerStoppedError
from remote_env.session import CLOSED, MakeHello, Session
from remote_env.transport import Link, join

__all__ = ["Answer", "Channel", "Waiting"]

logger = logging.getLogger(__name__)

# While we wait: how often we ask for a sign of life, in seconds, and how often at least until
# the deadline.
_PING_EVERY: Final = 0.2
_LEAST_PINGS: Final = 4
# How long none may come, in seconds, and in round trips if that is more: for three pings, and
# at the deadline for one.
_PATIENCE: Final = (0.6, 4.0)
_LAST_PATIENCE: Final = (0.3, 2.0)
# How well the system knows when the last byte came, in seconds: two of its ticks.
_IDLE_ERROR: Final = 0.02
# Damage is as good as a lost link, but what is damaged again and again is a bug of somebody's.
_MOST_DAMAGED: Final = 3
# A frame that may not fit into the kernel's buffer, in bytes: sending it may block.
_LARGE: Final = 64 << 10


class _CallbackError(Exception):
    """A callback raised ``reason``."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and where the time went.

    Attributes:
        message: The answer.
        asked_at: When the request was made, on ``time.monotonic``, in seconds.
        sent_at: When it was handed over.
        arrived_at: When the answer was there.
        read_at: When it was decoded.
        resumptions: How often the connection was lost and resumed meanwhile.
    """

    message: Message
    asked_at: float
    sent_at: float
    arrived_at: float
    read_at: float
    resumptions: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait for the answer of a reset.

    Attributes:
        on_progress: Told how far it is: a fraction, or NaN, and a text.
        cancel: Set by another thread to ask for its end.
        reconnect_timeout: How long to look for a server that is lost, in seconds.
    """

    on_progress: Callable[[float, str], None] | None = None
    cancel: threading.Event | None = None
    reconnect_timeout: float = SESSION_LASTS

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self.cancel is not None and self.cancel.is_set()


class Channel(Session):
    """One session with a server, and the requests in it.

    Attributes:
        waiting: How to wait for what is asked next.
    """

    def __init__(
        self,
        url: str,
        make_hello: MakeHello,
        *,
        connect_timeout: float = 5.0,
        is_brief: bool = False,
    ) -> None:
        """Prepare; ``open`` connects. See ``Session``."""
        super().__init__(url, make_hello, connect_timeout=connect_timeout, is_brief=is_brief)
        self.waiting = Waiting()

    def request(self, make: Callable[[int], Message], *, timeout: float) -> Answer:
        """Ask, and return the answer; resumes the session as often as the link is lost.

        Args:
            make: Makes the request, given its id.
            timeout: For all of it, in seconds.

        Raises:
            RemoteEnvError: What the server reported; the session goes on.
            DeadlineExceededError: With the session ended, because what the robot did is not
                known.
            ConnectionLostError: With the session ended: the link was lost and could not be
                resumed in time (``RobotLostError``). A ``SessionLostError`` if the server is
                there without it, a ``ServerStoppedError`` if it said goodbye.
        """
        asked_at = time.monotonic()
        try:
            answer = self._request(make, asked_at, asked_at + timeout)
            if self._is_given_up:
                self.close(CLOSED)
            return answer
        except (TransportError, RemoteProtocolError):
            if self._is_given_up:
                self.close(CLOSED)
            self.drop()
            raise
        except _CallbackError as error:
            self.close("interrupted")
            raise error.reason from error.reason.__cause__
        except RemoteEnvError:
            if self._connection is not None and self._connection.state is State.CLOSED:
                self.drop()
            raise
        except BaseException:  # Ctrl-C: the robot must not go on with what nobody waits for
            self.close("interrupted")
            raise

    def _request(self, make: Callable[[int], Message], asked_at: float, deadline: float) -> Answer:
        if self._connection is None:
            raise ConnectionLostError(f"not connected to {self.url}; call env.reset()")
        self._check_given_up()
        self._check_goodbye()
        # By now the last link may be gone: then this request is the first on a new one.
        if self._link is None:
            self._resume(self._until(deadline), ConnectionLostError("the link was lost"))
        message = make(self._connection.next_id())
        frame = [join(self._connection.send(message))]
        resumptions = damaged = 0
        while True:
            try:
                sent_at = self._hand_over(frame, deadline)
                return self._wait_for(message, asked_at, sent_at, deadline, resumptions)
            except (ConnectionLostError, RemoteProtocolError) as error:
                if isinstance(error, ServerStoppedError) or self._is_given_up:
                    raise
                if isinstance(error, RemoteProtocolError):
                    damaged += 1
                    if damaged > _MOST_DAMAGED or isinstance(error, VersionMismatchError):
                        raise
                self._cut_lost()
                self._check_goodbye()
                logger.info("%s; resuming", error)
                self._resume(self._until(deadline), error)
                resumptions += 1
            connection = self._connection
            if isinstance(message, ReleaseStop):  # somebody may have pressed it since
                raise ConnectionLostError(
                    f"the connection to {self.url} was lost while the emergency stop was being "
                    "released, so it may be released or not; look, and ask again"
                )
            if not connection.is_waiting_for(message.id):  # asked out of band: ask anew
                message = make(connection.next_id())
                frame = [join(connection.send(message))]

    def _until(self, deadline: float) -> float:
        return min(deadline, time.monotonic() + self.waiting.reconnect_timeout)

    def _hand_over(self, frame: list[bytearray], deadline: float) -> float:
        """Send; return when that began: the clock's bound needs a moment before it left."""
        link = self._link
        assert link is not None
        began_at = time.monotonic()
        if len(frame[0]) < _LARGE:
            link.send(frame)
            return began_at
        # The system takes it as fast as the network does: our deadline ends that.
        timer = threading.Timer(max(0.0, deadline - began_at), link.abort)
        timer.daemon = True
        timer.start()
        try:
            link.send(frame)
        finally:
            timer.cancel()
        return began_at

    def _wait_for(
        self, message: Message, asked_at: float, sent_at: float, deadline: float, resumptions: int
    ) -> Answer:
        link, connection = self._link, self._connection
        assert link is not None
        assert connection is not None
        pinged_at = sent_at
        # When each ping was sent; an answer from before a link broke tells nothing of the clock.
        pings = {message.id: sent_at} if isinstance(message, Ping) and not resumptions else {}
        every = min(_PING_EVERY, max(0.001, (deadline - sent_at) / _LEAST_PINGS))
        can_cancel = isinstance(message, Reset)  # and nothing else
        while True:
            self._check_given_up()
            if can_cancel and self.waiting.is_cancelled:
                can_cancel = False  # once on each link: the last one may have lost it
                link.send(connection.send(Cancel(request=message.id)))
            left = deadline - time.monotonic()
            try:
                frame = link.receive(min(left, every))
            except DeadlineExceededError:
                now = time.monotonic()
                is_over = now >= deadline
                silent_for = self._check_alive(link, connection, sent_at, now, is_over=is_over)
                if is_over:
                    stands = silent_for <= max(2 * every, 2 * self._round_trip)
                    waited = deadline - asked_at
                    raise self._too_late(waited, None if stands else silent_for) from None
                if now - pinged_at >= every:
                    ping, pinged_at = Ping(id=connection.next_id()), now
                    pings[ping.id] = now
                    link.send(connection.send(ping))
                continue
            arrived_at = time.monotonic()
            answer = connection.receive(frame, arrived_at)
            match answer:
                case None | Repeated():
                    continue
                case Bye():
                    raise self._stopped(answer.reason)
                case Error() if answer.id in (0, message.id):
                    raise error_of(answer)
                case Progress():
                    self._tell(answer)
                    continue
                case Pong() if answer.id in pings:  # else it was asked for before this request
                    asked = pings.pop(answer.id)
                    self._learn_clock(asked, answer.time, answer.time, arrived_at)
                case ResetDone() | StepDone() if not resumptions:  # else it may be an old answer
                    self._learn_clock(sent_at, answer.received, answer.sent, arrived_at)
            if answer.id == message.id:
                read_at = time.monotonic()
                return Answer(answer, asked_at, sent_at, arrived_at, read_at, resumptions)

    def _tell(self, progress: Progress) -> None:
        if self.waiting.on_progress is not None:
            try:
                self.waiting.on_progress(progress.fraction, progress.text)
            except Exception as error:  # also one of ours is none of this connection
                raise _CallbackError(error) from None

    def _check_alive(
        self, link: Link, connection: Connection, sent_at: float, now: float, *, is_over: bool
    ) -> float:
        """Return for how long nothing came, in seconds.

        Raises:
            ConnectionLostError: If that is too long; at the deadline one ping without an answer
                is enough, and so is nothing at all since we asked.
        """
        idle_since = now - link.idle_for()
        heard_at = max(connection.last_heard, idle_since)
        patience, trips = _LAST_PATIENCE if is_over else _PATIENCE
        patience = max(patience, trips * self._round_trip)
        is_silent = connection.last_heard <= sent_at and idle_since <= sent_at + _IDLE_ERROR
        silent_for = now - max(heard_at, sent_at)
        if silent_for > patience or (is_over and is_silent):
            raise ConnectionLostError(f"nothing came from {self.url} for {silent_for:.2f} s")
        return silent_for

    def _too_late(self, waited: float, silent_for: float | None) -> DeadlineExceededError:
        what = "the connection stands: the robot is busy or its code hangs"
        if silent_for is not None:
            what = (
                f"nothing else for the last {silent_for:.2f} s: the robot is busy, its code hangs, "
                "or the link was just lost"
            )
        return DeadlineExceededError(
            f"no reply from {self.url} within {waited:.3g} s, and {what}. The session is over, "
            "env.reset() begins anew",
            waited=waited,
        )
