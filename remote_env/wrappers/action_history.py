"""The last actions as part of the observation: what is under way and cannot be seen yet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec
from remote_env.wrappers.transforms import parts_of, values

__all__ = ["NAME", "History", "actions_under_way"]

NAME: Final = "action_history"
DELAY: Final = "action_delay"  # where a robot's metadata says it


def actions_under_way(spec: RobotSpec) -> int:
    """Return how many actions an observation may not show yet when the next one is chosen.

    In ``lockstep`` there is none. In ``realtime`` the last one goes on until the next one comes,
    and in ``delayed`` it was applied just after the observation: that is one. To it comes what
    the robot itself declares, ``get_metadata()["action_delay"]``: the seconds from an applied
    action to an observation that shows its effect, of a slow actuator or an old picture.

    Raises:
        ConfigurationError: If what the robot declares is no such time.

    Source:
        Katsikopoulos and Engelbrecht, Markov decision processes with delays and asynchronous
        cost collection, IEEE Trans. Automatic Control 48 (4), 2003: with a constant delay, the
        observation together with the actions since then is a Markov state.
    """
    declared: Any = spec.extra.get(DELAY, 0.0)
    is_number = isinstance(declared, (int, float)) and not isinstance(declared, bool)
    if not is_number or not 0 <= declared < math.inf:
        raise ConfigurationError(
            f"{spec.name} declares {DELAY}={declared!r:.40}; it must be seconds, 0 or more"
        )
    if declared and not spec.control_hz:
        raise ConfigurationError(
            f"{spec.name} declares {DELAY}={declared} s and no control_hz; give the number of "
            "actions"
        )
    # 0.1 s at 10 Hz is one period, whatever the rounding makes of it.
    periods = math.ceil(float(declared) * spec.control_hz - 1e-9)
    return periods + (spec.mode is not Mode.LOCKSTEP)


class History:
    """Adds ``"action_history"``: ``(steps * n,)`` float32, the oldest first.

    The n numbers of an action are those of what was executed, as ``info["remote"]`` says in
    ``"action_executed"``, or of what was asked for where nobody says. They are in the robot's
    own units: a Box as it is, within its bounds; what is discrete one-hot. At reset they are
    what the robot does then: where it declares in ``action_limits`` what measures an action (a
    position), and that is observed, what is measured; else 0, or the bound next to it, and
    nothing hot.

    Args:
        observation_space: A flat Dict, or what has no parts: that becomes a Dict, in which it
            is called ``"observation"``.
        action_space: Any that a robot can have.
        spec: What the robot is.
        steps: How many actions; ``"auto"`` for ``actions_under_way``, and if that is 0, nothing
            is added.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        spec: RobotSpec | None = None,
        *,
        steps: int | Literal["auto"] = "auto",
    ) -> None:
        count = _count(steps, spec)
        self.options: dict[str, Any] = {"steps": count}
        self._own = observation_space
        parts = parts_of(observation_space)
        codec = SpaceCodec(action_space, root="action")
        self._codec = codec
        self._leaves = codec.leaf_spaces
        flat = [flatten_space(leaf) for leaf in self._leaves]
        assert all(isinstance(box, spaces.Box) for box in flat)
        self._low = np.concatenate([box.low.astype(np.float32) for box in flat])  # type: ignore[union-attr]
        self._high = np.concatenate([box.high.astype(np.float32) for box in flat])  # type: ignore[union-attr]
        self._measured = _measured(codec, parts, spec)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=count or None)
        self._is_idle = count == 0
        self._fill([self._rest(leaf) for leaf in self._leaves])
        self.space: spaces.Space[Any] = observation_space
        if self._is_idle:
            return
        if NAME in parts:
            raise ConfigurationError(f"the observation has {NAME!r} already; wrap it once")
        low, high = np.tile(self._low, count), np.tile(self._high, count)
        history = spaces.Box(low, high, dtype=np.float32)
        self.space = spaces.Dict([*parts.items(), (NAME, history)])

    @staticmethod
    def _rest(leaf: spaces.Space[Any]) -> NDArray[np.float32]:
        """Return an action that does nothing, as far as anybody can tell; flat."""
        return np.zeros(flatten_space(leaf).shape or (), np.float32)

    def _fill(self, parts: list[NDArray[np.float32]]) -> None:
        row = self._inside(np.concatenate(parts))
        self._actions.clear()
        if not self._is_idle:
            self._actions.extend([row] * (self._actions.maxlen or 0))

    def reset(self, observation: Any) -> Any:
        """Begin an episode: all actions are what the robot does now."""
        seen = values(self._own, observation)
        self._fill(
            [
                self._rest(leaf)
                if stream is None
                else np.asarray(seen[stream], np.float32).reshape(-1)
                for leaf, stream in zip(self._leaves, self._measured, strict=True)
            ]
        )
        return self.again(observation)

    def step(self, observation: Any, action: Any, remote: Mapping[str, Any]) -> Any:
        """Take in what was executed."""
        if not self._is_idle:
            executed = remote.get("action_executed")
            self._actions.append(self._flat(action if executed is None else executed))
        return self.again(observation)

    def _flat(self, action: Any) -> NDArray[np.float32]:
        row: list[NDArray[Any]] = [
            np.asarray(part if isinstance(leaf, spaces.Box) else flatten(leaf, part)).reshape(-1)
            for leaf, part in zip(self._leaves, self._codec.parts(action), strict=True)
        ]
        return self._inside(np.concatenate(row, dtype=np.float32, casting="unsafe"))

    def _inside(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return it within the bounds: some robots go beyond, but networks are scaled by these."""
        inside: NDArray[np.float32] = np.minimum(np.maximum(action, self._low), self._high)
        return inside

    def again(self, observation: Any) -> Any:
        """Return the observation with the actions as they are."""
        if self._is_idle:
            return observation
        parts = values(self._own, observation)
        parts[NAME] = np.concatenate(self._actions)
        return parts


def _count(steps: Any, spec: RobotSpec | None) -> int:
    if steps == "auto":
        if spec is None:
            raise ConfigurationError(
                "steps='auto' needs a robot that says what it is; give the number of actions"
            )
        return actions_under_way(spec)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ConfigurationError(f"steps must be a number of actions or 'auto', not {steps!r:.40}")
    return steps


def _measured(
    codec: SpaceCodec, parts: Mapping[str, spaces.Space[Any]], spec: RobotSpec | None
) -> list[str | None]:
    """Return which stream measures each leaf of the action, where one does and is observed."""
    limits = {} if spec is None else spec.action_limits
    streams = [limits[name].measured if name in limits else "" for name in codec.layout.names]
    return [
        stream if stream in parts and parts[stream].shape == leaf.shape else None
        for stream, leaf in zip(streams, codec.leaf_spaces, strict=True)
    ]
