"""The control thread: it owns the hardware, and every call of the robot's code is made here.

Requests come in through a mailbox; what came of them goes out through the request's own
``finish``, called on this thread, which also encodes the reply.

In lockstep the thread does what it is asked and nothing else; no clock is read. In realtime

* an action is applied at once, the observation is taken at the end of the control period in
  which it came, then the reply leaves;
* periods are absolute (``ticks.py``); those that were missed are counted, never made up for;
* when the last action is older than its lifetime, the robot is told to hold, here, in the
  thread that writes to the motors, whatever the network does. A ``hold`` that fails is tried
  again every period.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from remote_env.errors import (
    ActionRefusedError,
    EpisodeOverError,
    LeaseError,
    RemoteEnvError,
    RobotFaultError,
    SensorError,
    error_from_wire,
)
from remote_env.protocol.wiretypes import EndReason
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env_server.driver import Driver, text_of
from remote_env_server.episode import Episode
from remote_env_server.requests import (
    Captured,
    HoldRequest,
    Request,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
)
from remote_env_server.robot import Robot
from remote_env_server.safety import ActionWatchdog
from remote_env_server.ticks import TickClock

__all__ = ["ControlLoop"]

logger = logging.getLogger(__name__)

_CALIBRATION = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)


@dataclass(frozen=True, slots=True)
class _PendingStep:
    request: StepRequest
    applied_at: float
    due: float
    tick: int
    held: float


class ControlLoop:
    """Runs one robot on one thread."""

    def __init__(self, robot: Robot, mode: Mode, *, sensor_timeout: float) -> None:
        """Prepare; ``start`` starts the thread.

        Args:
            robot: Constructed, not opened.
            mode: Who owns time.
            sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
        """
        self._driver = Driver(robot)
        self._mode = mode
        self._is_realtime = mode is Mode.REALTIME
        self._sensor_timeout = sensor_timeout
        self._mailbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="remote-env control", daemon=True)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._episode = Episode(0, max_steps=None)
        self._episode.end(EndReason.SERVER_SHUTDOWN)
        self._pending: _PendingStep | None = None
        self._watchdog = ActionWatchdog(0.0)
        self._hold_again_at = math.inf
        self._ticks = TickClock(1.0, anchor=0.0)
        self._period = 0.0

    # Called from other threads

    @property
    def spec(self) -> RobotSpec:
        """What the robot is; known once started."""
        return self._driver.spec

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Open the robot; returns when it is open and described.

        Raises:
            RemoteEnvError: If the robot cannot be described.
            Exception: Whatever the robot's ``open`` raised.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            if isinstance(self._failure, Exception):
                raise self._failure
            raise RobotFaultError(f"the robot's open() raised {self._failure!r}")

    def ask_to_stop(self) -> None:
        """Ask the thread to hold and close the robot, and to end; does not wait."""
        self._stopping.set()
        self._mailbox.put(None)

    def stop(self, timeout: float = 5.0) -> None:
        """Hold and close the robot, and end the thread. Idempotent.

        Args:
            timeout: How long to wait for the robot's code, in seconds.
        """
        self.ask_to_stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            if self._thread.is_alive():
                logger.error("the robot's code still blocks %.0f s after the stop", timeout)

    def submit(self, request: Request) -> None:
        """Hand a request over; never blocks. Safe from any thread."""
        if self._ready.is_set() and not self._thread.is_alive():
            if not isinstance(request, HoldRequest):
                request.finish(RobotFaultError("the robot's server is stopping"))
            return
        self._mailbox.put(request)

    # The thread

    def _run(self) -> None:
        try:
            self._driver.open(self._mode)
            self._period = self.spec.control_period
            if self._is_realtime:
                self._warn_without_hold()
                self._watchdog = ActionWatchdog(self.spec.action_lifetime)
                self._ticks = TickClock(self._period, anchor=time.monotonic())
        except BaseException as error:
            self._failure = error
            self._driver.close()
            return
        finally:
            self._ready.set()
        try:
            self._serve()
        finally:
            try:
                if self._is_realtime:
                    self._hold()
            finally:
                self._driver.close()

    def _warn_without_hold(self) -> None:
        if type(self._driver.robot).hold is Robot.hold:
            logger.warning(
                "%s has no hold(): nothing stops it when the learner falls silent. Implement it, "
                "with an explicit 'pass' if this robot cannot move",
                self.spec.name,
            )

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve_next()
            except Exception:  # a bug of ours; the thread that can hold must live
                logger.critical("the control loop failed and goes on", exc_info=True)
                self._end_episode(EndReason.ROBOT, must_hold=True, cause="the server failed")

    def _serve_next(self) -> None:
        request = self._next_request()
        match request:
            case ResetRequest():
                self._answer(request, self._reset)
            case StepRequest():
                self._answer(request, self._step_realtime if self._is_realtime else self._step)
            case HoldRequest():
                self._end_episode(EndReason.LINK_LOST)
        if self._is_realtime:
            self._keep_time(time.monotonic())

    def _next_request(self) -> Request | None:
        wake_at = math.inf
        if self._is_realtime:
            due = self._pending.due if self._pending else math.inf
            wake_at = min(due, self._watchdog.deadline, self._hold_again_at)
        try:
            if wake_at == math.inf:
                return self._mailbox.get()
            return self._mailbox.get(timeout=max(0.0, wake_at - time.monotonic()))
        except queue.Empty:
            return None

    def _keep_time(self, now: float) -> None:
        if self._watchdog.is_expired(now) or now >= self._hold_again_at:
            logger.debug("no action for %.0f ms: hold", self._watchdog.lifetime * 1e3)
            self._hold()
            self._watchdog.hold(now)
        pending = self._pending
        if pending is not None and now >= pending.due:
            self._pending = None
            self._answer(pending.request, lambda request: self._end_step(request, pending))
            self._ticks.note_done(pending.tick, pending.due, time.monotonic())

    def _answer(self, request: Any, work: Callable[[Any], Any]) -> None:
        """Do the work of a request and tell what came of it, also if it fails."""
        try:
            result = work(request)
        except (EpisodeOverError, ActionRefusedError, LeaseError) as error:
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
        self._end_episode(EndReason.ROBOT, must_hold=True, cause=text_of(error))
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

    # What is asked

    def _reset(self, request: ResetRequest) -> ResetResult:
        if not request.is_wanted():
            # Who gave up, left or lost the lease does not make the robot move any more.
            raise LeaseError(
                "the robot was taken over while this reset waited; call env.reset()",
                code="robot.lease.lost",
            )
        self._end_episode(EndReason.OPERATOR)
        if self._hold_again_at < math.inf and not self._hold():
            raise RobotFaultError("hold() fails, and a robot that cannot hold is not reset")
        robot = self._driver.robot
        robot.set_subscribed(frozenset(request.streams))
        began_at = robot.now()
        info = self._driver.reset(request.seed, request.options)
        self._watchdog.rest()
        self._episode = Episode(self._episode.number + 1, max_steps=robot.max_episode_steps)
        captured = self._wait_for_observation(request.streams, began_at, ready_at=robot.now())
        captured.remote["seed_applied"] = bool(robot.seedable and request.seed is not None)
        return ResetResult(self._episode.number, captured, info, robot.simulated_latency)

    def _wait_for_observation(
        self, streams: tuple[str, ...], began_at: float, *, ready_at: float
    ) -> Captured:
        """Take the first observation of which every stream was captured after the reset."""
        deadline = time.monotonic() + self._sensor_timeout
        while True:
            tick = self._ticks.next_after(time.monotonic())[0] - 1 if self._is_realtime else 0
            captured = self._driver.observe(tick)
            missing = [
                name for name in streams if not self._is_fresh(captured, name, began_at, ready_at)
            ]
            if not missing:
                return captured
            if not self._is_realtime or time.monotonic() > deadline:
                raise self._silent(captured, missing)
            if self._stopping.wait(0.001):
                raise RobotFaultError("the robot's server stopped during the reset")

    def _is_fresh(self, captured: Captured, name: str, began_at: float, ready_at: float) -> bool:
        published = captured.fields[name]
        if self.spec.stream(name).kind in _CALIBRATION:
            return True
        if not self._is_realtime:
            return published.sequence > 0
        # What the robot's own reset published is fresh, also if it did so before returning.
        is_ours = published.thread == threading.get_ident()
        return published.stamp >= (began_at if is_ours else ready_at)

    def _silent(self, captured: Captured, missing: list[str]) -> SensorError:
        name = missing[0]
        published = captured.fields[name]
        after = f" within {self._sensor_timeout:g} s" if self._is_realtime else ""
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        if published.sequence == 0:
            what = f"did not deliver once{after} after the reset; check the cable and the thread"
        else:
            age = captured.time - published.stamp
            what = (
                f"did not deliver again{after} after the reset, its newest is {age:.3g} s old by "
                "its stamp, which must be on the clock of now(); check the cable and the thread"
            )
        return SensorError(
            f"{name!r}{others} {what} that publishes it, or choose other streams with "
            "streams=[...]",
            code="robot.sensor.silent",
        )

    def _step(self, request: StepRequest) -> StepResult:
        self._episode.check(number=request.episode, step=request.step)
        self._driver.apply_action(request.action, simulated_time=request.step * self._period)
        return self._end_step(request, None)

    def _step_realtime(self, request: StepRequest) -> None:
        self._episode.check(number=request.episode, step=request.step)
        now = time.monotonic()
        tick, due = self._ticks.next_after(now)
        self._driver.apply_action(request.action, simulated_time=0.0)
        # After it: an action that the driver refuses keeps nothing alive.
        held = self._watchdog.feed(now)
        self._pending = _PendingStep(request, now, due, tick, held)

    def _end_step(self, request: StepRequest, pending: _PendingStep | None) -> StepResult:
        robot = self._driver.robot
        captured = self._driver.observe(pending.tick if pending else request.step)
        outcome = self._driver.judge(captured.observation)
        terminated, truncated = self._episode.advance(outcome)
        if pending is not None:
            captured.remote["held"] = pending.held
            captured.remote["overruns"] = self._ticks.overruns
            captured.remote["action_age"] = time.monotonic() - pending.applied_at
            if terminated or truncated:
                self._watchdog.rest()
                if not self._hold():
                    raise RobotFaultError("hold() failed at the end of the episode")
        reason = self._episode.end_reason
        return StepResult(captured, outcome, terminated, truncated, reason, robot.simulated_latency)

    def _end_episode(self, reason: EndReason, *, must_hold: bool = False, cause: str = "") -> None:
        """End the episode, if there is one; in realtime the robot then holds."""
        must_hold = must_hold or self._episode.end_reason is None
        self._episode.end(reason, cause=cause)
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._finish(
                pending.request,
                EpisodeOverError(
                    "another learner reset the robot during this step; call env.reset()"
                    if reason is EndReason.OPERATOR
                    else f"the episode ended during this step: {reason.value}; call env.reset()"
                ),
            )
        if self._is_realtime and must_hold:
            self._hold()
            self._watchdog.rest()

    def _hold(self) -> bool:
        """Tell the robot to hold. If that fails the episode is over, and it is tried again.

        Returns:
            Whether it holds.
        """
        holds = self._driver.hold()
        if holds:
            self._hold_again_at = math.inf
        else:
            self._episode.end(EndReason.ROBOT, cause="hold() failed")
            self._hold_again_at = time.monotonic() + self._period
        return holds
