"""The last pictures as one, by their channels: what moves, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec
from remote_env.wrappers.transforms import box_at, join, parts_of, replace_boxes, values

__all__ = ["Frames"]


class Frames:
    """Joins the last ``count`` captures of streams along their last axis, the newest last.

    So a picture ``(height, width, channels)`` becomes ``(height, width, count * channels)``, as
    SB3's CNNs take it. At reset all are the first one: nothing has moved yet. A stream that
    ``info["remote"]["stale"]`` names has delivered nothing, and is not joined twice.

    Args:
        observation_space: With the streams.
        action_space: Any.
        spec: What the robot is; not needed.
        count: How many captures.
        streams: By name, each ``(n,)`` or ``(height, width, channels)``; None for all
            pictures, which are uint8 of three dimensions.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        spec: RobotSpec | None = None,
        *,
        count: int = 4,
        streams: Sequence[str] | None = None,
    ) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"count must be a number of captures, 1 or more, not {count}")
        self._own = observation_space
        parts = parts_of(observation_space)
        names = _pictures(parts) if streams is None else tuple(streams)
        boxes = {name: _check(name, box_at(parts, name)) for name in names}
        self.options: dict[str, Any] = {"count": count, "streams": list(names)}
        self._count = count
        self._names = names
        self._stacks: dict[str, NDArray[Any]] = {}
        stacked = {
            name: spaces.Box(
                np.concatenate([box.low] * count, axis=-1),
                np.concatenate([box.high] * count, axis=-1),
                dtype=np.dtype(box.dtype).type,
            )
            for name, box in boxes.items()
        }
        self.space = replace_boxes(observation_space, stacked)

    def reset(self, observation: Any) -> Any:
        """Begin an episode: all are the first one."""
        parts = values(self._own, observation)
        for name in self._names:
            first = np.concatenate([parts[name]] * self._count, axis=-1)
            self._stacks[name] = np.ascontiguousarray(first)  # other orders stay what they are
        return self._joined(parts)

    def step(self, observation: Any, action: Any, remote: Mapping[str, Any]) -> Any:
        """Take in what came."""
        parts = values(self._own, observation)
        stale = remote.get("stale") or ()
        for name in self._names:
            if name not in stale:
                _push(self._stacks[name], parts[name])
        return self._joined(parts)

    def again(self, observation: Any) -> Any:
        """Return the observation with the captures as they are."""
        if not self._stacks:  # of a robot that was not reset yet
            return self.reset(observation)
        return self._joined(values(self._own, observation))

    def _joined(self, parts: dict[str, Any]) -> Any:
        for name in self._names:
            parts[name] = self._stacks[name].copy()
        return join(self._own, parts)


def _push(stack: NDArray[Any], capture: NDArray[Any]) -> None:
    """Move all captures of a stack back by one, and put the newest last.

    In memory a pixel is its captures side by side, so all of them move with one copy; what the
    last one is then (the first of the next pixel) is overwritten. That is done channel by
    channel: numpy's inner loop would be three bytes long, and five times as slow.
    """
    channels = capture.shape[-1]
    flat = stack.reshape(-1)
    flat[:-channels] = flat[channels:]
    if capture.ndim == 1:
        stack[-channels:] = capture
        return
    for channel in range(channels):
        stack[..., channel - channels] = capture[..., channel]


def _pictures(parts: Mapping[str, spaces.Space[Any]]) -> tuple[str, ...]:
    found = tuple(
        name
        for name, part in parts.items()
        if isinstance(part, spaces.Box) and len(part.shape) == 3 and part.dtype == np.uint8
    )
    if not found:
        raise ConfigurationError(
            f"none of {', '.join(map(repr, parts))} is a picture; give streams=[...], observe a "
            "camera, or make depth a picture first"
        )
    return found


def _check(name: str, box: spaces.Box) -> spaces.Box:
    if len(box.shape) not in (1, 3):
        raise ConfigurationError(
            f"{name!r} has the shape {box.shape}, and what is stacked must be (n,) or (height, "
            "width, channels)"
        )
    return box
