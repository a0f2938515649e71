"""One session with one robot, for whoever wants more than an environment.

Every call has a deadline, also while it waits for its turn (``turns.py``). A lost link is resumed
within it (``channel.py``), and what was asked is executed once. When a call ends without its
answer all the same, the session is over, because what the robot did is then not known; the next
``connect`` begins anew.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from numpy.typing import NDArray

from remote_env.arguments import check_timeout
from remote_env.channel import Answer, Channel, Waiting
from remote_env.closing import close_soon, take_last_turn
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    ResetCancelledError,
)
from remote_env.identity import default_owner, make_hello
from remote_env.keeper import keep_alive, stop_keeping
from remote_env.protocol import (
    EmergencyStop,
    EmergencyStopped,
    GetStatistics,
    Heartbeat,
    Message,
    OnStale,
    Ping,
    Pong,
    Probe,
    Release,
    ReleaseStop,
    Reset,
    ResetDone,
    Statistics,
    Step,
    StepDone,
    StopReleased,
    Subscribe,
    Subscribed,
    Value,
)
from remote_env.resuming import SESSION_LASTS
from remote_env.spec import RobotSpec
from remote_env.timing import ClientStatistics, StepTimer
from remote_env.turns import Turns

__all__ = ["RobotClient"]

logger = logging.getLogger(__name__)

# A lease of a learner that crashed goes stale after 2 s; wait a little longer for it.
_LEASE_PATIENCE: Final = 3.0
_LEASE_RETRY: Final = 0.2
_RELEASE_TIMEOUT: Final = 1.0

T = TypeVar("T", bound=Message)
Make: TypeAlias = Callable[[int], Message]  # a request, given its id


class RobotClient:
    """A session with a robot server. Safe to use from several threads: calls queue up.

    Attributes:
        url: Of the robot.
        spec: What the robot is; known once connected.
        timing: Where the time of the last reset or step went, in seconds by part; see
            ``ClientStatistics``.
    """

    spec: RobotSpec

    def __init__(
        self,
        url: str,
        *,
        role: str = "control",
        token: str | None = None,
        owner: str | None = None,
        connect_timeout: float = 5.0,
    ) -> None:
        """Prepare; ``connect`` connects.

        Args:
            url: ``ws://host:port``, ``wss://host:port`` or ``inproc://name``.
            role: ``"control"``, or ``"observe"`` for those who never command.
            token: What the server asks for, if it does.
            owner: The name that others are shown while this one commands.
            connect_timeout: For everything until the robot is described, in seconds.
        """
        if role not in ("control", "observe"):
            raise ConfigurationError(f"role must be 'control' or 'observe', not {role!r:.40}")
        check_timeout("connect_timeout", connect_timeout)
        self.url = url
        self.timing: dict[str, float] = {}
        self._connect_timeout = connect_timeout
        self._channel = Channel(
            url,
            functools.partial(make_hello, role, token, (owner or default_owner())[:200]),
            connect_timeout=connect_timeout,
        )
        self._timer = StepTimer()
        self._turns = Turns(url)
        self._resets: set[threading.Event] = set()  # of those under way; set to cancel
        self._may_hold_lease = False
        self._pid = os.getpid()
        self._finalizer: weakref.finalize[..., RobotClient] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a session; its link may be lost, which the next call finds out."""
        return self._channel.is_open

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
                logger.info("connected to %s at %s", self.spec.name, self.url)
            return self.spec

    @property
    def spec_hash(self) -> str:
        """Changes if and only if a policy could no longer be used."""
        return self._spec_hash

    def subscribe(
        self,
        streams: Sequence[str],
        *,
        max_ages: Mapping[str, float] | None = None,
        on_stale: OnStale = OnStale.TRUNCATE,
        timeout: float | None = None,
    ) -> None:
        """Choose the arrays of every later observation, and their order.

        Args:
            streams: By name.
            max_ages: By stream, from which age on it is stale, in seconds, where that is not
                what the robot declares.
            on_stale: What a step comes to that finds a stale stream, in realtime.
            timeout: In place of ``connect_timeout``, in seconds.

        Raises:
            ConfigurationError: If there is no such stream.
            TransportError: If the robot cannot be reached.
        """
        ages: dict[str, Value] = dict(max_ages or {})
        self._ask(
            "subscribe",
            lambda id: Subscribe(id, streams=tuple(streams), max_ages=ages, on_stale=on_stale),
            Subscribed,
            timeout or self._connect_timeout,
        )

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Mapping[str, Value] | None = None,
        take: bool = False,
        max_steps: int | None = None,
        on_progress: Callable[[float, str], None] | None = None,
        timeout: float = 120.0,
        reconnect_timeout: float = SESSION_LASTS,
    ) -> ResetDone:
        """Begin an episode; takes the lease, and waits up to 3 s for one that may be dead.

        Args:
            seed: As in ``gymnasium.Env.reset``.
            options: As in ``gymnasium.Env.reset``.
            take: Whether to take the robot from another owner.
            max_steps: After how many steps to truncate, if the robot does not before.
            on_progress: Called with how far the robot is, a fraction or NaN, and a text;
                logged if None. What it raises ends the reset, and the session.
            timeout: For all of it, in seconds.
            reconnect_timeout: How long to look for a robot that is lost, in seconds.

        Raises:
            LeaseError: If somebody else commands the robot; names the owner.
            EmergencyStopError: If somebody pressed the emergency stop.
            ResetCancelledError: If ``cancel_reset`` was called.
            SensorError: If a subscribed stream does not deliver; names it.
            UnknownOptionError: If the robot does not know an option.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        if seed is not None and not 0 <= int(seed) < 1 << 64:
            raise ConfigurationError(f"seed must be from 0 to 2**64 - 1, not {seed}")
        number = None if seed is None else int(seed)
        plain = None if options is None else dict(options)

        def make(id: int) -> Reset:
            return Reset(id, seed=number, options=plain, take=take, max_steps=max_steps)

        deadline = time.monotonic() + timeout
        patience = min(time.monotonic() + _LEASE_PATIENCE, deadline)
        cancel = threading.Event()  # of this reset, whatever others there are
        waiting = Waiting(on_progress or self._log_progress, cancel, reconnect_timeout)
        self._resets.add(cancel)
        try:
            while True:
                try:
                    return self._reset_once(make, waiting, deadline)
                except LeaseError as error:
                    if not error.retryable or time.monotonic() + _LEASE_RETRY > patience:
                        raise
                    logger.info("%s; trying again", error)
                cancel.wait(_LEASE_RETRY)
        finally:
            self._resets.discard(cancel)

    def _reset_once(self, make: Make, waiting: Waiting, deadline: float) -> ResetDone:
        self._check_process()
        with self._turns.take("reset", deadline - time.monotonic()) as left:
            if waiting.is_cancelled:
                raise ResetCancelledError(f"the reset of {self.url} was cancelled; nothing moved")
            # Before the answer: also a reset that fails half-way leaves us with the lease.
            self._may_hold_lease = True
            keep_alive(self)
            self._channel.waiting = waiting
            try:
                return self._timed(make, ResetDone, left)
            finally:
                self._channel.waiting = Waiting()  # that one may refer to us

    def cancel_reset(self) -> None:
        """End every reset that other threads wait for; they get a ``ResetCancelledError``.

        The robot gives it up as soon as its code asks (``Robot.progress``). One that has not
        begun, because it waits for the lease or for its turn, does not begin.
        """
        for cancel in tuple(self._resets):
            cancel.set()

    def _log_progress(self, fraction: float, text: str) -> None:
        percent = "" if math.isnan(fraction) else f" {fraction:.0%}"
        logger.info("reset of %s:%s %s", self.url, percent, text)

    def step(
        self,
        action: Sequence[NDArray[Any]],
        *,
        episode: int,
        step: int,
        tick: int,
        dtypes: Sequence[str] = (),
        timeout: float,
    ) -> StepDone:
        """Execute one action.

        Args:
            action: One array per leaf of the action space.
            episode: From the ``ResetDone``.
            step: 1 for the first step of the episode.
            tick: Of the observation that this action answers.
            dtypes: Of the arrays, if they are not the agreed ones.
            timeout: In seconds.

        Raises:
            ActionRefusedError: If the robot refuses the action; nothing moved. Its code is
                ``robot.action.expired`` if the action was under way for too long.
            EpisodeOverError: If the episode has ended.
            LeaseError: If somebody else took the robot over.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        asked_at = time.monotonic()

        def make(id: int) -> Step:
            return Step(
                id,
                episode=episode,
                step=step,
                tick=tick,
                dtypes=tuple(dtypes),
                action=tuple(action),
            )

        self._check_process()
        with self._turns.take("step", timeout) as left:
            try:
                return self._timed(make, StepDone, left)
            except ActionRefusedError as error:
                # The server cannot tell an action that was held up from a learner that was silent
                # before it. We can: this one was made just now, by our own clock.
                age = time.monotonic() - asked_at
                if error.code != "robot.action.expired" or age > self.spec.action_lifetime:
                    raise
            return self._timed(make, StepDone, max(timeout - age, 0.001))

    def _timed(self, make: Make, kind: type[T], timeout: float) -> T:
        """Ask, and note where the time went; has a turn."""
        answer = self._request(make, timeout)
        message = answer.message
        assert isinstance(message, kind)
        assert isinstance(message, (ResetDone, StepDone))
        self.timing = self._timer.note(answer, message)
        return message

    def age_of(self, server_time: float) -> tuple[float, float]:
        """Return how long ago something was, and by how much that may be wrong.

        Args:
            server_time: On the server's monotonic clock, in seconds.

        Returns:
            Both in seconds; infinity and infinity before the first answer.
        """
        now = time.monotonic()
        estimate = self._channel.clock.estimate(now)
        if estimate is None:
            return math.inf, math.inf
        return now + estimate.offset - server_time, estimate.error

    def ping(self, *, timeout: float = 5.0) -> tuple[float, float]:
        """Measure a round trip to the server's network thread.

        Returns:
            The round trip, in seconds, and the robot's monotonic clock.
        """
        self._check_process()
        with self._turns.take("ping", timeout) as left:
            answer = self._request(lambda id: Ping(id), left)
            assert isinstance(answer.message, Pong)
            return answer.arrived_at - answer.sent_at, answer.message.time

    def probe(self, size: int, *, timeout: float = 5.0) -> float:
        """Let the server send so many bytes, at most 262144; return the seconds that took."""
        self._check_process()
        with self._turns.take("probe", timeout) as left:
            answer = self._request(lambda id: Probe(id, size=size), left)
            return answer.read_at - answer.sent_at

    def emergency_stop(self, reason: str = "", *, timeout: float = 2.0) -> None:
        """Press the emergency stop; ``robot_statistics`` says whether the robot obeyed.

        While another thread waits for an answer on this client, this queues up behind it, and
        fails after ``timeout``: the function ``emergency_stop(url)`` does not.

        Args:
            reason: For people; up to 500 characters.
            timeout: In seconds.
        """
        why = reason[:500]
        name = "emergency_stop"
        self._ask(name, lambda id: EmergencyStop(id, reason=why), EmergencyStopped, timeout)

    def release_stop(self, *, timeout: float = 2.0) -> bool:
        """Release the emergency stop. Nothing moves by that; the next reset does.

        Returns:
            Whether it was pressed.
        """
        return self._ask(
            "release_stop", lambda id: ReleaseStop(id), StopReleased, timeout
        ).was_pressed

    def robot_statistics(self, *, timeout: float = 5.0) -> dict[str, Value]:
        """Return how the robot's side is doing; see ``docs/protocol.md``."""
        return self._ask(
            "robot_statistics", lambda id: GetStatistics(id), Statistics, timeout
        ).values

    def statistics(self) -> ClientStatistics:
        """Return where the time of the steps so far went."""
        return self._timer.statistics(
            resumptions=self._channel.resumptions,
            clock=self._channel.clock.estimate(time.monotonic()),
        )

    def heartbeat(self) -> None:
        """Show a sign of life, unless a call is in progress, which is one itself."""
        if os.getpid() != self._pid or not self._turns.try_take("heartbeat", 0.0):
            return
        try:
            if self._channel.has_link and self._may_hold_lease:
                self._channel.say(Heartbeat())
        except RemoteEnvError as error:
            # The next call will resume, and has somebody to tell if it cannot.
            logger.debug("no heartbeat to %s: %s", self.url, error)
        finally:
            self._turns.release()

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
            try:
                if self._may_hold_lease and self._channel.has_link:
                    self._channel.request(lambda id: Release(id), timeout=_RELEASE_TIMEOUT)
            except RemoteEnvError as error:
                logger.debug("the lease of %s could not be returned: %s", self.url, error)
            self._channel.close("closed by the learner")
        finally:
            self._turns.release()

    def _ask(self, what: str, make: Make, kind: type[T], timeout: float) -> T:
        self._check_process()
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
            if not self._channel.is_open:
                stop_keeping(self)

    def _check_process(self) -> None:
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

    def __enter__(self) -> RobotClient:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
