"""A session that several threads use: kept alive between their calls, and closed when it is left.

Calls take turns (``turns.py``). One in progress is a sign of life; between them, and between the
two halves of a step, ``keeper.py`` sends heartbeats. Who forgets to close returns the lease all
the same; and a fork leaves the session to its parent.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import weakref
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, Self, TypeAlias, TypeVar

from remote_env.arguments import check_timeout
from remote_env.asking import Answer, Waiting
from remote_env.closing import close_soon, take_last_turn
from remote_env.errors import DeadlineExceededError, LocalProtocolError, RemoteEnvError
from remote_env.keeper import keep_alive, stop_keeping
from remote_env.polling import PolledChannel
from remote_env.protocol import Heartbeat, Message, Release
from remote_env.protocol.records import record
from remote_env.session import MakeHello
from remote_env.spec import RobotSpec
from remote_env.turns import Turns

__all__ = ["HEARTBEAT_TAKES", "Begun", "Make", "SharedSession", "lets_go"]

logger = logging.getLogger(__name__)

_RELEASE_TIMEOUT: Final = 1.0
# How long a heartbeat takes at most, in seconds, unless it is stuck.
HEARTBEAT_TAKES: Final = 0.05

T = TypeVar("T", bound=Message)
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="SharedSession")
Make: TypeAlias = Callable[[int], Message]  # a request, given its id


def lets_go(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a call that Ctrl-C ends leave no turn behind, between whichever lines it comes."""

    @functools.wraps(call)
    def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(self, *args, **kwargs)
        except Exception:
            raise
        except BaseException:
            self._let_go()
            raise

    return guarded


@record(frozen=True, slots=True)
class Begun:
    """A call in two halves, of which the first was made.

    Attributes:
        make: Makes its request.
        at: When it was called, on ``time.monotonic``, in seconds.
        timeout: For all of it, in seconds.
    """

    make: Make
    at: float
    timeout: float


class SharedSession:
    """A session with a robot server. Safe to use from several threads: calls queue up.

    Attributes:
        url: Of the robot.
        spec: What the robot is; known once connected.
        capabilities: What its server can do beyond the minimum; known once connected.
    """

    spec: RobotSpec

    def __init__(self, url: str, make_hello: MakeHello, *, connect_timeout: float) -> None:
        """Prepare; ``connect`` connects.

        Args:
            url: Of the robot.
            make_hello: Says who we are.
            connect_timeout: For everything until the robot is described, in seconds.
        """
        check_timeout("connect_timeout", connect_timeout)
        self.url = url
        self._connect_timeout = connect_timeout
        self._channel = PolledChannel(url, make_hello, connect_timeout=connect_timeout)
        self._turns = Turns(url)
        self._spec_hash = ""
        self.capabilities: frozenset[str] = frozenset()
        self._may_hold_lease = False
        self._pid = os.getpid()
        self._finalizer: weakref.finalize[..., SharedSession] | None = None
        self._begun: Begun | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a session; its link may be lost, which the next call finds out."""
        return self._channel.is_open

    @lets_go
    def connect(self, *, timeout: float | None = None, wait: bool = False) -> RobotSpec:
        """Connect, and learn what the robot is. Does nothing if connected.

        Args:
            timeout: In place of ``connect_timeout``, in seconds.
            wait: Whether to look for a server that is not there until the timeout has passed,
                and to say so in the log.

        Raises:
            ConfigurationError: If the url is malformed.
            ConnectFailedError: If no robot server answers there.
            AccessDeniedError: If the server refuses this client.
            VersionMismatchError: If the server speaks another wire version.
            DeadlineExceededError: If it does not answer in time.
        """
        if os.getpid() != self._pid:
            self._turns = Turns(self.url)  # a thread of our parent's may have a turn there
        with self._turns.take("connect", timeout or self._connect_timeout) as left:
            if not self._channel.is_open:
                self._pid = os.getpid()
                self._may_hold_lease = False
                welcome = self._channel.open(left, wait=wait)
                # Who forgets to close returns the lease all the same, at the latest at exit.
                if self._finalizer is not None:  # of the session before
                    self._finalizer.detach()
                self._finalizer = weakref.finalize(
                    self,
                    close_soon,
                    self._pid,
                    functools.partial(self._channel.close, "forgotten by the learner"),
                )
                try:
                    self.spec = RobotSpec.from_welcome(welcome)
                except BaseException:
                    self._channel.drop()
                    raise
                self._spec_hash = welcome.spec_hash
                self.capabilities = frozenset(welcome.capabilities)
                keep_alive(self)
                logger.info("connected to %s at %s", self.spec.name, self.url)
            return self.spec

    @property
    def carrier(self) -> str:
        """What carries observations: ``"TCP"``, ``"Unix socket"``, ``"TLS"``, ``"this process"``.

        ``"shared memory and TCP"`` if large ones go through memory that both ends share. Nothing
        while there is no link.
        """
        return self._channel.carrier

    @property
    def spec_hash(self) -> str:
        """Changes if and only if a policy could no longer be used."""
        return self._spec_hash

    def heartbeat(self) -> None:
        """Show signs of life, unless a call is in progress, which is one itself."""
        if os.getpid() != self._pid:
            return
        with self._turns.lend() as may_use:
            try:
                if may_use and self._channel.has_link:
                    self._channel.serve_control_frames()
                    if self._may_hold_lease:
                        self._channel.say(Heartbeat())
            except RemoteEnvError as error:
                # The next call will resume, and has somebody to tell if it cannot.
                logger.debug("no heartbeat to %s: %s", self.url, error)

    def close(self) -> None:
        """Return the lease and disconnect. Idempotent; takes at most about two seconds.

        A call of another thread may take one of them; then it ends with a
        ``ConnectionLostError``, and the robot gives up a reset that nobody waits for. So does
        the call from whose callback this is called, when the callback returns.
        """
        if os.getpid() != self._pid:
            # A fork: the connection is our parent's, who goes on with it. So are the turns.
            self._channel.abandon()
            return
        stop_keeping(self)
        if not take_last_turn(self._turns, self._channel):
            return  # the other call closes it as soon as it looks
        try:
            if self._finalizer is not None:
                self._finalizer.detach()
                self._finalizer = None
            if not self._channel.is_open:
                return
            self._channel.forget_asked()  # a step that was sent, and whose answer nobody wants
            try:
                if self._may_hold_lease and self._channel.has_link:
                    self._channel.request(lambda id: Release(id), timeout=_RELEASE_TIMEOUT)
            except RemoteEnvError as error:
                logger.debug("the lease of %s could not be returned: %s", self.url, error)
            self._channel.close("closed by the learner")
        finally:
            self._turns.release()

    @lets_go
    def _ask(self, what: str, make: Make, kind: type[T], timeout: float) -> T:
        self.check_process()
        with self._turns.take(what, timeout) as left:
            message = self._request(make, left).message
            assert isinstance(message, kind)
            return message

    def _request(self, make: Make, timeout: float) -> Answer:
        """Ask; has a turn.

        Raises:
            RemoteEnvError: As ``Channel.request``.
        """
        try:
            return self._channel.request(make, timeout=timeout)
        finally:
            self._note_end()

    def _begin(
        self, what: str, make: Make, timeout: float, *, waiting: Waiting | None = None
    ) -> None:
        """Ask, and leave the turn to ``_go_on``, after which ``_finish`` waits for the answer.

        Raises:
            RemoteEnvError: As ``Turns.wait_for`` and ``Channel.begin``.
        """
        began_at = time.monotonic()
        self.check_process()
        left = self._turns.wait_for(what, timeout)
        try:
            self._begun = Begun(make, began_at, timeout)
            if waiting is not None:
                self._channel.waiting = waiting
            self._channel.begin(make, timeout=left)
            self._turns.park()
        except BaseException:
            if self._channel.is_asking:  # Ctrl-C, in this very moment
                self._channel.close("interrupted")
            self._turns.release()
            self._note_end()
            raise

    def _go_on(self, what: str, timeout: float | None = None) -> Begun:
        """Take the turn back that ``_begin`` left; then call ``_turns.release``.

        Args:
            what: The call, for messages.
            timeout: How long a heartbeat may hold it up, in seconds; ``connect_timeout`` if None.

        Raises:
            LocalProtocolError: If there is none.
            DeadlineExceededError: If a heartbeat does not get through; the turn stays.
        """
        self.check_process()
        timeout = self._connect_timeout if timeout is None else timeout
        if self._turns.take_back(timeout):
            assert self._begun is not None
            return self._begun
        if self._turns.is_parked:
            raise DeadlineExceededError(
                f"{what}(): {self.url} has taken no heartbeat for {timeout:.3g} s; "
                "call it again, or close",
                waited=timeout,
            )
        raise LocalProtocolError(f"{what}() without a step that was sent; send one first")

    def _finish(self, timeout: float | None) -> Answer:
        """Wait for the answer to what was begun; has its turn back.

        Raises:
            RemoteEnvError: As ``Channel.finish``.
        """
        try:
            return self._channel.finish(timeout=timeout)
        finally:
            self._note_end()

    def _let_go(self) -> None:
        """End the session if an interrupted call left a turn, or a request that nobody has."""
        if self._turns.is_mine or (
            self._channel.is_asking and self._turns.try_take("close", HEARTBEAT_TAKES)
        ):
            try:
                self._channel.close("interrupted")
            finally:
                self._turns.release()

    def _note_end(self) -> None:
        if not self._channel.is_open:
            stop_keeping(self)

    def check_process(self) -> None:
        """Refuse to be used in a fork; to be called before a turn is waited for.

        Whoever had it when the process was forked does not exist there to let it go.

        Raises:
            LocalProtocolError: In a fork.
        """
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                f"this connection to {self.url} belongs to process {self._pid}, from which this "
                "one was forked; make the environment in the process that uses it"
            )

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
