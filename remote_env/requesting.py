"""What a robot's streams become when a client asks for them otherwise. Pure; for both sides.

``resolve`` is the client's: from what a user wrote to one request for each stream. ``requested``
is both sides': from those to shapes, dtypes, bounds and rates, so that spaces still come from the
robot's metadata and from nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from gymnasium import spaces

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import RAW, ArraySpec
from remote_env.protocol.compressing import fits_codec
from remote_env.spaces import with_leaves
from remote_env.spec import RobotSpec, StreamKind, StreamSpec
from remote_env.stream_requests import AUTO, QUALITY, StreamRequest

__all__ = ["Wishes", "derived_arrays", "fits", "requested", "resolve"]

_PICTURES: Final = (StreamKind.IMAGE, StreamKind.DEPTH)
_UNPACED: Final = (StreamKind.OBSERVATION, StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
_FARTHEST: Final = 65535  # mm, of depth16

_Geometry: TypeAlias = tuple[tuple[int, int, int, int] | None, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user says of streams, as ``RemoteRobotEnv`` and ``observe`` take it.

    Attributes:
        streams: Names of the streams to observe; or a mapping from these to what is wanted of
            each, None for as it is. None for the robot's own choice.
        image_size: Of every camera that is observed, height and width; see ``StreamRequest``.
        grayscale: Of every picture that is observed.
        codec: Of every camera, one of those of ``StreamRequest``, or several: each is used for
            the streams that it is made for.
        quality: Of every JPEG.
    """

    streams: Sequence[str] | Mapping[str, StreamRequest | None] | None = None
    image_size: tuple[int, int] | None = None
    grayscale: bool = False
    codec: str | Sequence[str] = RAW
    quality: int | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The streams to observe; None for the robot's own choice."""
        return None if self.streams is None else tuple(self.streams)

    def __post_init__(self) -> None:
        """Check what can be checked without the robot.

        Raises:
            ConfigurationError: Saying what is wrong.
        """
        if isinstance(self.streams, str):
            raise ConfigurationError(
                f"streams must be a list of names; pass [{self.streams!r:.200}]"
            )
        if isinstance(self.streams, Mapping):
            for name, request in self.streams.items():
                if not isinstance(request, (StreamRequest, type(None))):
                    raise ConfigurationError(
                        f"streams[{name!r:.200}] must be a StreamRequest or None, not "
                        f"{request!r:.60}"
                    )
        for codec in self.codecs:
            StreamRequest(codec=codec)
        StreamRequest(size=self.image_size, grayscale=self.grayscale, quality=self.quality)

    @property
    def codecs(self) -> tuple[str, ...]:
        """Of every camera."""
        return (self.codec,) if isinstance(self.codec, str) else tuple(self.codec)


def resolve(spec: RobotSpec, wishes: Wishes) -> dict[str, StreamRequest]:
    """Return what is wanted of each stream that is wanted otherwise than the robot has it.

    Raises:
        ConfigurationError: If a stream does not exist, or nothing that is observed can be what is
            asked of all.
    """
    given = wishes.streams if isinstance(wishes.streams, Mapping) else {}
    names = spec.observed if wishes.names is None else wishes.names
    chosen = [spec.stream(name) for name in names]
    found = {
        stream.name: _with_shorthands(stream, given.get(stream.name) or StreamRequest(), wishes)
        for stream in chosen
    }
    kinds = {stream.kind for stream in chosen}
    for codec in wishes.codecs:
        if codec not in (RAW, AUTO) and not any(fits(codec, stream) for stream in chosen):
            raise ConfigurationError(f"codec={codec!r}: nothing that is observed can be that")
    if wishes.image_size is not None and kinds.isdisjoint(_PICTURES):
        raise ConfigurationError("image_size is for cameras, and none is observed")
    if wishes.grayscale and StreamKind.IMAGE not in kinds:
        raise ConfigurationError("grayscale is for pictures, and none is observed")
    return {name: r for name, r in found.items() if r.changes or r.is_paced}


def _with_shorthands(stream: StreamSpec, own: StreamRequest, wishes: Wishes) -> StreamRequest:
    if stream.kind not in _PICTURES:
        return own
    codec = own.codec
    if codec is None:
        codec = next((c for c in wishes.codecs if c == AUTO or fits(c, stream)), RAW)
    is_grey = stream.kind is StreamKind.IMAGE and wishes.grayscale
    return replace(
        own,
        size=own.size or wishes.image_size,
        grayscale=own.grayscale or is_grey,
        codec=codec,
        quality=own.quality or wishes.quality,
    )


def fits(codec: str, stream: StreamSpec) -> bool:
    """Whether a stream can be encoded so."""
    is_depth = stream.kind is StreamKind.DEPTH
    return stream.kind in _PICTURES and fits_codec(codec, stream.array, is_depth=is_depth)


def requested(
    spec: RobotSpec, requests: Mapping[str, StreamRequest], *, has_spaces: bool = True
) -> RobotSpec:
    """Return the spec of a robot whose streams are as they were asked for.

    Each ``StreamSpec.request`` then says all that is to be done to that stream, also to those of
    a camera of which another stream was asked for otherwise.

    Args:
        spec: As the robot has it.
        requests: By stream name.
        has_spaces: Whether the spaces are to follow, too. The robot's side needs them not, and
            its network thread has not the milliseconds that those of large pictures take.

    Raises:
        ConfigurationError: If a stream does not exist, or cannot be that; says why.
    """
    if not requests:
        return spec
    for name, request in requests.items():
        _check_kind(spec.stream(name), request)
    geometry = _geometry_of(spec, requests)
    streams = tuple(
        _derived(
            stream, requests.get(stream.name, StreamRequest()), geometry.get(stream.camera, _WHOLE)
        )
        for stream in spec.streams
    )
    if not has_spaces:
        return replace(spec, streams=streams)
    streams = tuple(map(_with_space, streams, spec.streams))
    changed = [s for s, before in zip(streams, spec.streams, strict=True) if s is not before]
    space = with_leaves(
        spec.observation_space, {s.name: s.space for s in changed}, root="observation"
    )
    return replace(spec, streams=streams, observation_space=space)


def derived_arrays(spec: RobotSpec, names: Sequence[str]) -> tuple[ArraySpec, ...]:
    """Return what ``Subscribed.derived`` says of these streams of a spec that was requested."""
    streams = [spec.stream(name) for name in names]
    return tuple(s.array for s in streams if s.request.changes and s.kind in _PICTURES)


_WHOLE: Final[_Geometry] = (None, None)


def _check_kind(stream: StreamSpec, request: StreamRequest) -> None:
    what = f"{stream.name!r} is {stream.kind.value}"
    if request.changes and stream.kind not in _PICTURES:
        raise ConfigurationError(
            f"{what}: only pictures and depth can be cropped, resized, made grey or encoded"
        )
    if request.is_paced and stream.kind in _UNPACED:
        raise ConfigurationError(
            f"{what}, which has no captures of its own to leave out: no every_n and no max_rate"
        )
    if request.grayscale and (
        stream.kind is not StreamKind.IMAGE or stream.array.shape[-1] not in (1, 3)
    ):
        raise ConfigurationError(
            f"{what} of the shape {stream.array.shape}: only a picture of 3 channels can be grey"
        )
    if request.codec == AUTO:
        raise ConfigurationError(f"codec 'auto' of {stream.name!r}: name one")


def _geometry_of(spec: RobotSpec, requests: Mapping[str, StreamRequest]) -> dict[str, _Geometry]:
    """Return by camera which part is sent, and at which size; that of its intrinsics, too.

    Raises:
        ConfigurationError: If that is nothing of the camera, or two streams of it disagree.
    """
    found: dict[str, tuple[str, _Geometry]] = {}
    for name, request in requests.items():
        if request.crop is None and request.size is None:
            continue
        stream = spec.stream(name)
        geometry = _normal(stream, request)
        other, before = found.setdefault(stream.camera, (name, geometry))
        if before != geometry:
            raise ConfigurationError(
                f"{name!r} and {other!r} are asked for with different crop or size, and belong to "
                "one camera, whose intrinsics are those of both; ask the same of both"
            )
    return {camera: geometry for camera, (_, geometry) in found.items()}


def _normal(stream: StreamSpec, request: StreamRequest) -> _Geometry:
    """Return the crop, of all if there is anything to do, and the size if there is to resize."""
    height, width = stream.array.shape[:2]
    crop = request.crop or (0, 0, height, width)
    top, left, *part = crop
    if top + part[0] > height or left + part[1] > width:
        raise ConfigurationError(
            f"crop {crop} of {stream.name!r} reaches beyond its {height} rows and {width} columns"
        )
    size = request.size or (part[0], part[1])
    if size[0] > part[0] or size[1] > part[1]:
        raise ConfigurationError(
            f"size {size} of {stream.name!r} is more than the {part[0]} rows and {part[1]} columns "
            "that it is made of, and nothing is enlarged; resize it on your side"
        )
    if [*size] == part:
        return (None if [*part] == [height, width] else crop, None)
    return crop, size


def _derived(stream: StreamSpec, request: StreamRequest, geometry: _Geometry) -> StreamSpec:
    crop, size = geometry
    if stream.kind is StreamKind.INTRINSICS:
        return replace(stream, request=StreamRequest(crop=crop, size=size)) if crop else stream
    hz = _slower(stream.hz, request)
    if stream.kind not in _PICTURES:
        return replace(stream, request=request, hz=hz) if request.is_paced else stream
    codec = request.codec or RAW
    is_grey = request.grayscale and stream.array.shape[-1] == 3
    request = replace(
        request,
        crop=crop,
        size=size,
        grayscale=is_grey,
        codec=codec,
        quality=(request.quality or QUALITY) if codec == "jpeg" else None,
    )
    if not request.changes and not request.is_paced:
        return stream
    shape = (*(size or (crop[2:] if crop else stream.array.shape[:2])), *stream.array.shape[2:])
    if is_grey:
        shape = (*shape[:2], 1)
    array = ArraySpec(stream.name, stream.array.dtype, shape, codec)
    if not fits(codec, replace(stream, array=array)):
        raise ConfigurationError(
            f"{stream.name!r} is {stream.kind.value}, {shape} {array.dtype}, and cannot be "
            f"{codec!r}: 'jpeg' is for pictures of uint8 with 1 or 3 channels, 'depth16' for depth"
        )
    return replace(stream, array=array, request=request, hz=hz)


def _with_space(stream: StreamSpec, before: StreamSpec) -> StreamSpec:
    """Return a stream with bounds that hold for every pixel after all that is done to it."""
    array, space = stream.array, before.space
    if array.shape == before.array.shape and array.codec == RAW:
        return stream
    assert isinstance(space, spaces.Box)
    low, high = space.low.min(), space.high.max()
    if array.codec == "jpeg":
        low, high = 0, 255
    elif array.codec == "depth16" and array.dtype.kind == "f":
        low, high = min(low, 0), math.ceil(min(float(high) * 1000, _FARTHEST)) / 1000
    return replace(stream, space=spaces.Box(low, high, array.shape, array.dtype.type))


def _slower(hz: float, request: StreamRequest) -> float:
    rate = hz / request.every_n
    return min(rate, request.max_rate) if request.max_rate else rate
