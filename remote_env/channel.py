"""Requests and answers over a connection that outlives its links.

A ``Link`` may die without a word: a cable, a host, a router. Here that is noticed by our own
clock, and within a fraction of a second: whoever waits for an answer sends pings meanwhile,
which the server's network thread answers whatever the robot does. When nothing at all comes in,
the link is aborted, another one is opened, and the same request is sent again, by its id, so
that it is executed once.

A request may be made in two halves, to do something else before its answer is there. The first,
``begin``, only sends; whatever breaks, then or later, is for the second, ``finish``, to mend.

Not safe from several threads, but for ``give_up`` and ``break_link``; ``client.py`` hands out
turns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from remote_env.asking import Answer, Asked, Vigil, Waiting
from remote_env.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    TransportError,
    VersionMismatchError,
)
from remote_env.protocol import (
    Buffer,
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
from remote_env.resuming import ServerStoppedError
from remote_env.session import CLOSED, MakeHello, Session
from remote_env.transport import Link

__all__ = ["Channel"]

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
        self._asked: Asked | None = None

    @property
    def is_asking(self) -> bool:
        """Whether there is a request that was begun and not finished."""
        return self._asked is not None

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
        self.begin(make, timeout=timeout)
        try:
            return self.finish()
        except BaseException as error:
            if self._asked is not None:  # Ctrl-C, before it had begun
                self._asked = None
                self._end_for(error)
            raise

    def begin(self, make: Callable[[int], Message], *, timeout: float) -> None:
        """Ask, and do not wait for the answer, which is for ``finish``.

        Blocks until the system has the frame. A link that is lost is mended by ``finish``.

        Args:
            make: Makes the request, given its id.
            timeout: For all of it, until the answer is read, in seconds.

        Raises:
            LocalProtocolError: If this may not be said now, or cannot be written; the session
                goes on.
        """
        if self._asked is not None:
            raise LocalProtocolError("one request after the other; finish the one before first")
        asked_at = time.monotonic()
        try:
            asked = Asked(make, asked_at, asked_at + timeout)
            if self._connection is not None and not self._is_given_up and self._goodbye is None:
                asked.write(self._connection)
                self._hand_over(asked, asked.deadline)
            asked.left_at = time.monotonic()
            self._asked = asked
        except BaseException as error:
            self._end_for(error)
            raise

    def finish(self, *, timeout: float | None = None) -> Answer:
        """Return the answer to what was begun; as ``request``.

        Args:
            timeout: In place of that of ``begin``; counted from there too. Who comes later than
                that, or just before, has up to a second to fetch what is there.
        """
        asked = self._asked
        if asked is None:
            raise LocalProtocolError("nothing was asked; begin a request first")
        try:
            if timeout is not None:
                asked.deadline = asked.asked_at + timeout
            answer = self._get_answer(asked, asked.deadline_at(time.monotonic()))
            if self._is_given_up:
                self.close(CLOSED)
            return answer
        except BaseException as error:
            self._end_for(error)
            raise
        finally:
            self._asked = None

    def forget_asked(self) -> None:
        """Do not wait for the answer to what was begun; the session goes on. Idempotent."""
        self._asked = None

    def drop(self) -> None:
        """See ``Session.drop``."""
        super().drop()
        self._asked = None

    def abandon(self) -> None:
        """See ``Session.abandon``."""
        super().abandon()
        self._asked = None

    def _end_for(self, error: BaseException) -> None:
        """End the session if a request that ended by an error leaves none.

        Raises:
            Exception: What a callback raised.
        """
        match error:
            case TransportError() | RemoteProtocolError():
                if self._is_given_up:
                    self.close(CLOSED)
                self.drop()
            case _CallbackError():
                self.close("interrupted")
                raise error.reason from error.reason.__cause__
            case RemoteEnvError():
                if self._connection is not None and self._connection.state is State.CLOSED:
                    self.drop()
            case _:  # Ctrl-C: the robot must not go on with what nobody waits for
                self.close("interrupted")

    def _get_answer(self, asked: Asked, deadline: float) -> Answer:
        if self._connection is None:
            raise ConnectionLostError(f"not connected to {self.url}; call env.reset()")
        self._check_given_up()
        self._check_goodbye()
        while True:
            try:
                if asked.failure is not None:
                    raise asked.failure
                return self._wait_for(asked, deadline)
            except (ConnectionLostError, RemoteProtocolError) as error:
                self._ask_again(asked, error, deadline)

    def _ask_again(
        self, asked: Asked, error: ConnectionLostError | RemoteProtocolError, deadline: float
    ) -> None:
        """Resume the session, and send the request once more.

        Raises:
            RemoteEnvError: If that cannot be done, or makes no sense.
        """
        if isinstance(error, ServerStoppedError) or self._is_given_up:
            raise error
        if isinstance(error, RemoteProtocolError):
            asked.damaged += 1
            if asked.damaged > _MOST_DAMAGED or isinstance(error, VersionMismatchError):
                raise error
        self._cut_lost()
        self._check_goodbye()
        logger.info("%s; resuming", error)
        self._resume(self._until(deadline), error)
        asked.resumptions += 1
        connection, message = self._connection, asked.message
        assert connection is not None
        assert message is not None
        # Somebody may have pressed it since.
        if isinstance(message, ReleaseStop) and asked.sent_at:
            raise ConnectionLostError(
                f"the connection to {self.url} was lost while the emergency stop was being "
                "released, so it may be released or not; look, and ask again"
            )
        if not connection.is_waiting_for(message.id):  # asked out of band: ask anew
            asked.write(connection)
        self._hand_over(asked, deadline)

    def _until(self, deadline: float) -> float:
        return min(deadline, time.monotonic() + self.waiting.reconnect_timeout)

    def _hand_over(self, asked: Asked, deadline: float) -> None:
        """Send a request; note when that began, because the clock's bound needs such a moment.

        Notes also why it did not leave, if it did not.
        """
        asked.failure = None
        link = self._link
        if link is None:
            asked.failure = ConnectionLostError("the link was lost")
            return
        asked.sent_at = began_at = time.monotonic()
        try:
            if len(asked.frame[0]) < _LARGE:
                link.send(asked.frame)
                return
            # The system takes it as fast as the network does: our deadline ends that.
            timer = threading.Timer(max(0.0, deadline - began_at), link.abort)
            timer.daemon = True
            timer.start()
            try:
                link.send(asked.frame)
            finally:
                timer.cancel()
        except ConnectionLostError as error:
            asked.failure = error

    def _wait_for(self, asked: Asked, deadline: float) -> Answer:
        vigil = self._begin_vigil(asked, deadline)
        while True:
            answer = self._look(asked, vigil, min(deadline - time.monotonic(), vigil.every))
            if answer is not None:
                return answer

    def _begin_vigil(self, asked: Asked, deadline: float) -> Vigil:
        message = asked.message
        assert message is not None
        now = time.monotonic()
        every = min(_PING_EVERY, max(0.001, (deadline - now) / _LEAST_PINGS))
        # An answer from before a link broke tells nothing of the clock.
        pings = {}
        if isinstance(message, Ping) and asked.resumptions == 0:
            pings[message.id] = asked.sent_at
        return Vigil(deadline, now, now, every, pings, can_cancel=isinstance(message, Reset))

    def _look(self, asked: Asked, vigil: Vigil, timeout: float) -> Answer | None:
        """Take what comes next; send a ping if nothing does, and it is time for one.

        Args:
            asked: What was asked.
            vigil: Of who waits, on the link that there is.
            timeout: In seconds; at 0 nothing is waited for.

        Returns:
            The answer, if that is what came.

        Raises:
            RemoteEnvError: As ``finish``, but for links that are lost, which are not resumed.
        """
        message, link, connection = asked.message, self._link, self._connection
        assert message is not None
        assert link is not None
        assert connection is not None
        self._check_given_up()
        if vigil.can_cancel and self.waiting.is_cancelled:
            vigil.can_cancel = False  # once on each link: the last one may have lost it
            link.send(connection.send(Cancel(request=message.id)))
        if timeout > 0:
            try:
                frame: Buffer | None = link.receive(timeout)
            except DeadlineExceededError:
                frame = None
        else:
            frame = link.receive_nowait()
        if frame is None:
            self._bear_silence(asked, vigil, link, connection)
            return None
        return self._take_in(asked, vigil, connection, frame)

    def _bear_silence(self, asked: Asked, vigil: Vigil, link: Link, connection: Connection) -> None:
        """Send a ping if it is time for one.

        Raises:
            ConnectionLostError: If nothing came for too long.
            DeadlineExceededError: If the deadline has passed.
        """
        now, every, pings = time.monotonic(), vigil.every, vigil.pings
        is_over = now >= vigil.deadline
        if not is_over and now - vigil.pinged_at < every:
            return
        silent_for = self._check_alive(link, connection, vigil.came_at, now, is_over=is_over)
        if is_over:
            stands = silent_for <= max(2 * every, 2 * self._round_trip)
            waited = vigil.deadline - asked.asked_at
            raise self._too_late(waited, None if stands else silent_for) from None
        ping, vigil.pinged_at = Ping(id=connection.next_id()), now
        pings[ping.id] = now
        link.send(connection.send(ping))

    def _take_in(
        self, asked: Asked, vigil: Vigil, connection: Connection, frame: Buffer
    ) -> Answer | None:
        """Return the answer, if that is what a frame holds.

        Raises:
            RemoteEnvError: What the server reported, or that the frame is damaged.
        """
        message, sent_at, came_at = asked.message, asked.sent_at, vigil.came_at
        assert message is not None
        arrived_at = time.monotonic()
        answer = connection.receive(frame, arrived_at)
        match answer:
            case StepDone() | ResetDone() if asked.resumptions == 0 and answer.id == message.id:
                # On another link it may be an old answer. And one that lay there unread
                # says how long it took at most.
                lay_there = came_at - sent_at > arrived_at - came_at
                self._learn_clock(
                    sent_at, answer.received, answer.sent, arrived_at, lay_there=lay_there
                )
            case None | Repeated():
                return None
            case Bye():
                raise self._stopped(answer.reason)
            case Error() if answer.id in (0, message.id):
                raise error_of(answer)
            case Progress():
                self._tell(answer)
                return None
            case Pong() if answer.id in vigil.pings:  # else it was asked for before this request
                sent = vigil.pings.pop(answer.id)
                self._learn_clock(sent, answer.time, answer.time, arrived_at)
        if answer.id != message.id:
            return None
        read_at = time.monotonic()
        return Answer(answer, asked.asked_at, sent_at, arrived_at, read_at, asked.resumptions)

    def _tell(self, progress: Progress) -> None:
        if self.waiting.on_progress is not None:
            try:
                self.waiting.on_progress(progress.fraction, progress.text)
            except Exception as error:  # also one of ours is none of this connection
                raise _CallbackError(error) from None

    def _check_alive(
        self, link: Link, connection: Connection, came_at: float, now: float, *, is_over: bool
    ) -> float:
        """Return for how long nothing came, in seconds.

        Raises:
            ConnectionLostError: If that is too long; at the deadline one ping without an answer
                is enough, and so is nothing at all since we came for the answer.
        """
        idle_since = now - link.idle_for()
        heard_at = max(connection.last_heard, idle_since)
        patience, trips = _LAST_PATIENCE if is_over else _PATIENCE
        patience = max(patience, trips * self._round_trip)
        is_silent = connection.last_heard <= came_at and idle_since <= came_at + _IDLE_ERROR
        silent_for = now - max(heard_at, came_at)
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
