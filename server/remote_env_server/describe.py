"""From a robot's declarations to the specification that goes over the wire."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, DTypeLike

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.values import Value, drop_unsupported
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind, StreamSpec
from remote_env_server.buffers import CameraConfig, ProprioConfig
from remote_env_server.safety import action_lifetime

if TYPE_CHECKING:
    from remote_env_server.robot import Robot

__all__ = ["describe_robot", "describe_streams", "observation_space_of", "space_streams"]

logger = logging.getLogger(__name__)


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
    return RobotSpec(
        name=name,
        mode=mode,
        observation_space=observation_space,
        action_space=_action_space_of(robot, name, extra),
        streams=streams,
        control_hz=float(robot.control_hz),
        max_episode_steps=robot.max_episode_steps,
        out_of_bounds=_out_of_bounds_of(robot, name),
        action_lifetime=0.0 if mode is Mode.LOCKSTEP else action_lifetime(1.0 / robot.control_hz),
        seedable=robot.seedable,
        reset_options=robot.reset_options,
        extra=kept,
    )


def _out_of_bounds_of(robot: Robot, name: str) -> OutOfBounds:
    try:
        return OutOfBounds(robot.out_of_bounds)
    except ValueError:
        raise ConfigurationError(
            f"{name}: out_of_bounds must be 'refuse', 'clip' or 'pass', not "
            f"{robot.out_of_bounds!r:.40}"
        ) from None


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
        guess = _box(joints.low, joints.high, (joints.size,), np.float32)
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


def describe_streams(
    cameras: Iterable[CameraConfig], proprios: Iterable[ProprioConfig]
) -> tuple[StreamSpec, ...]:
    """Return the streams of cameras and proprioception, small ones first.

    The pictures come last in a frame, so that everything else is in its first packet.
    """
    streams = [
        _stream(
            config.name,
            StreamKind.PROPRIOCEPTION,
            _box(config.low, config.high, (config.size,), config.dtype),
            unit=config.unit,
            on_request=config.on_request,
            hz=config.hz,
        )
        for config in proprios
    ]
    for config in cameras:
        unbounded = _box(None, None, (3, 3), np.float64)
        streams.append(_camera_stream(config, StreamKind.INTRINSICS, unbounded, "px"))
        unbounded = _box(None, None, (4, 4), np.float64)
        streams.append(_camera_stream(config, StreamKind.EXTRINSICS, unbounded, "m"))
    for config in cameras:
        size = (config.height, config.width)
        pixels = _box(None, None, (*size, config.channels), config.image_dtype)
        streams.append(_camera_stream(config, StreamKind.IMAGE, pixels, ""))
        if config.has_depth:
            is_float = np.dtype(config.depth_dtype).kind == "f"
            depth = _box(0, config.max_depth, size, config.depth_dtype)
            unit = "m" if is_float else "mm"
            streams.append(_camera_stream(config, StreamKind.DEPTH, depth, unit))
    return tuple(streams)


def _camera_stream(
    config: CameraConfig, kind: StreamKind, space: spaces.Box, unit: str
) -> StreamSpec:
    is_calibration = kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
    return _stream(
        f"{config.name}/{kind.value}",
        kind,
        space,
        camera=config.name,
        unit=unit,
        on_request=config.on_request or is_calibration,
        hz=config.hz,
    )


def _stream(
    name: str,
    kind: StreamKind,
    space: spaces.Space[Any],
    *,
    camera: str = "",
    unit: str = "",
    on_request: bool = False,
    hz: float = 0.0,
) -> StreamSpec:
    array = ArraySpec(name, np.dtype(space.dtype), space.shape or ())
    return StreamSpec(array, kind, space, camera, unit, on_request, hz)


def space_streams(space: spaces.Space[Any]) -> tuple[StreamSpec, ...]:
    """Return one stream for each leaf of an observation space with a structure of its own."""
    codec = SpaceCodec(space, root="observation")
    return tuple(
        _stream(spec.name, StreamKind.OBSERVATION, leaf)
        for spec, leaf in zip(codec.layout, codec.leaf_spaces, strict=True)
    )


def observation_space_of(streams: Iterable[StreamSpec]) -> spaces.Dict:
    """Return the flat Dict of all streams that nobody has to ask for."""
    return spaces.Dict([(s.name, s.space) for s in streams if not s.on_request])


def _box(
    low: ArrayLike | None, high: ArrayLike | None, shape: tuple[int, ...], dtype: DTypeLike
) -> spaces.Box:
    checked = np.dtype(dtype)
    if checked.kind == "f":
        least, most = -np.inf, np.inf
    elif checked.kind == "b":
        least, most = 0, 1
    else:
        least, most = np.iinfo(checked).min, np.iinfo(checked).max
    bounds = [
        np.broadcast_to(np.asarray(default if given is None else given), shape).astype(checked)
        for given, default in ((low, least), (high, most))
    ]
    return spaces.Box(bounds[0], bounds[1], shape, checked.type)
