"""What tests of several robots share: environments, actions, and what is compared."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Mixed(gym.Env):
    """All kinds of spaces, nested; ends by itself, and tells more at some steps than at others."""

    observation_space = spaces.Dict(
        {
            "pair": spaces.Tuple([spaces.Discrete(9, start=-2), spaces.MultiBinary(3)]),
            "inner": spaces.Dict({"x": spaces.Box(-9, 9, (2, 3)), "y": spaces.Discrete(4)}),
            "many": spaces.MultiDiscrete([3, 4]),
        }
    )
    action_space = spaces.Dict(
        {
            "a": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float64)]),
            "b": spaces.MultiBinary(2),
        }
    )

    def __init__(self):
        self.observation_space = copy.deepcopy(type(self).observation_space)  # with its generator

    def _observe(self):
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._steps, self._last = 0, int(self.np_random.integers(3, 9))
        return self._observe(), {"last": self._last, "given": dict(options or {})}

    def step(self, action):
        self._steps += 1
        moved = float(np.sum(action["a"][1])) + int(action["a"][0]) + int(np.sum(action["b"]))
        info = {"moved": moved, "deep": {"steps": self._steps, "vector": np.arange(3) * moved}}
        if self._steps % 3 == 0:
            info["seldom"] = "now"
        if self._last % 2:
            info["deep"]["odd"] = np.float32(self._last)
        return self._observe(), moved, self._steps >= self._last, False, info


gym.register("Mixed-v0", entry_point=Mixed)


def without_ours(told):
    """Return what a vector environment told, without what says whether rows are valid."""
    told[-1]["remote"].pop("valid")
    told[-1]["remote"].pop("_valid")
    return told
