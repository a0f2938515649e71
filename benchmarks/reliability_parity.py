"""A served Gymnasium environment against the local one, bit by bit, with every guard on.

Stale streams raise, episodes have a limit of steps, every action passes the guard, and one of
the two remote runs is played slowly: in lockstep no clock decides anything. What we add under
``info["remote"]`` must be the same in both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

import remote_env
from benchmarks.reliability_rig import Line, Scale
from remote_env_server import RobotServer
from remote_env_server.robots import make_robot

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # there may be no screen
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1")
LIMIT = 130
MAX_AGE = 0.05
PAUSE = 0.2  # four times max_age, and longer than an action lives in real time


def play(env: gym.Env[Any, Any], steps: int, seed: int, *, pauses: bool = False) -> list[Any]:
    """Return everything that came back in so many steps."""
    rng = np.random.default_rng(seed)
    box = env.action_space
    came: list[Any] = [env.reset(seed=seed)]
    for number in range(steps):
        if isinstance(
            box, gym.spaces.Box
        ):  # also out of bounds, which is the environment's business
            action: Any = (rng.normal(0.0, 1.2, box.shape) * box.high).astype(np.float32)
        else:
            action = int(rng.integers(2))
        if pauses and number % 97 == 5:
            time.sleep(PAUSE)
        came.append(env.step(action))
        if came[-1][2] or came[-1][3]:
            came.append(env.reset(seed=int(rng.integers(1 << 30))))
    return came


def remote(name: str, steps: int, seed: int, *, pauses: bool) -> tuple[list[Any], list[Any], int]:
    """Play a served environment; return what came, what we added, and the actions guarded."""
    with RobotServer(make_robot(f"gymnasium:{name}"), port=0) as server:
        env = gym.make(
            "RemoteRobot-v0",
            url=server.url,
            max_episode_steps=LIMIT,
            max_age=MAX_AGE,
            on_stale="raise",
            disable_env_checker=True,
        )
        came = play(env, steps, seed, pauses=pauses)
        guard = server.statistics()["guard"]
        assert isinstance(guard, dict)
        guarded = int(str(guard["checked"]))
        env.close()
    return came, [each[-1].pop("remote") for each in came], guarded


def parity(scale: Scale) -> Iterator[Line]:
    """Compare."""
    assert remote_env  # registers RemoteRobot-v0
    for name in ENVIRONMENTS:
        steps, seeds = scale.pick(1000, 1000), scale.pick(1, 5)
        equal = same = guarded = 0
        for seed in range(scale.seed, scale.seed + seeds):
            local = gym.make(name, max_episode_steps=LIMIT, disable_env_checker=True)
            expected = play(local, steps, seed)
            local.close()
            first, added, count = remote(name, steps, seed, pauses=False)
            second, again, _ = remote(name, steps, seed, pauses=True)
            guarded += count
            equal += data_equivalence(first, expected, exact=True)
            equal += data_equivalence(second, expected, exact=True)
            same += data_equivalence(added, again, exact=True)
        yield Line(
            f"{name}, served and local, {steps} steps: bit by bit the same, with all guards on",
            f"{equal} of {2 * seeds} runs; {guarded} actions guarded",
            equal == 2 * seeds and guarded == steps * seeds,
        )
        yield Line(
            f'{name}: info["remote"] the same in two runs, one of them slow',
            f"{same} of {seeds} pairs",
            same == seeds,
        )
