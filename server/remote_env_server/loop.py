"""What the control thread does: resets, steps, periods, holds. Every method is for that thread.

In lockstep it does what it is asked and nothing else; no clock decides anything. Otherwise

* periods are absolute (``ticks.py``); those that were missed are counted, never made up for;
* ``realtime``: an action is applied at once, and the observation is taken at the end of the
  control period in which it came;
* ``delayed``: at the end of that period the observation is taken first, then the action is
  applied; so the delay from an observation to the action that answers it is always the same;
* when the last action is older than its lifetime, the robot is told to hold, here, in the
  thread that writes to the motors, whatever the network does.

The emergency stop comes before everything in the mailbox. A ``hold`` or ``stop`` that fails is
tried again every period, also in lockstep.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

from remote_env.errors import (
    ActionRefusedError,
    EmergencyStopError,
    EpisodeOverError,
    LeaseError,
    RemoteEnvError,
    ResetCancelledError,
    RobotFaultError,
    SensorError,
    error_from_wire,
)
from remote_env.protocol.wiretypes import EndReason, OnStale
from remote_env.spec import Mode
from remote_env_server.core import stopped_by
from remote_env_server.driver import Driver, text_of
from remote_env_server.ending import tell_end, watch_over
from remote_env_server.episode import Episode
from remote_env_server.freshness import FreshnessJudge, Stale
from remote_env_server.loop_statistics import LoopStatistics
from remote_env_server.moving import Mover
from remote_env_server.requests import (
    Breakdown,
    Captured,
    HoldRequest,
    PendingStep,
    Request,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
    Watch,
)
from remote_env_server.resetting import wait_for_first_observation
from remote_env_server.robot import Robot
from remote_env_server.showcase import Showcase
from remote_env_server.ticks import TickClock
from remote_env_server.timing import Inbox, wait_until

__all__ = ["Loop"]

logger = logging.getLogger(__name__)

# A hold that fails is tried again every control period, which in lockstep is no time of ours.
_SHORTEST_RETRY: Final = 0.005
# What a learner is refused by, as a rule before anything moved.
_REFUSALS: Final = (EpisodeOverError, ActionRefusedError, LeaseError, EmergencyStopError)
# Not to be applied any more, in the delayed mode.
_NOBODY_WAITED: Final = ActionRefusedError(
    "the connection was lost before the action was applied, and the robot holds. It did not move",
    code="robot.action.expired",
    retryable=True,
)


class Loop:
    """One robot's episodes, one request at a time.

    Attributes:
        robot, driver: The robot, and its code.
        episode: Where the present episode stands.
        watch: What its learner observes.
        latest: The newest observation that was taken, or None.
        statistics: What happened so far.
        pressed_by: Who pressed the emergency stop, or None; written by other threads.
        to_obey: Who did so since it was obeyed last, perhaps to release it before the robot's
            code returned.
        presses: How often it was pressed; written by other threads.
        stopped_at_press: At which of these the robot's ``stop`` returned last.
        showcase: What observers may see of it.
        mover: What moves it; known once opened.
        ticks: The control periods.
    """

    mover: Mover

    def __init__(
        self, robot: Robot, mode: Mode, *, sensor_timeout: float, is_stopping: Callable[[], bool]
    ) -> None:
        self.robot = robot
        self.driver = Driver(robot)
        self.episode = Episode(0, max_steps=None)
        self.episode.end(EndReason.SERVER_SHUTDOWN)
        self.watch = Watch()
        self.latest: Captured | None = None
        self.statistics = LoopStatistics()
        self.pressed_by: str | None = None
        self.to_obey: str | None = None
        self.presses = 0
        self.stopped_at_press = 0
        self.showcase = Showcase()
        self._mode = mode
        self._is_realtime = mode is not Mode.LOCKSTEP
        self._sensor_timeout = sensor_timeout
        self._is_stopping = is_stopping
        self._judge = FreshnessJudge(())
        self._pending: PendingStep | None = None
        self._hold_again_at = math.inf
        self.ticks = TickClock(1.0, anchor=0.0)
        self._period = 0.0

    def open(self) -> None:
        """Open the robot and learn what it is.

        Raises:
            BaseException: As ``Driver.open``.
        """
        self.driver.open(self._mode)
        spec = self.driver.spec
        self._judge = FreshnessJudge(spec.streams)
        self.mover = Mover(self.driver, self._judge)
        self._period = spec.control_period
        if not self._is_realtime:
            return
        self.ticks = TickClock(self._period, anchor=time.monotonic())
        if type(self.robot).hold is Robot.hold:
            logger.warning(
                "%s has no hold(): nothing stops it when the learner falls silent. Implement it, "
                "with an explicit 'pass' if this robot cannot move",
                spec.name,
            )
        self._hold()  # the process before this one may have been killed while it moved

    def close(self) -> None:
        """Hold and close the robot."""
        try:
            if self._is_realtime or self.to_obey is not None:
                self._hold()
        finally:
            self.driver.close()

    def fail(self) -> None:
        """Hold, after a bug of ours."""
        self._end_episode(EndReason.ROBOT, must_hold=True, cause="the server failed")

    def serve_next(self, mailbox: Inbox[Request | None]) -> None:
        """Wait for the next request or the next thing to do in time, and do it."""
        due = self._pending.due if self._pending else math.inf
        wake_at = min(due, self.mover.watchdog.deadline, self._hold_again_at)
        self.serve(wait_until(wake_at, mailbox))

    def serve(self, request: Request | None) -> None:
        """Do what is asked for, and what is due."""
        self._obey_emergency_stop()
        match request:
            case StepRequest():
                self._answer(request, self._begin_step if self._is_realtime else self._step)
            case ResetRequest():
                self._answer(request, self._reset)
            case HoldRequest(reason=None):
                self._hold_for_now()
            case HoldRequest(reason=EndReason() as reason):
                self._end_episode(reason)
                self.robot.set_view(None)  # nobody has it: nothing is encoded for nobody
        self._keep_time(time.monotonic())
        if self.showcase.has_changed():
            self.robot.set_subscribed(self.showcase.watched | frozenset(self.watch.streams))
            self.showcase.show(self.latest, self.episode, self.driver.spec)

    def _obey_emergency_stop(self) -> None:
        by = self.to_obey
        if by is not None:
            self.to_obey = None  # only then: it may be pressed in this moment
            self._end_episode(EndReason.EMERGENCY_STOP, is_emergency=True, cause=f"pressed by {by}")

    def _keep_time(self, now: float) -> None:
        watchdog = self.mover.watchdog
        if watchdog.is_expired(now):
            self.statistics.expired += 1
            self._hold()
            watchdog.hold(now)
            logger.debug("no action for %.0f ms: hold", watchdog.lifetime * 1e3)
        elif now >= self._hold_again_at:
            self._hold()
        pending = self._pending
        if pending is not None and now >= pending.due:
            self._pending = None
            self.statistics.lateness.record(now - pending.due)
            self._answer(pending.request, lambda request: self._end_step(request, pending))
            self.ticks.note_done(pending.tick, pending.due, time.monotonic())

    def _answer(self, request: Any, work: Callable[[Any], Any]) -> None:
        """Do the work of a request and tell what came of it, also if it fails."""
        try:
            result = work(request)
        except _REFUSALS as error:
            result = error
        except RemoteEnvError as error:
            result = self._end_badly(error)
        except Exception as error:  # a bug of ours; the robot must not pay for it
            logger.exception("%s failed in the server itself", type(request).__name__)
            result = self._end_badly(RobotFaultError(f"the robot's server failed: {error!r}"))
        if result is not None:
            self._finish(request, result)

    def _end_badly(self, error: RemoteEnvError) -> RemoteEnvError:
        """End the episode for an error; return what the learner is told."""
        reason = EndReason.STALE_SENSOR if isinstance(error, SensorError) else EndReason.ROBOT
        self._end_episode(reason, must_hold=True, cause=text_of(error))
        self.episode.is_told = True
        if not self._is_realtime:
            return error
        fate = (
            "The robot holds"
            if self._hold_again_at == math.inf
            else "hold() FAILED TOO: the robot may still move; use its emergency stop"
        )
        told = f"{text_of(error).rstrip('.')}. {fate}"
        # By its code: the class may be the author's own, with arguments of its own.
        return error_from_wire(error.code, told, retryable=error.retryable)

    def _finish(self, request: Any, result: Any) -> None:
        try:
            request.finish(result)
        except Exception as error:
            logger.warning("the answer to a request could not be sent", exc_info=True)
            why = RobotFaultError(f"what the robot returned cannot be sent: {text_of(error)}")
            try:
                request.finish(self._end_badly(why))
            except Exception:
                logger.exception("nor could the reason")

    # Resets

    def _reset(self, request: ResetRequest) -> ResetResult:
        taken_at = time.monotonic()
        self._check_wanted(request)
        self._end_episode(EndReason.OPERATOR)
        if self._hold_again_at < math.inf and not self._hold():
            raise RobotFaultError("hold() fails, and a robot that cannot hold is not reset")
        self._check_wanted(request)  # again: the robot's hold() may have taken long
        try:
            return self._begin_episode(request, taken_at)
        except _REFUSALS:  # because nobody waits for it any more
            self._end_episode(EndReason.ROBOT, must_hold=True)
            raise

    def _begin_episode(self, request: ResetRequest, taken_at: float) -> ResetResult:
        robot = self.robot
        self.watch = request.watch
        robot.set_subscribed(self.showcase.watched | frozenset(request.watch.streams))
        request.watch.view.forget()
        robot.set_view(request.watch.view)
        began_at = robot.now()
        info = self.driver.reset(
            request.seed,
            request.options,
            tell=request.tell,
            is_cancelled=lambda: self._is_unwanted(request),
        )
        self._check_wanted(request)
        self.mover.forget_motion()
        limits = [n for n in (robot.max_episode_steps, request.max_steps) if n is not None]
        episode = Episode(self.episode.number + 1, max_steps=min(limits, default=None))
        captured = wait_for_first_observation(
            self.driver,
            request.watch.streams,
            began_at=began_at,
            ready_at=robot.now(),
            timeout=self._sensor_timeout,
            tick_of=self._present_tick,
            check=lambda: self._check_wanted(request),
        )
        self._find_stale(captured)
        self.episode = episode
        self._note(captured)
        captured.remote["seed_applied"] = bool(robot.seedable and request.seed is not None)
        return ResetResult(
            episode.number,
            captured,
            info,
            robot.simulated_latency,
            Breakdown(taken_at - request.received_at, time.monotonic() - taken_at),
        )

    def _is_unwanted(self, request: ResetRequest) -> bool:
        return (
            request.cancelled.is_set()
            or self.pressed_by is not None
            or self._is_stopping()
            or not request.is_wanted()
        )

    def _check_wanted(self, request: ResetRequest) -> None:
        """Do not move, or stop moving, for a reset that nobody waits for.

        Raises:
            EmergencyStopError: If the emergency stop is pressed.
            ResetCancelledError: If the server stops.
            RobotError: As ``ResetRequest.check_wanted``.
        """
        if self.pressed_by is not None:
            raise stopped_by(self.pressed_by)
        request.check_wanted()
        if self._is_stopping():
            raise ResetCancelledError("the robot's server stopped during the reset")

    def _present_tick(self) -> int:
        if not self._is_realtime:
            return 0
        return self.ticks.next_after(time.monotonic())[0] - 1

    # Steps

    def _step(self, request: StepRequest) -> StepResult:
        """Execute a step in lockstep."""
        taken_at = time.monotonic()
        step = PendingStep(request, taken_at, due=taken_at, tick=request.step)
        if self._is_over(request):
            return self._tell_end()
        self.mover.apply(step, taken_at, self.latest)
        return self._end_step(request, step)

    def _begin_step(self, request: StepRequest) -> StepResult | None:
        """Take up a step in real time; it ends with the control period."""
        taken_at = time.monotonic()
        if self._is_over(request):
            return self._tell_end()
        self.mover.check_in_time(request.received_at, taken_at)
        if self.mover.is_at_rest:
            self.ticks.begin_at(taken_at)
        tick, due = self.ticks.next_after(taken_at)
        step = PendingStep(request, taken_at, due, tick)
        if self._mode is Mode.REALTIME:
            self.mover.apply(step, taken_at, self.latest)
        self._pending = step
        return None

    def _is_over(self, request: StepRequest) -> bool:
        """Whether this step is not executed and told the end of its episode.

        Raises:
            EpisodeOverError: If the step does not follow, or the end was told.
        """
        self._obey_emergency_stop()  # in this moment too
        self.episode.check(number=request.episode, step=request.step)
        return self.episode.end_reason is not None

    def _end_step(self, request: StepRequest, step: PendingStep) -> StepResult:
        if self._is_over(request):
            return self._tell_end()
        started = time.monotonic()
        captured = self.driver.observe(step.tick)
        if self._mode is Mode.DELAYED:
            if self._is_over(request):
                return self._tell_end()
            now = time.monotonic()
            self.mover.check_due(step.due, now)
            self.mover.apply(step, now, self.latest)
            started += step.worked  # counted already
        outcome = self.driver.judge(captured.observation)
        stale = self._find_stale(captured)
        terminated, truncated = self.episode.advance(outcome)
        if stale and self.watch.on_stale is OnStale.TRUNCATE:
            truncated = True
            self.episode.end(EndReason.STALE_SENSOR, cause=str(stale[0]))
            self.episode.is_told = True
        if self._is_realtime:
            captured.remote["held"] = step.held
            captured.remote["overruns"] = self.ticks.overruns
            captured.remote["action_age"] = time.monotonic() - step.applied_at
        if terminated or truncated:
            self.mover.forget_motion()
            if self._is_realtime and not self._hold():
                raise RobotFaultError("hold() failed at the end of the episode")
        self._note(captured)
        ended = time.monotonic()
        waited = started - step.taken_at - step.worked
        step.worked += ended - started
        self.statistics.worked.record(max(0.0, step.worked))
        return StepResult(
            captured,
            outcome,
            terminated,
            truncated,
            self.episode.end_reason,
            self.robot.simulated_latency,
            Breakdown(step.taken_at - request.received_at, step.worked, max(0.0, waited)),
            step.executed,
        )

    def _find_stale(self, captured: Captured) -> tuple[Stale, ...]:
        if not self._is_realtime:
            return ()
        return watch_over(captured, self.watch, self._judge, self.robot.sensors)

    def _note(self, captured: Captured) -> None:
        self.latest = captured
        self.showcase.show(captured, self.episode, self.driver.spec)
        if self._is_realtime:
            self.statistics.note_fields(captured.fields)

    # Ends

    def _tell_end(self) -> StepResult:
        """Return the end of an episode that ended behind the learner's back."""
        return tell_end(self.episode, self.driver, self.latest, self._present_tick())

    def _end_episode(
        self,
        reason: EndReason,
        *,
        must_hold: bool = False,
        is_emergency: bool = False,
        cause: str = "",
    ) -> None:
        """End the episode, if there is one; unless in lockstep, the robot then holds.

        In an emergency and after a fault it holds whether or not there is an episode.
        """
        must_hold = must_hold or self.episode.end_reason is None
        self.episode.end(reason, cause=cause)
        pending, self._pending = self._pending, None
        self.mover.forget_motion()
        if is_emergency or (must_hold and self._is_realtime):
            self._hold(is_emergency=is_emergency)
        if pending is None:
            return
        if reason is EndReason.OPERATOR:
            over = "the robot was released or reset during this step; call env.reset()"
            self._finish(pending.request, EpisodeOverError(over))
        else:
            self._answer(pending.request, lambda request: self._tell_end())

    def _hold_for_now(self) -> None:
        """Hold, and let the episode go on if its learner comes back."""
        if not self._is_realtime or self.episode.end_reason is not None:
            return
        self._hold()
        self.mover.watchdog.hold(time.monotonic())
        if self._mode is Mode.DELAYED and self._pending is not None:
            pending, self._pending = self._pending, None
            self._finish(pending.request, _NOBODY_WAITED)

    def _hold(self, *, is_emergency: bool = False) -> bool:
        """Tell the robot to hold, or to stop if the emergency stop is pressed.

        If that fails the episode is over, and it is tried again.

        Returns:
            Whether it holds.
        """
        self.mover.forget_action()
        self.statistics.holds += 1
        press = self.presses
        is_emergency = is_emergency or self.pressed_by is not None
        holds = self.driver.hold(is_emergency=is_emergency)
        if holds:
            if is_emergency:
                self.stopped_at_press = press
            self._hold_again_at = math.inf
        else:
            self.episode.end(EndReason.ROBOT, cause="hold() failed")
            self._hold_again_at = time.monotonic() + max(self._period, _SHORTEST_RETRY)
        return holds
