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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from remote_env.errors import RobotError, RobotFaultError, SensorError
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

    def close(self) -> None:
        """Close the robot, and stop its sensor threads; logs what goes wrong."""
        for sensor in self.robot.sensors:
            sensor.ask_to_stop()  # before close: they must not read a device that is closed
        with contextlib.suppress(RobotError):  # logged with its traceback
            self._call(self.robot.close)
        self.robot.stop_sensors()
        self._runner.close()

    def reset(self, seed: int | None, options: Mapping[str, Value] | None) -> dict[str, Value]:
        """Reset the robot; return its ``info``.

        Raises:
            RobotError: If the robot's code failed, or returned something else.
        """
        for sensor in self.robot.sensors:
            sensor.restart_if_failed()
        self.robot.set_simulated_time(0.0)
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
            RobotError: If the robot's code failed.
        """
        self.robot.set_simulated_time(simulated_time)
        self._call(self.robot.apply_action, action)

    def observe(self, tick: int) -> Captured:
        """Take an observation.

        Raises:
            SensorError: If a sensor thread has failed.
            RobotError: If the robot's code failed, or its observation does not fit.
        """
        robot = self.robot
        for sensor in robot.sensors:
            failure = sensor.statistics().failure
            if failure is not None:
                what = f"{type(failure).__name__}: {text_of(failure)}"
                raise SensorError(
                    f"sensor {sensor.name!r} failed: {what}. The robot's log has the traceback; "
                    "env.reset() starts the sensor again",
                    code="robot.sensor.failed",
                )
        observation = self._call(robot.get_obs)
        now = float(robot.now())
        remote: dict[str, Value] = {}
        if isinstance(observation, Snapshot):
            fields = observation.fields
            if observation.timestamp is not None:
                remote["timestamp"] = observation.timestamp
            if observation.incoherent and robot.mode is Mode.REALTIME:
                remote["incoherent"] = list(observation.incoherent)
        else:
            fields = {**robot.make_obs().fields, **self._fields_of(observation, now, tick)}
        missing = [s.name for s in self.spec.streams if s.name not in fields]
        if missing:
            raise RobotFaultError(
                f"{self._name}.get_obs() delivers no {missing[0]!r}, which its streams() declare"
            )
        return Captured(observation, fields, tick, now, remote)

    def _fields_of(self, observation: Any, now: float, tick: int) -> dict[str, Field]:
        assert self._codec is not None
        try:
            arrays = self._codec.flatten(observation)
            self._warn_of_casts(observation)
        except ValueError as error:
            raise RobotFaultError(
                f"{self._name}.get_obs() does not fit its observation_space: {error}"
            ) from error
        thread = threading.get_ident()
        # An author who edits a snapshot does not make a dead sensor young by that.
        published = self.robot.make_obs().fields
        return {
            name: replace(published[name], array=array)
            if name in published
            else Field(array, now, tick + 1, thread)
            for name, array in zip(self._codec.layout.names, arrays, strict=True)
        }

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

    def hold(self) -> bool:
        """Tell the robot to hold; return whether its code did not fail."""
        now = time.monotonic()
        is_told = now - self._last_told < _TELL_EVERY  # it is tried again every period
        try:
            self._call(self.robot.hold, is_quiet=is_told)
        except RobotError as error:
            if not is_told:
                self._last_told = now
                text = text_of(error)
                logger.critical("%s.hold() FAILED, the robot may move: %s", self._name, text)
            return False
        self._last_told = -math.inf
        return True

    def _wrong(self, method: str, returned: object, expected: str) -> RobotFaultError:
        return RobotFaultError(
            f"{self._name}.{method}() returned {type(returned).__name__}; it must return {expected}"
        )

    def _await(self, result: Any) -> Any:
        return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _call(
        self, function: Callable[..., Any], *args: Any, is_quiet: bool = False, **kwargs: Any
    ) -> Any:
        """Call the robot's code, awaiting what it returns if need be.

        Raises:
            RobotError: If the robot's code raised one, as it is.
            RobotFaultError: For every other exception, of any kind.
        """
        try:
            return self._await(function(*args, **kwargs))
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


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
