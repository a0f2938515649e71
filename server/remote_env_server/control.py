"""The control thread: it owns the hardware, and every call of the robot's code is made here.

Requests come in through a mailbox; what came of them goes out through the request's own
``finish``, called on this thread, which also encodes and sends the reply.

In lockstep the thread does what it is asked and nothing else; no clock is read. In realtime

* an action is applied at once, the observation is taken at the end of the control period in
  which it came, then the reply leaves;
* periods are absolute, ``anchor + n * period``; after an overrun the anchor moves to now, so
  that missed periods are counted and never made up for;
* when the last action is older than its lifetime, the robot is told to hold, here, in the
  thread that writes to the motors, whatever the network does.
"""

from __future__ import annotations

import asyncio
import inspect
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
    LocalProtocolError,
    RemoteEnvError,
    RobotError,
    RobotFaultError,
    SensorError,
)
from remote_env.protocol.messages import EndReason
from remote_env.protocol.values import Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env_server.buffers import Field
from remote_env_server.describe import describe_robot
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
from remote_env_server.robot import Outcome, Robot
from remote_env_server.safety import ActionWatchdog
from remote_env_server.snapshot import Snapshot
from remote_env_server.ticks import TickClock

__all__ = ["ControlLoop"]

logger = logging.getLogger(__name__)

_CALIBRATION = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)


@dataclass(slots=True)
class _PendingStep:
    request: StepRequest
    due: float
    tick: int
    held: float = 0.0


class ControlLoop:
    """Runs one robot on one thread.

    Attributes:
        spec: What the robot is; known once started.
    """

    spec: RobotSpec

    def __init__(self, robot: Robot, mode: Mode, *, sensor_timeout: float) -> None:
        """Prepare; ``start`` starts the thread.

        Args:
            robot: Constructed, not opened.
            mode: Who owns time.
            sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
        """
        self._robot = robot
        self._mode = mode
        self._is_realtime = mode is Mode.REALTIME
        self._sensor_timeout = sensor_timeout
        self._mailbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="remote-env control", daemon=True)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._episode = Episode(0, max_steps=None)
        self._episode.end(EndReason.SERVER_SHUTDOWN)
        self._pending: _PendingStep | None = None
        self._watchdog = ActionWatchdog(0.0)
        self._ticks = TickClock(1.0, anchor=0.0)
        parameters = inspect.signature(robot.reset).parameters.values()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        self._reset_takes = {n for n in ("seed", "options") if takes_all or n in names}

    # Called from other threads

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
            raise self._failure

    def stop(self, timeout: float = 5.0) -> None:
        """Hold and close the robot, and end the thread. Idempotent."""
        self._stopping.set()
        self._mailbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)
            if self._thread.is_alive():
                logger.error("the robot's code still blocks %.0f s after the stop", timeout)

    def submit(self, request: Request) -> None:
        """Hand a request over; never blocks. Safe from any thread."""
        self._mailbox.put(request)

    def set_subscribed(self, names: frozenset[str]) -> None:
        """Tell the robot which streams somebody wants. Safe from any thread."""
        self._robot.set_subscribed(names)

    # The thread

    def _run(self) -> None:
        with asyncio.Runner() as self._runner:
            try:
                self._open()
            except Exception as error:
                self._failure = error
                self._close()
                return
            finally:
                self._ready.set()
            try:
                self._serve()
            finally:
                self._close()

    def _open(self) -> None:
        self._call(self._robot.open)
        extra = self._call(self._robot.get_metadata)
        self.spec = describe_robot(self._robot, self._mode, extra)
        self._codec = SpaceCodec(self.spec.observation_space, root="observation")
        if self._is_realtime:
            self._watchdog = ActionWatchdog(self.spec.action_lifetime)
            self._ticks = TickClock(self.spec.control_period, anchor=time.monotonic())

    def _close(self) -> None:
        if self._is_realtime and self._failure is None:
            self._hold()
        try:
            self._call(self._robot.close)
        except Exception:
            logger.exception("%s.close() failed", type(self._robot).__name__)
        self._robot.stop_sensors()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            request = self._next_request()
            match request:
                case ResetRequest():
                    self._answer(request, self._reset)
                case StepRequest():
                    self._answer(request, self._step_realtime if self._is_realtime else self._step)
                case HoldRequest():
                    self._abandon(request.reason)
            if self._is_realtime:
                self._keep_time(time.monotonic())

    def _next_request(self) -> Request | None:
        due = self._pending.due if self._pending else math.inf
        wake_at = min(due, self._watchdog.deadline) if self._is_realtime else math.inf
        try:
            if wake_at == math.inf:
                return self._mailbox.get()
            return self._mailbox.get(timeout=max(0.0, wake_at - time.monotonic()))
        except queue.Empty:
            return None

    def _keep_time(self, now: float) -> None:
        if self._watchdog.is_expired(now):
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
        except RemoteEnvError as error:
            result = error
            if not isinstance(error, (EpisodeOverError, ActionRefusedError)):
                self._abandon(EndReason.ROBOT, must_hold=True)
        if result is None:
            return
        delay = self._robot.reply_delay
        if delay > 0 and not isinstance(result, RemoteEnvError):
            timer = threading.Timer(delay, request.finish, (result,))
            timer.daemon = True
            timer.start()
        else:
            request.finish(result)

    # What is asked

    def _reset(self, request: ResetRequest) -> ResetResult:
        self._abandon(EndReason.OPERATOR)
        robot = self._robot
        given = {"seed": request.seed, "options": request.options}
        returned = self._call(
            robot.reset, **{name: given[name] for name in sorted(self._reset_takes)}
        )
        info = returned[1] if isinstance(returned, tuple) else returned
        self._watchdog.rest()
        self._episode = Episode(self._episode.number + 1, max_steps=robot.max_episode_steps)
        captured = self._wait_for_observation(request.streams, ready_at=robot.now())
        captured.remote["seed_applied"] = bool(robot.seedable and request.seed is not None)
        return ResetResult(self._episode.number, captured, dict(info or {}))

    def _wait_for_observation(self, streams: tuple[str, ...], *, ready_at: float) -> Captured:
        """Take the first observation of which every stream was captured after the reset."""
        deadline = time.monotonic() + self._sensor_timeout
        while True:
            captured = self._capture()
            missing = [name for name in streams if not self._is_fresh(captured, name, ready_at)]
            if not missing:
                return captured
            if not self._is_realtime or time.monotonic() > deadline:
                raise self._silent(captured, missing)
            self._stopping.wait(0.001)

    def _is_fresh(self, captured: Captured, name: str, ready_at: float) -> bool:
        if self.spec.stream(name).kind in _CALIBRATION:
            return True
        published = captured.fields[name]
        # What the robot's own reset published is fresh, also if it did so before returning.
        is_ours = published.thread == threading.get_ident()
        is_new = not self._is_realtime or is_ours or published.stamp >= ready_at
        return published.sequence > 0 and is_new

    def _silent(self, captured: Captured, missing: list[str]) -> SensorError:
        name = missing[0]
        after = f" within {self._sensor_timeout:g} s" if self._is_realtime else ""
        how = "once" if captured.fields[name].sequence == 0 else "again"
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return SensorError(
            f"{name!r}{others} did not deliver {how}{after} after the reset; check the cable and "
            "the thread that publishes it, or choose other streams with streams=[...]",
            code="robot.sensor.silent",
        )

    def _step(self, request: StepRequest) -> StepResult:
        self._episode.check(number=request.episode, step=request.step)
        self._call(self._robot.apply_action, request.action)
        return self._end_step(request, None)

    def _step_realtime(self, request: StepRequest) -> None:
        self._episode.check(number=request.episode, step=request.step)
        now = time.monotonic()
        tick, due = self._ticks.next_after(now)
        held = self._watchdog.feed(now)
        self._call(self._robot.apply_action, request.action)
        self._pending = _PendingStep(request, due, tick, held)

    def _end_step(self, request: StepRequest, pending: _PendingStep | None) -> StepResult:
        captured = self._capture(pending.tick if pending else self._episode.steps + 1)
        outcome = self._call(self._robot.outcome, captured.observation)
        if not isinstance(outcome, Outcome):
            raise RobotFaultError(
                f"{type(self._robot).__name__}.outcome() returned {type(outcome).__name__}, not "
                "an Outcome"
            )
        terminated, truncated = self._episode.advance(outcome)
        if pending is not None:
            captured.remote["held"] = pending.held
            captured.remote["overruns"] = self._ticks.overruns
            if terminated or truncated:
                self._hold()
                self._watchdog.rest()
        return StepResult(captured, outcome, terminated, truncated, self._episode.end_reason)

    def _abandon(self, reason: EndReason, *, must_hold: bool = False) -> None:
        """End the episode, if there is one; in realtime the robot then holds."""
        must_hold = must_hold or self._episode.end_reason is None
        self._episode.end(reason)
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.request.finish(EpisodeOverError(f"the episode ended: {reason.value}"))
        if self._is_realtime and must_hold:
            self._hold()
            self._watchdog.rest()

    # The robot's code

    def _capture(self, tick: int | None = None) -> Captured:
        robot = self._robot
        for sensor in robot.sensors:
            failure = sensor.statistics().failure
            if failure is not None:
                raise SensorError(
                    f"sensor {sensor.name!r} failed: {type(failure).__name__}: {failure}; see the "
                    "robot's log, and restart its server",
                    code="robot.sensor.failed",
                )
        observation = self._call(robot.get_obs)
        now = robot.now()
        if tick is None:
            tick = self._ticks.next_after(time.monotonic())[0] - 1 if self._is_realtime else 0
        remote: dict[str, Value] = {}
        if isinstance(observation, Snapshot):
            fields = observation.fields
            if observation.timestamp is not None:
                remote["timestamp"] = float(observation.timestamp)
            if observation.incoherent and self._is_realtime:
                remote["incoherent"] = list(observation.incoherent)
        else:
            fields = {**robot.make_obs().fields, **self._fields_of(observation, now, tick)}
        return Captured(observation, fields, tick, now, remote)

    def _fields_of(self, observation: Any, now: float, tick: int) -> dict[str, Field]:
        try:
            arrays = self._codec.flatten(observation)
        except ValueError as error:
            raise RobotFaultError(
                f"{type(self._robot).__name__}.get_obs() does not fit its observation_space: "
                f"{error}"
            ) from error
        thread = threading.get_ident()
        return {
            name: Field(array, now, tick + 1, thread)
            for name, array in zip(self._codec.layout.names, arrays, strict=True)
        }

    def _hold(self) -> None:
        try:
            self._call(self._robot.hold)
        except RemoteEnvError:
            logger.critical("%s.hold() FAILED: the robot may move", type(self._robot).__name__)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the robot's code, awaiting what it returns if need be.

        Raises:
            RobotError: If the robot's code raised one, as it is.
            RobotFaultError: For every other exception.
        """
        try:
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
                result = self._runner.run(_awaited(result))
        except (RobotError, LocalProtocolError):
            raise
        except Exception as error:
            if not self._ready.is_set():
                raise  # at start-up there is nobody to tell but our own caller
            name = getattr(function, "__qualname__", repr(function))
            logger.exception("%s failed", name)
            raise RobotFaultError(
                f"{name}() raised {type(error).__name__}: {error}. The robot holds; its log has "
                "the traceback"
            ) from error
        return result


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
