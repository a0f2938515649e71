"""Calls the robot's code, on the control thread, and checks what it returns.

An author's mistake of any kind, ``sys.exit()`` in a vendor's SDK included, comes out of here
as an error that names the method and says what was wrong. Nothing of it may end the thread
that owns the motors.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from remote_env.errors import (
    ActionRefusedError,
    EmergencyStopError,
    EpisodeOverError,
    LeaseError,
    RobotError,
    RobotFaultError,
    SensorError,
)
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import EndReason
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec
from remote_env_server.buffers import Field
from remote_env_server.describe import describe_robot
from remote_env_server.requests import Captured
from remote_env_server.robot import Outcome, Robot
from remote_env_server.snapshot import Snapshot

__all__ = ["Driver", "text_of"]

logger = logging.getLogger(__name__)


_TELL_EVERY: Final = 5.0
# What authors return; to ask whether something else can be awaited takes 2 us.
_NO_AWAITABLE: Final = frozenset({type(None), Snapshot, Outcome, dict, tuple, np.ndarray})


def text_of(error: BaseException) -> str:
    """Return what an exception says, also if its own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


class Driver:
    """One robot's code. Every method is for the control thread alone.

    Attributes:
        robot: The robot.
        spec: What it is; known once opened.
    """

    spec: RobotSpec

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self._name = type(robot).__name__
        self._runner = asyncio.Runner()
        self._codec: SpaceCodec | None = None
        self._declared: set[str] = set()  # streams
        self._has_own_snapshot = type(robot).get_obs is Robot.get_obs
        self._has_warned = False
        self._last_told = -math.inf
        parameters = inspect.signature(robot.reset).parameters.values()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        self._reset_takes = sorted(n for n in ("seed", "options") if takes_all or n in names)

    def open(self, mode: Mode) -> None:
        """Open the robot and learn what it is.

        Raises:
            ConfigurationError: If its declarations make no sense.
            BaseException: Whatever the robot's code raised, as it is: at start-up there is
                nobody to tell but our own caller.
        """
        self._await(self.robot.open())
        extra = self._await(self.robot.get_metadata())
        self.spec = describe_robot(self.robot, mode, extra)
        self._codec = SpaceCodec(self.spec.observation_space, root="observation")
        self._declared = {stream.name for stream in self.spec.streams}

    def close(self) -> None:
        """Close the robot, and stop its sensor threads; logs what goes wrong."""
        for sensor in self.robot.sensors:
            sensor.ask_to_stop()  # before close: they must not read a device that is closed
        with contextlib.suppress(RobotError):  # logged with its traceback
            self._call(self.robot.close)
        self.robot.stop_sensors()
        self._runner.close()

    def reset(
        self,
        seed: int | None,
        options: Mapping[str, Value] | None,
        *,
        tell: Callable[[float, str], None],
        is_cancelled: Callable[[], bool],
    ) -> dict[str, Value]:
        """Reset the robot; return its ``info``.

        Args:
            seed: As in ``gymnasium.Env.reset``.
            options: As in ``gymnasium.Env.reset``.
            tell: Told how far it is.
            is_cancelled: Whether the robot should give it up.

        Raises:
            RobotError: If the robot's code failed, or returned something else.
        """
        for sensor in self.robot.sensors:
            sensor.restart_if_failed()
        self.robot.set_simulated_time(0.0)
        self.robot.set_reset_job(tell, is_cancelled)
        given: dict[str, Any] = {"seed": seed, "options": options}
        returned = self._call(self.robot.reset, **{name: given[name] for name in self._reset_takes})
        info = returned[-1] if isinstance(returned, tuple) else returned
        if info is None:
            return {}
        if not isinstance(info, Mapping):
            raise self._wrong("reset", info, "None, an info dict, or (observation, info)")
        return dict(info)

    def apply_action(self, action: Any, *, simulated_time: float) -> None:
        """Hand an action to the robot.

        Args:
            action: Checked by the guard.
            simulated_time: At the end of this step, in seconds; for robots in lockstep.

        Raises:
            ActionRefusedError: If the robot's code refuses it: then it did not move.
            RobotError: If the robot's code failed.
        """
        self.robot.set_simulated_time(simulated_time)
        self._call(self.robot.apply_action, action, may_refuse=True)

    def observe(self, tick: int) -> Captured:
        """Take an observation.

        Raises:
            SensorError: If a sensor thread has failed.
            RobotError: If the robot's code failed, or its observation does not fit.
        """
        robot = self.robot
        # Before it: what it makes of a capture is not younger than that.
        before = {} if self._has_own_snapshot else robot.make_obs().fields
        observation = self._call(robot.get_obs)
        now, taken_at = float(robot.now()), time.monotonic()
        remote: dict[str, Value] = {}
        if isinstance(observation, Snapshot):
            fields = observation.fields
            if observation.timestamp is not None:
                remote["timestamp"] = observation.timestamp
            if observation.incoherent and robot.mode is not Mode.LOCKSTEP:
                remote["incoherent"] = list(observation.incoherent)
        else:
            fields = self._fields_of(observation, before, now, tick)
        self._check_sensors(fields)
        if not self._declared <= fields.keys():
            missing = next(s.name for s in self.spec.streams if s.name not in fields)
            raise RobotFaultError(
                f"{self._name}.get_obs() delivers no {missing!r}, which its streams() declare"
            )
        return Captured(observation, fields, tick, now, taken_at, remote)

    def observe_or(self, latest: Captured | None, tick: int) -> Captured:
        """Take an observation; if that fails, return the last one.

        Raises:
            RobotError: If there is none either.
        """
        try:
            return self.observe(tick)
        except RobotError:
            if latest is None:
                raise
            return latest

    def _check_sensors(self, fields: Mapping[str, Field]) -> None:
        """Refuse an observation if a sensor thread failed whose streams nobody watches over.

        In real time a stream whose thread failed is found stale (``freshness.py``); a thread
        that publishes no stream, and one of a robot in lockstep, is found here.

        Raises:
            SensorError: Naming the sensor.
        """
        for sensor in self.robot.sensors:
            statistics = sensor.statistics()
            failure = statistics.failure
            if failure is None:
                continue
            is_judged = any(
                f.thread == statistics.thread and math.isfinite(self.spec.stream(name).max_age)
                for name, f in fields.items()
            )
            if self.spec.mode is Mode.LOCKSTEP or not is_judged:
                what = f"{type(failure).__name__}: {text_of(failure)}"
                raise SensorError(
                    f"sensor {sensor.name!r} failed: {what}. The robot's log has the traceback; "
                    "env.reset() starts the sensor again",
                    code="robot.sensor.failed",
                )

    def newest(self, names: Collection[str], latest: Captured | None) -> dict[str, Field]:
        """Return the newest of some streams: of the buffers, else of the last observation."""
        fields = {**(latest.fields if latest else {}), **self.robot.make_obs().fields}
        return {
            name: fields[name] for name in names if name in fields and fields[name].sequence > 0
        }

    def _fields_of(
        self, observation: Any, before: Mapping[str, Field], now: float, tick: int
    ) -> dict[str, Field]:
        assert self._codec is not None
        try:
            arrays = self._codec.flatten(observation)
            self._warn_of_casts(observation)
        except ValueError as error:
            raise RobotFaultError(
                f"{self._name}.get_obs() does not fit its observation_space: {error}"
            ) from error
        thread = threading.get_ident()
        # An author who edits a snapshot does not make a dead sensor young by that; what
        # get_obs published itself is as young as it says.
        after = self.robot.make_obs().fields
        fields = {
            name: field if field.thread == thread else before.get(name, field)
            for name, field in after.items()
        }
        for name, array in zip(self._codec.layout.names, arrays, strict=True):
            fields[name] = (
                replace(fields[name], array=array)
                if name in fields
                else Field(array, now, tick + 1, thread)
            )
        return fields

    def _warn_of_casts(self, observation: Any) -> None:
        """Say once that the robot returns other dtypes than its space has."""
        assert self._codec is not None
        if self._has_warned:
            return
        self._has_warned = True
        for spec, part in zip(self._codec.layout, self._codec.parts(observation), strict=True):
            if isinstance(part, np.ndarray) and part.dtype != spec.dtype:
                logger.warning(
                    "%s returns %r as %s, and its observation space says %s, which is sent",
                    self._name,
                    spec.name,
                    part.dtype,
                    spec.dtype,
                )

    def judge(self, observation: Any) -> Outcome:
        """Ask the robot what a step came to.

        Raises:
            RobotError: If the robot's code failed, or returned something else.
        """
        outcome = self._call(self.robot.outcome, observation)
        if type(outcome) is Outcome and type(outcome.info) is dict and _is_plain(outcome):
            return outcome  # as most are
        if not isinstance(outcome, Outcome):
            raise self._wrong("outcome", outcome, "an Outcome")
        if not isinstance(outcome.reward, (int, float, np.number, np.bool_)):
            raise self._wrong("outcome", outcome.reward, "a number as reward")
        if not isinstance(outcome.info, Mapping):
            raise self._wrong("outcome", outcome.info, "a dict as info")
        try:
            return replace(
                outcome,
                terminated=bool(outcome.terminated),
                truncated=bool(outcome.truncated),
                end_reason=EndReason(outcome.end_reason),
            )
        except ValueError as error:
            raise RobotFaultError(f"{self._name}.outcome() returned nonsense: {error}") from error

    def hold(self, *, is_emergency: bool = False) -> bool:
        """Tell the robot to hold, or to stop; return whether its code did not fail.

        Args:
            is_emergency: Whether somebody pressed the emergency stop.
        """
        now = time.monotonic()
        is_told = now - self._last_told < _TELL_EVERY  # it is tried again every period
        method = self.robot.stop if is_emergency else self.robot.hold
        try:
            self._call(method, is_quiet=is_told)
        except RobotError as error:
            if not is_told:
                self._last_told = now
                text, name = text_of(error), "stop" if is_emergency else "hold"
                logger.critical("%s.%s() FAILED, the robot may move: %s", self._name, name, text)
            return False
        self._last_told = -math.inf
        return True

    def stop_beside(self) -> BaseException | None:
        """Stop a robot whose ``stop`` may be called at any time; on the caller's thread.

        Returns:
            What it raised, if it did.
        """
        try:
            result = self.robot.stop()
            if inspect.isawaitable(result):
                asyncio.run(_awaited(result))
        except BaseException as error:
            return error
        return None

    def _wrong(self, method: str, returned: object, expected: str) -> RobotFaultError:
        return RobotFaultError(
            f"{self._name}.{method}() returned {type(returned).__name__}; it must return {expected}"
        )

    def _await(self, result: Any) -> Any:
        return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _call(
        self,
        function: Callable[..., Any],
        *args: Any,
        is_quiet: bool = False,
        may_refuse: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call the robot's code, awaiting what it returns if need be.

        Raises:
            RobotError: If the robot's code raised one, as it is; a ``RobotFaultError`` with
                the same code if it is one by which we refuse a request before anything moves.
            ActionRefusedError: Only if it may refuse.
            RobotFaultError: For every other exception, of any kind.
        """
        try:
            result = function(*args, **kwargs)
            return result if type(result) in _NO_AWAITABLE else self._await(result)
        except ActionRefusedError as error:
            if may_refuse:
                raise
            raise _fault(error) from error
        except (EmergencyStopError, EpisodeOverError, LeaseError) as error:
            raise _fault(error) from error
        except RobotError:
            raise
        except BaseException as error:
            name = getattr(function, "__qualname__", repr(function))
            if not is_quiet:
                logger.exception("%s failed", name)
            raise RobotFaultError(
                f"{name}() raised {type(error).__name__}: {text_of(error)}. The robot's log has "
                "the traceback"
            ) from error


def _is_plain(outcome: Outcome) -> bool:
    return (
        type(outcome.reward) is float
        and type(outcome.terminated) is type(outcome.truncated) is bool
        and type(outcome.end_reason) is EndReason
    )


def _fault(error: RobotError) -> RobotFaultError:
    return RobotFaultError(text_of(error), code=error.code, retryable=error.retryable)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
