"""Streams out of declarations: names, shapes, bounds and units of what a robot delivers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, DTypeLike

from remote_env.protocol.arrays import ArraySpec
from remote_env.spaces import SpaceCodec
from remote_env.spec import StreamKind, StreamSpec
from remote_env_server.configs import CameraConfig, ProprioConfig

__all__ = ["bounded_box", "describe_streams", "observation_space_of", "space_streams"]


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
            bounded_box(config.low, config.high, (config.size,), config.dtype),
            unit=config.unit,
            on_request=config.on_request,
            hz=config.hz,
            max_age=config.stale_after,
        )
        for config in proprios
    ]
    for config in cameras:
        unbounded = bounded_box(None, None, (3, 3), np.float64)
        streams.append(_camera_stream(config, StreamKind.INTRINSICS, unbounded, "px"))
        unbounded = bounded_box(None, None, (4, 4), np.float64)
        streams.append(_camera_stream(config, StreamKind.EXTRINSICS, unbounded, "m"))
    for config in cameras:
        size = (config.height, config.width)
        pixels = bounded_box(None, None, (*size, config.channels), config.image_dtype)
        streams.append(_camera_stream(config, StreamKind.IMAGE, pixels, ""))
        if config.has_depth:
            is_float = np.dtype(config.depth_dtype).kind == "f"
            depth = bounded_box(0, config.max_depth, size, config.depth_dtype)
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
        max_age=math.inf if is_calibration else config.stale_after,
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
    max_age: float = math.inf,
) -> StreamSpec:
    array = ArraySpec(name, np.dtype(space.dtype), space.shape or ())
    return StreamSpec(array, kind, space, camera, unit, on_request, hz, max_age)


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


def bounded_box(
    low: ArrayLike | None, high: ArrayLike | None, shape: tuple[int, ...], dtype: DTypeLike
) -> spaces.Box:
    """Return a Box of a dtype; a bound that is None is the widest that the dtype has."""
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
