"""Depth as a picture of one byte for each pixel, which convolutions take as any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec, StreamKind
from remote_env.wrappers.transforms import box_at, join, parts_of, replace_boxes, values

__all__ = ["Depth", "DepthScale", "depth_from_image"]

_LEVELS: Final = 254  # from near to far; 0 is kept for what has no reading
_MILLIMETRE: Final = 0.001  # what a depth image of integers counts


class DepthScale:
    """What depth becomes which byte.

    Args:
        near: The depth that becomes 1; what is nearer becomes 1 too, in metres.
        far: The depth that becomes 255; what is farther becomes 255 too, in metres.
        inverse: Whether equal steps are steps of 1 / depth, as stereo cameras measure.

    Raises:
        ConfigurationError: If the range is none.
    """

    def __init__(self, near: float, far: float, *, inverse: bool) -> None:
        if not 0 < near < far < math.inf:
            raise ConfigurationError(
                f"near and far must be metres, 0 < near < far, not {near!r} and {far!r}"
            )
        self.near, self.far, self.inverse = float(near), float(far), inverse

    def to_image(self, depth: NDArray[Any]) -> NDArray[np.uint8]:
        """Return bytes of a depth image, of the same shape.

        Args:
            depth: Any shape, floats, metres; 0, negative, infinite and NaN is no reading.
        """
        metres = np.asarray(depth, np.float32)
        near, far = self.near, self.far
        level: NDArray[np.float32]
        with np.errstate(all="ignore"):  # of NaN and infinity
            is_known = (metres > 0) & (metres < np.inf)
            if self.inverse:
                scale = _LEVELS / (1 / near - 1 / far)
                level = np.float32(-scale) / metres
                level += np.float32(scale / near + 1.5)
            else:
                scale = _LEVELS / (far - near)
                level = metres * np.float32(scale)
                level += np.float32(1.5 - near * scale)
            np.fmax(level, np.float32(1.5), out=level)  # NaN too
            np.fmin(level, np.float32(_LEVELS + 1.5), out=level)
        image: NDArray[np.uint8] = level.astype(np.uint8)
        image *= is_known
        return image

    def to_depth(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the depth of bytes, metres, 0 where unknown; see ``depth_from_image``."""
        share: NDArray[Any] = (np.arange(256) - 1) / _LEVELS
        near, far = self.near, self.far
        if self.inverse:
            metres = 1 / (1 / near - share * (1 / near - 1 / far))
        else:
            metres = near + share * (far - near)
        table: NDArray[np.float32] = np.asarray(metres, np.float32)
        table[0] = 0.0
        return table[image]

    def table(self, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
        """Return the byte of each number that a depth image of 8 or 16 bits may hold."""
        return self.to_image(np.arange(np.iinfo(dtype).max + 1) * _MILLIMETRE)


def depth_from_image(
    image: NDArray[np.uint8], *, near: float, far: float, inverse: bool = False
) -> NDArray[np.float32]:
    """Return the depth that ``DepthAsImage`` made a picture of.

    Between ``near`` and ``far`` it is wrong by half a step at most: (far - near) / 508 metres.
    With ``inverse`` the step is one of 1 / depth: with e = (1 / near - 1 / far) / 508, a depth d
    is wrong by d * d * e / (1 - d * e) at most, which is less where things are near.

    Args:
        image: Any shape, uint8.
        near: As it was made with, in metres.
        far: As it was made with, in metres.
        inverse: As it was made with.

    Returns:
        Of the same shape, float32, metres, 0 where unknown.
    """
    return DepthScale(near, far, inverse=inverse).to_depth(image)


class Depth:
    """Makes pictures of depth images: ``(height, width, 1)`` uint8, 0 where unknown.

    From 1 at ``near`` to 255 at ``far``; ``depth_from_image`` says how exact that is. Floats
    are metres, unsigned integers are millimetres. Intrinsics stay: no pixel moves.

    Args:
        observation_space: With depth images ``(height, width)`` or ``(height, width, 1)``.
        action_space: Any.
        spec: What the robot is.
        near: In metres.
        far: In metres; None for the largest depth that the robot declares (``max_depth``).
        inverse: Whether equal steps are steps of 1 / depth.
        streams: Of depth, by name; None for all that the robot declares as depth.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        spec: RobotSpec | None = None,
        *,
        near: float = 0.1,
        far: float | None = None,
        inverse: bool = False,
        streams: Sequence[str] | None = None,
    ) -> None:
        self._own = observation_space
        parts = parts_of(observation_space)
        names = _depth_streams(parts, spec) if streams is None else tuple(streams)
        boxes = {name: _check(name, box_at(parts, name)) for name in names}
        if far is None:
            far = max(_declared(name, box) for name, box in boxes.items())
        scale = DepthScale(near, far, inverse=inverse)
        self.options: dict[str, Any] = {
            "near": scale.near,
            "far": scale.far,
            "inverse": inverse,
            "streams": list(names),
        }
        self._scale = scale
        self._tables = {
            name: scale.table(np.dtype(box.dtype)) if np.dtype(box.dtype).kind == "u" else None
            for name, box in boxes.items()
        }
        pictures = {
            name: spaces.Box(0, 255, (*box.shape[:2], 1), np.uint8) for name, box in boxes.items()
        }
        self.space = replace_boxes(observation_space, pictures)

    def reset(self, observation: Any) -> Any:
        """Return the observation with pictures."""
        return self.again(observation)

    def step(self, observation: Any, action: Any, remote: Mapping[str, Any]) -> Any:
        """Return the observation with pictures."""
        return self.again(observation)

    def again(self, observation: Any) -> Any:
        """Return the observation with pictures; there is no memory."""
        parts = values(self._own, observation)
        for name, table in self._tables.items():
            depth = parts[name]
            image = self._scale.to_image(depth) if table is None else table[depth]
            parts[name] = image.reshape(*image.shape[:2], 1)
        return join(self._own, parts)


def _depth_streams(
    parts: Mapping[str, spaces.Space[Any]], spec: RobotSpec | None
) -> tuple[str, ...]:
    declared = () if spec is None else spec.streams
    kinds = {stream.name: stream.kind for stream in declared}
    found = tuple(name for name in parts if kinds.get(name) is StreamKind.DEPTH)
    if not found:
        raise ConfigurationError(
            f"none of {', '.join(map(repr, parts))} is declared as depth; give streams=[...], or "
            "observe a depth stream"
        )
    return found


def _check(name: str, box: spaces.Box) -> spaces.Box:
    dtype = np.dtype(box.dtype)
    is_flat = len(box.shape) == 2 or (len(box.shape) == 3 and box.shape[2] == 1)
    if not is_flat or not (dtype.kind == "f" or (dtype.kind == "u" and dtype.itemsize <= 2)):
        raise ConfigurationError(
            f"{name!r} is {box.shape} {dtype}; a depth image is (height, width) of floats, in "
            "metres, or of uint16, in millimetres"
        )
    return box


def _declared(name: str, box: spaces.Box) -> float:
    highest = float(np.max(box.high))
    if np.dtype(box.dtype).kind == "f" and highest < math.inf:
        return highest
    raise ConfigurationError(
        f"nothing says how far {name!r} can see; give far, in metres (--depth-far)"
    )
