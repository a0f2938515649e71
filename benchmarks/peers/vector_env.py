"""No network at all: Gymnasium's AsyncVectorEnv of one environment."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from benchmarks.machine import pin
from benchmarks.payloads import Arrays, Sizes, observation_of
from benchmarks.peers import Step, Tell
from benchmarks.peers.ours import sizes_of


class Still(gym.Env[Any, Any]):
    """Returns the same observation for ever."""

    def __init__(self, sizes: Sizes, core: int | None, learner: int) -> None:
        """Run on that core; but the vector environment makes one in the learner's process too."""
        if os.getpid() != learner:
            pin(core)
        self.observation = observation_of(sizes)
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(0, 255, a.shape, np.uint8)
                if a.dtype == np.uint8
                else spaces.Box(-np.inf, np.inf, a.shape, a.dtype.type)
                for name, a in self.observation.items()
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return self.observation, 0.0, False, False, {}


def serve(tell: Tell, observation: Arrays) -> None:
    """Tell on which core a server may run: the worker is started by whoever steps."""
    allowed = os.sched_getaffinity(0)
    tell(min(allowed) if len(allowed) == 1 else None)
    threading.Event().wait()


@contextlib.contextmanager
def connect(address: int | None, observation: Arrays) -> Iterator[Step]:
    """Start the worker, and step it."""
    make = functools.partial(Still, sizes_of(observation), address, os.getpid())
    envs = AsyncVectorEnv([make], context="forkserver")
    envs.reset()

    def step(action: NDArray[Any]) -> Arrays:
        arrays: Arrays = envs.step(action[np.newaxis])[0]
        return {name: array[0] for name, array in arrays.items()}

    try:
        yield step
    finally:
        envs.close()
