"""Actions in [-1, 1], for an algorithm that does not scale them itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

__all__ = ["ScaledActions", "from_unit", "is_unit", "unit_box"]


def is_unit(space: spaces.Space[Any]) -> bool:
    """Whether this is a Box from -1 to 1."""
    return isinstance(space, spaces.Box) and bool(np.all(space.low == -1) & np.all(space.high == 1))


def unit_box(space: spaces.Box) -> spaces.Box:
    """Return the Box of this shape from -1 to 1."""
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)


def from_unit(action: NDArray[Any], space: spaces.Box) -> NDArray[Any]:
    """Map [-1, 1] to the bounds of a Box, and clip what is beyond. Copies.

    Args:
        action: ``(..., *space.shape)``, of which each element is meant to be in [-1, 1].
        space: The robot's own actions.

    Returns:
        Of the shape of ``action`` and the dtype of ``space``, within its bounds.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    scaled = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1.0) * 0.5 * (high - low)
    if np.dtype(space.dtype).kind != "f":
        scaled = np.rint(scaled)
    clipped: NDArray[Any] = np.clip(scaled.astype(space.dtype), space.low, space.high)
    return clipped


class ScaledActions(VecEnvWrapper):
    """Robots whose actions are seen as a Box from -1 to 1.

    PPO starts with actions of size 1, whatever the bounds: at a joint with +-0.1 rad/s nearly
    all of them would be cut, and at one with +-100 all of them would be nothing.
    """

    def __init__(self, venv: VecEnv) -> None:
        assert isinstance(venv.action_space, spaces.Box)
        super().__init__(venv, action_space=unit_box(venv.action_space))
        self._own = venv.action_space

    def reset(self) -> VecEnvObs:
        """Reset all robots."""
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send actions in [-1, 1]."""
        self.venv.step_async(from_unit(actions, self._own))

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of them."""
        return self.venv.step_wait()
