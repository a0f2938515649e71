"""From a robot's declarations to the specification that goes over the wire."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from remote_env.errors import ConfigurationError
from remote_env.goals import GoalReward
from remote_env.protocol.values import Value, drop_unsupported
from remote_env.spaces import SpaceCodec
from remote_env.spec import ActionLimit, Mode, OutOfBounds, RobotSpec, StreamSpec
from remote_env_server.robot import Robot
from remote_env_server.safety import action_lifetime
from remote_env_server.streams import bounded_box

__all__ = ["describe_robot", "modes_of", "read_mode"]

logger = logging.getLogger(__name__)


def modes_of(robot: Robot) -> tuple[Mode, ...]:
    """Return the modes that a robot can do, the default first.

    Raises:
        ConfigurationError: If it is no robot, or says that it can do something else.
    """
    if not isinstance(robot, Robot):
        raise ConfigurationError(f"expected a Robot, got {type(robot).__name__}")
    if not hasattr(robot, "_cameras"):
        raise ConfigurationError(
            f"{type(robot).__name__}.__init__ must call super().__init__() first"
        )
    return tuple(read_mode(mode) for mode in robot.modes)


def read_mode(mode: Mode | str) -> Mode:
    """Return a mode by its name.

    Raises:
        ConfigurationError: If there is no such mode.
    """
    try:
        return Mode(mode)
    except ValueError:
        raise ConfigurationError(
            f"mode must be 'lockstep', 'realtime' or 'delayed', not {mode!r}"
        ) from None


def describe_robot(robot: Robot, mode: Mode, extra: Mapping[str, Value] | None) -> RobotSpec:
    """Collect what a robot declares, and check that it makes sense.

    Args:
        robot: Constructed.
        mode: In which it is served.
        extra: What its ``get_metadata`` returned.

    Raises:
        ConfigurationError: Saying what to declare.
        UnsupportedSpaceError: If a space has no fixed shape.
    """
    name = robot.name or type(robot).__name__
    if not (robot.control_hz > 0 or (mode is Mode.LOCKSTEP and robot.control_hz == 0)):
        raise ConfigurationError(f"{name}: control_hz must be positive, not {robot.control_hz}")
    if extra is not None and not isinstance(extra, Mapping):
        raise ConfigurationError(
            f"{name}.get_metadata() returned {type(extra).__name__}; it must return a dict"
        )
    extra = extra or {}
    kept, dropped = drop_unsupported(extra)
    for key, reason in dropped.items():
        logger.warning("%s: get_metadata()[%r] is left out: %s", name, key, reason)
    observation_space = robot.observation_space
    streams = robot.streams()
    for stream in streams:
        if sum(other.name == stream.name for other in streams) > 1:
            raise ConfigurationError(f"{name}: two streams are called {stream.name!r}")
    missing = set(SpaceCodec(observation_space, root="observation").layout.names)
    missing -= {stream.name for stream in streams}
    if missing or not streams:
        raise ConfigurationError(
            f"{name}: nothing delivers {sorted(missing) or 'an observation'}; declare cameras in "
            "camera_configs() or streams in proprio_configs()"
        )
    spec = RobotSpec(
        name=name,
        mode=mode,
        observation_space=observation_space,
        action_space=_action_space_of(robot, name, extra),
        streams=_ageless(streams) if mode is Mode.LOCKSTEP else streams,
        control_hz=float(robot.control_hz),
        max_episode_steps=robot.max_episode_steps,
        out_of_bounds=_out_of_bounds_of(robot, name),
        action_limits=_action_limits_of(robot, name),
        action_lifetime=0.0 if mode is Mode.LOCKSTEP else action_lifetime(1.0 / robot.control_hz),
        seedable=robot.seedable,
        reset_options=robot.reset_options,
        goal_reward=_goal_reward_of(robot, name),
        extra=kept,
    )
    try:
        spec.check_action_limits()
        spec.check_goal_reward()
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    return spec


def _ageless(streams: tuple[StreamSpec, ...]) -> tuple[StreamSpec, ...]:
    """Return streams that never go stale: time stands still between the actions."""
    return tuple(replace(stream, max_age=math.inf) for stream in streams)


def _out_of_bounds_of(robot: Robot, name: str) -> OutOfBounds:
    try:
        return OutOfBounds(robot.out_of_bounds)
    except ValueError:
        raise ConfigurationError(
            f"{name}: out_of_bounds must be 'refuse', 'clip' or 'pass', not "
            f"{robot.out_of_bounds!r:.40}"
        ) from None


def _action_limits_of(robot: Robot, name: str) -> dict[str, ActionLimit]:
    declared = robot.action_limits
    if declared is None:
        return {}
    if isinstance(declared, ActionLimit):
        return {"action": declared}  # the name of the leaf, if the space itself is one
    if isinstance(declared, Mapping) and all(
        isinstance(limit, ActionLimit) for limit in declared.values()
    ):
        return dict(declared)
    raise ConfigurationError(
        f"{name}: action_limits must be an ActionLimit, or map the names of leaves of the action "
        f"space to one each, not {declared!r:.60}"
    )


def _goal_reward_of(robot: Robot, name: str) -> GoalReward | None:
    if robot.goal_reward is None or isinstance(robot.goal_reward, GoalReward):
        return robot.goal_reward
    raise ConfigurationError(
        f"{name}: goal_reward must be a GoalReward, such as GoalReward('sparse', 0.05), or None, "
        f"not {robot.goal_reward!r:.60}"
    )


def _action_space_of(robot: Robot, name: str, extra: Mapping[str, Value]) -> spaces.Space[Any]:
    declared = getattr(robot, "action_space", None)
    if isinstance(declared, spaces.Space):
        SpaceCodec(declared, root="action")
        return declared
    if declared is not None:
        raise ConfigurationError(f"{name}: action_space is {declared!r:.60}, not a Gymnasium space")
    # Servers written after the chiral guide declare no action space.
    shape = extra.get("action_shape")
    joints = {config.name: config for config in robot.proprio_configs()}.get("joint_pos")
    guess: spaces.Box
    if isinstance(shape, (list, tuple)):
        guess = spaces.Box(-np.inf, np.inf, tuple(int(n) for n in shape), np.float32)
    elif joints is not None:
        guess = bounded_box(joints.low, joints.high, (joints.size,), np.float32)
    else:
        raise ConfigurationError(
            f"{name} declares no action_space; set one with the robot's real limits, such as "
            "action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,))"
        )
    logger.warning(
        "%s declares no action_space; taking %s. Declare it with the robot's real limits, or "
        "no action will ever be out of bounds",
        name,
        guess,
    )
    return guess
