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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from remote_env.agreeing import begin_requests, check_derived
from remote_env.arguments import check_options, check_seed
from remote_env.asking import Answer, Waiting
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LeaseError,
    RemoteProtocolError,
    ResetCancelledError,
)
from remote_env.identity import default_owner, make_hello
from remote_env.protocol import (
    EmergencyStop,
    EmergencyStopped,
    GetStatistics,
    Message,
    OnStale,
    Ping,
    Pong,
    Probe,
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
from remote_env.shared_session import Begun, Make, SharedSession, lets_go
from remote_env.stream_requests import StreamRequest
from remote_env.timing import ClientStatistics, StepTimer, name_parts

__all__ = ["RobotClient"]

logger = logging.getLogger(__name__)

# A lease of a learner that crashed goes stale after 2 s; wait a little longer for it.
_LEASE_PATIENCE: Final = 3.0
_LEASE_RETRY: Final = 0.2

T = TypeVar("T", bound=Message)


class RobotClient(SharedSession):
    """A session with a robot server. Safe to use from several threads: calls queue up.

    Attributes:
        url: Of the robot.
        spec: What the robot is; known once connected.
    """

    def __init__(
        self,
        url: str,
        *,
        role: str = "control",
        token: str | None = None,
        owner: str | None = None,
        connect_timeout: float = 5.0,
        copy: bool = True,
    ) -> None:
        """Prepare; ``connect`` connects.

        Args:
            url: ``ws://host:port``, ``wss://host:port``, ``ws+unix:///path`` or ``inproc://name``.
            role: ``"control"``, or ``"observe"`` for those who never command.
            token: What the server asks for, if it does.
            owner: The name that others are shown while this one commands.
            connect_timeout: For everything until the robot is described, in seconds.
            copy: Whether an array that has not changed is handed out as a copy; if not, arrays
                of streams that are kept (``subscribe``) are read-only.
        """
        if role not in ("control", "observe"):
            raise ConfigurationError(f"role must be 'control' or 'observe', not {role!r:.40}")
        hello = functools.partial(make_hello, role, token, (owner or default_owner())[:200])
        super().__init__(url, hello, connect_timeout=connect_timeout)
        self._channel.copies = copy
        self._timed: tuple[float, ...] = ()
        self._timer = StepTimer()
        self._resets: set[threading.Event] = set()  # of those under way; set to cancel

    def subscribe(
        self,
        streams: Sequence[str],
        *,
        max_ages: Mapping[str, float] | None = None,
        on_stale: OnStale = OnStale.TRUNCATE,
        kept: Sequence[str] | None = None,
        requests: Mapping[str, StreamRequest] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Choose the arrays of every later observation, and their order.

        Args:
            streams: By name.
            max_ages: By stream, from which age on it is stale, in seconds, where that is not
                what the robot declares.
            on_stale: What a step comes to that finds a stale stream, in realtime.
            kept: Of which of these the newest array is kept here, so that the robot sends it
                again only when there is a newer one; if None, large ones that come less often
                than steps, and those asked for less often than they come.
            requests: By stream, what it is to be in place of what the robot has, and how often;
                no codec may be ``"auto"``.
            timeout: In place of ``connect_timeout``, in seconds.

        Raises:
            ConfigurationError: If there is no such stream, or it cannot be what is asked.
            RemoteProtocolError: If the robot's side understands the requests otherwise than we.
            TransportError: If the robot cannot be reached.
        """
        spec, asked = begin_requests(self.spec, requests or {}, self.capabilities)
        ages: dict[str, Value] = dict(max_ages or {})
        if kept is None:
            kept = spec.worth_keeping(streams, spec.control_hz)
        chosen, newest = tuple(streams), tuple(kept)

        def make(id: int) -> Subscribe:
            return Subscribe(
                id, streams=chosen, max_ages=ages, on_stale=on_stale, kept=newest, requests=asked
            )

        answer = self._ask("subscribe", make, Subscribed, timeout or self._connect_timeout)
        try:
            check_derived(spec, answer)
        except RemoteProtocolError:
            self.close()
            raise

    @lets_go
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
        make = self._reset_of(seed, options, take=take, max_steps=max_steps)
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

    @staticmethod
    def _reset_of(
        seed: int | None,
        options: Mapping[str, Value] | None,
        *,
        take: bool,
        max_steps: int | None,
    ) -> Make:
        """Return what makes the request, with options as they are now."""
        return functools.partial(
            Reset,
            seed=check_seed(seed),
            options=check_options(options),
            take=take,
            max_steps=max_steps,
        )

    def _reset_once(self, make: Make, waiting: Waiting, deadline: float) -> ResetDone:
        self.check_process()
        with self._turns.take("reset", deadline - time.monotonic()) as left:
            if waiting.is_cancelled:
                raise ResetCancelledError(f"the reset of {self.url} was cancelled; nothing moved")
            # Before the answer: also a reset that fails half-way leaves us with the lease.
            self._may_hold_lease = True
            self._channel.waiting = waiting
            try:
                return self._note(self._request(make, left), ResetDone)
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

    @lets_go
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
        make = functools.partial(
            Step, episode=episode, step=step, tick=tick, dtypes=tuple(dtypes), action=tuple(action)
        )
        begun = Begun(make, time.monotonic(), timeout)
        self.check_process()
        left = self._turns.wait_for("step", timeout)
        try:
            return self._note(self._request(make, left), StepDone)
        except ActionRefusedError as error:
            return self._step_again(begun, timeout, error)
        finally:
            self._turns.release()

    @lets_go
    def begin_step(
        self,
        action: Sequence[NDArray[Any]],
        *,
        episode: int,
        step: int,
        tick: int,
        dtypes: Sequence[str] = (),
        timeout: float,
    ) -> None:
        """Send an action, and do not wait for what comes of it: ``finish_step`` does.

        Until then this client answers no other call but ``close``, and its lease is kept. A
        connection that breaks is mended by ``finish_step``.

        Args:
            action: As in ``step``.
            episode: As in ``step``.
            step: As in ``step``.
            tick: As in ``step``.
            dtypes: As in ``step``.
            timeout: Until the answer is read, counted from now, in seconds.

        Raises:
            LocalProtocolError: If the step before was not finished; the session goes on.
        """
        make = functools.partial(
            Step, episode=episode, step=step, tick=tick, dtypes=tuple(dtypes), action=tuple(action)
        )
        self._begin("step", make, timeout)

    @lets_go
    def finish_step(self, *, timeout: float | None = None) -> StepDone:
        """Return what came of the action that ``begin_step`` sent.

        Args:
            timeout: In place of that of ``begin_step``, counted from there too, in seconds. Who
                comes later than that has up to a second to fetch what is there.

        Raises:
            LocalProtocolError: If there is none.
            RemoteEnvError: As ``step``.
        """
        begun = self._go_on("finish_step")
        try:
            return self._note(self._finish(timeout), StepDone)
        except ActionRefusedError as error:
            return self._step_again(begun, begun.timeout if timeout is None else timeout, error)
        finally:
            self._turns.release()

    def _step_again(self, begun: Begun, timeout: float, error: ActionRefusedError) -> StepDone:
        """Ask for a step once more that was refused although it was not late; has a turn.

        The server cannot tell an action that was held up from a learner that was silent before
        it. We can: this one was made just now, by our own clock.

        Raises:
            ActionRefusedError: If it was late, or refused for something else.
        """
        age = time.monotonic() - begun.at
        if error.code != "robot.action.expired" or age > self.spec.action_lifetime:
            raise error
        return self._note(self._request(begun.make, max(timeout - age, 0.001)), StepDone)

    @property
    def is_stepping(self) -> bool:
        """Whether a step was begun and not finished."""
        return self._turns.is_parked

    def _note(self, answer: Answer, kind: type[T]) -> T:
        """Return the message, and note where its time went; has a turn."""
        message = answer.message
        assert isinstance(message, kind)
        assert isinstance(message, (ResetDone, StepDone))
        self._timed = self._timer.note(answer, message)
        return message

    @property
    def timing(self) -> dict[str, float]:
        """Where the time of the last reset or step went, in seconds by part."""
        return name_parts(self._timed) if self._timed else {}

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
        self.check_process()
        with self._turns.take("ping", timeout) as left:
            answer = self._request(lambda id: Ping(id), left)
            assert isinstance(answer.message, Pong)
            return answer.arrived_at - answer.sent_at, answer.message.time

    def probe(self, size: int, *, timeout: float = 5.0) -> float:
        """Let the server send so many bytes, at most 262144; return the seconds that took."""
        self.check_process()
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
            carrier=self.carrier,
        )
