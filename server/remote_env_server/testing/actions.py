"""Actions that a check may send: small ones to a robot, any to a simulator, bad ones on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec

__all__ = ["ActionSource", "not_finite", "out_of_bounds"]

# Of the range of each number, to either side of the middle.
_SMALL: Final = 0.02


class ActionSource:
    """Chooses actions; the same seed gives the same ones."""

    def __init__(
        self, spec: RobotSpec, seed: int, *, choose: Callable[[Any], Any] | None = None
    ) -> None:
        """Prepare.

        Args:
            spec: Of the robot. In lockstep the whole action space is sampled: nothing is
                there to be hurt. In realtime Box actions stay within 2 % of their range
                around 0, or around the middle where 0 is outside; others stay at their first
                value.
            seed: Of the random numbers.
            choose: Chooses instead, from the observation.
        """
        self._space = copy.deepcopy(spec.action_space)
        self._space.seed(seed)
        self._codec = SpaceCodec(spec.action_space, root="action")
        self._is_simulated = spec.mode is Mode.LOCKSTEP
        self._generator = np.random.default_rng(seed)
        self._choose = choose

    def next(self, observation: Any) -> Any:
        """Return the next action, for an observation."""
        if self._choose is not None:
            return self._choose(observation)
        if self._is_simulated:
            return self._space.sample()
        return self._codec.unflatten(
            [
                _small(leaf, array.dtype, self._generator)
                for leaf, array in zip(self._codec.leaf_spaces, self._codec.layout, strict=True)
            ]
        )


def _small(
    space: spaces.Space[Any], dtype: np.dtype[Any], generator: np.random.Generator
) -> NDArray[Any]:
    if not isinstance(space, spaces.Box):
        first = getattr(space, "start", 0)
        return np.broadcast_to(np.asarray(first, dtype), space.shape or ()).copy()
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    span = np.where(bounded, np.where(bounded, high, 1.0) - np.where(bounded, low, 0.0), 1.0)
    halfway = np.where(bounded, np.where(bounded, low, 0.0) + span / 2, np.clip(0.0, low, high))
    middle = np.where((low <= 0.0) & (high >= 0.0), 0.0, halfway)
    moved = middle + _SMALL * span * generator.uniform(-1.0, 1.0, space.shape)
    small = np.clip(moved, low, high) if dtype.kind == "f" else np.round(middle)
    return small.astype(dtype)


def out_of_bounds(space: spaces.Space[Any], action: Any) -> Any | None:
    """Return the action with one number just out of its bounds; None if none can be."""
    codec = SpaceCodec(space, root="action")
    arrays = [np.array(array) for array in codec.flatten(action)]
    for leaf, array in zip(codec.leaf_spaces, arrays, strict=True):
        if not array.size:
            continue
        if isinstance(leaf, spaces.Box):
            for index in np.ndindex(leaf.shape):
                if _push_out(array, index, leaf.low[index].item(), leaf.high[index].item()):
                    return codec.unflatten(arrays)
        else:
            array.flat[0] = _first_number_beyond(leaf)
            return codec.unflatten(arrays)
    return None


def _push_out(array: NDArray[Any], index: tuple[int, ...], low: float, high: float) -> bool:
    """Set one number just beyond a finite bound, if its dtype has such a number."""
    for bound, sign in ((high, 1), (low, -1)):
        if not np.isfinite(bound):
            continue
        if array.dtype.kind == "f":
            beyond = bound + sign * max(1e-3 * abs(bound), 1e-3)
        else:
            beyond = bound + sign
            if not np.iinfo(array.dtype).min <= beyond <= np.iinfo(array.dtype).max:
                continue
        candidate = array.dtype.type(beyond)
        if np.isfinite(candidate) and not low <= candidate <= high:
            array[index] = candidate
            return True
    return False


def _first_number_beyond(space: spaces.Space[Any]) -> int:
    """Return the smallest integer that is too large for the first number of a space."""
    if isinstance(space, spaces.Discrete):
        return int(space.start + space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.start.flat[0] + space.nvec.flat[0])
    return 2  # MultiBinary


def not_finite(space: spaces.Space[Any], action: Any) -> Any | None:
    """Return the action with one NaN in it; None if it has no floating-point number."""
    codec = SpaceCodec(space, root="action")
    arrays = [np.array(array) for array in codec.flatten(action)]
    for array in arrays:
        if array.dtype.kind == "f" and array.size:
            array.flat[0] = np.nan
            return codec.unflatten(arrays)
    return None
