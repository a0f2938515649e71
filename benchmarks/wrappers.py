"""What the wrappers cost for each step, beside those of Gymnasium and SB3, and what one is for.

python benchmarks/wrappers.py [--rounds 7] [--steps 300]
python benchmarks/wrappers.py --learn [--seeds 0 1 2] [--learn-steps 12288]

The first measures wrappers around environments that do nothing, with a picture of 84x84, depth of
the same size and seven joints; in bursts that take turns, so that a machine whose speed drifts
favours none. Each figure is that of the wrapped environment less that of the bare one: medians.

The second trains PPO on a robot whose actions take effect three control periods late, with and
without the history of its actions. It balances: what it is off grows by 35 % in each step, so an
error can be far along before the first answer to it takes effect. No memoryless linear feedback
can hold it (that ends at 1 + 1/3); one of position and the three actions under way can.
"""

import argparse
import json
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from remote_env import wrappers
from remote_env.spec import Mode
from remote_env.wrappers import sb3, vector
from remote_env_agents.config import TrainConfig
from remote_env_agents.presets import make_model, resolve
from remote_env_agents.rollouts import InvalidRows
from remote_env_server import LocalRobotEnv, Outcome, ProprioConfig, Robot

STACK = 4
ROBOTS = 4
DEPTH: dict[str, Any] = {"near": 0.1, "far": 5.0, "streams": ["depth"]}
DELAY = 3  # control periods
LONGEST = 100  # steps of an episode that did not fall


class Still(gym.Env[Any, Any]):
    """Shows the same all the time; fresh arrays, as a robot's are."""

    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def __init__(self, names: Sequence[str]) -> None:
        """Choose what is shown."""
        parts: dict[str, spaces.Space[Any]] = {
            "picture": spaces.Box(0, 255, (84, 84, 3), np.uint8),
            "depth": spaces.Box(0, np.inf, (84, 84), np.float32),
            "joints": spaces.Box(-1, 1, (7,), np.float32),
        }
        self.observation_space = spaces.Dict([(name, parts[name]) for name in names])
        self._shown: dict[str, NDArray[Any]] = self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Show it."""
        return {name: part.copy() for name, part in self._shown.items()}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show it again."""
        return {name: part.copy() for name, part in self._shown.items()}, 0.0, False, False, {}


def cases() -> dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]]:
    """Return for each figure the number of robots, the bare environment and the wrapped one."""
    everything, picture, depth = ("picture", "depth", "joints"), ("picture",), ("depth",)
    recipe: list[tuple[str, Mapping[str, Any]]] = [
        ("ActionHistory", {"steps": 3}),
        ("DepthAsImage", DEPTH),
        ("FrameStack", {"count": STACK}),
    ]

    def one(names: Sequence[str]) -> Callable[[], Any]:
        return lambda: Still(names)

    def dummy(names: Sequence[str]) -> Callable[[], VecEnv]:
        return lambda: DummyVecEnv([lambda: Still(names)] * ROBOTS)

    def sync(names: Sequence[str]) -> Callable[[], Any]:
        return lambda: SyncVectorEnv([lambda: Still(names)] * ROBOTS)

    return {
        "stack, ours": (1, one(picture), lambda: wrappers.FrameStack(Still(picture), STACK)),
        "stack, Gymnasium's": (
            1,
            one(picture),
            lambda: FrameStackObservation(Still(picture), STACK),
        ),
        "depth": (1, one(depth), lambda: wrappers.DepthAsImage(Still(depth), **DEPTH)),
        "history of 3": (
            1,
            one(("joints",)),
            lambda: wrappers.ActionHistory(Still(("joints",)), 3),
        ),
        "all three": (
            1,
            one(everything),
            lambda: wrappers.PreparedObservations(Still(everything), recipe),
        ),
        "VecEnv stack, ours": (
            ROBOTS,
            dummy(picture),
            lambda: sb3.FrameStack(dummy(picture)(), STACK),
        ),
        "VecEnv stack, SB3's": (
            ROBOTS,
            dummy(picture),
            lambda: VecFrameStack(dummy(picture)(), STACK),
        ),
        "VecEnv all three": (
            ROBOTS,
            dummy(everything),
            lambda: sb3.PreparedObservations(dummy(everything)(), recipe),
        ),
        "vector all three": (
            ROBOTS,
            sync(everything),
            lambda: vector.PreparedObservations(sync(everything)(), recipe),
        ),
    }


def burst(env: Any, action: Any, steps: int) -> float:
    """Return the time of a step, in seconds."""
    began = time.perf_counter()
    for _ in range(steps):
        env.step(action)
    return (time.perf_counter() - began) / steps


def costs(*, rounds: int, steps: int) -> dict[str, float]:
    """Return what each wrapper costs, in microseconds for a step of one robot."""
    made = {name: (robots, bare(), wrapped()) for name, (robots, bare, wrapped) in cases().items()}
    took: dict[str, list[float]] = {name: [] for name in made}
    for _, *envs in made.values():
        for env in envs:
            env.reset()
    for _ in range(rounds):
        for name, (robots, bare, wrapped) in made.items():
            action = np.zeros((robots, 7) if robots > 1 else 7, np.float32)
            without, with_it = burst(bare, action, steps), burst(wrapped, action, steps)
            took[name].append((with_it - without) * 1e6 / robots)
    return {name: statistics.median(times) for name, times in took.items()}


class Late(Robot):
    """Balances, with actions that take effect late; falls when it is off by more than 1."""

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    control_hz = 20.0
    seedable = True
    max_episode_steps = LONGEST

    def __init__(self) -> None:
        """Be where it balances."""
        super().__init__()
        self._random = np.random.default_rng()
        self._off = 0.0
        self._under_way: deque[float] = deque(maxlen=DELAY)

    def proprio_configs(self) -> list[ProprioConfig]:
        """Return how far it is off."""
        return [ProprioConfig("off", 1, low=-1.5, high=1.5)]

    def get_metadata(self) -> Mapping[str, Any]:
        """Say how late actions take effect."""
        return {"action_delay": DELAY / self.control_hz}

    def reset(self, *, seed: int | None = None, options: Any = None) -> None:
        """Be a little off."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._off = float(self._random.uniform(-0.15, 0.15))
        self._under_way.extend([0.0] * DELAY)
        self.update_proprio("off", [self._off])

    def apply_action(self, action: Any) -> None:
        """Do what was asked for three periods ago."""
        push = self._under_way.popleft()
        self._under_way.append(float(action[0]))
        self._off = float(np.clip(1.35 * self._off + 0.35 * push, -1.5, 1.5))
        self.update_proprio("off", [self._off])

    def outcome(self, observation: Any) -> Outcome:
        """Say whether it fell."""
        return Outcome(reward=1.0, terminated=abs(self._off) > 1.0)

    def hold(self) -> None:
        """Do nothing: it is a simulation."""


def learn(seed: int, *, with_history: bool, steps: int) -> list[int]:
    """Train PPO; return for how many steps it then balances, of 20 episodes."""
    torch.set_num_threads(1)
    config = TrainConfig(("ws://127.0.0.1:1",), seed=seed, steps=steps)
    envs: VecEnv = DummyVecEnv([lambda: LocalRobotEnv(Late())] * ROBOTS)
    if with_history:
        envs = sb3.ActionHistory(envs)  # as many as the robot says
    envs.seed(seed)
    preset = resolve(config, robots=ROBOTS, longest=LONGEST, pictures=False)
    model = make_model(config, preset, envs)
    model.learn(steps, callback=InvalidRows())
    lengths: list[int] = []
    envs.seed(10_000)
    observation = envs.reset()
    length = np.zeros(ROBOTS, int)
    while len(lengths) < 20:
        assert not isinstance(observation, tuple)
        action, _ = model.predict(observation, deterministic=True)
        observation, _, dones, _ = envs.step(action)
        length += 1
        lengths += length[dones].tolist()
        length[dones] = 0
    envs.close()
    return lengths[:20]


def main() -> None:
    """Measure, and write a line of JSON for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learn-steps", type=int, default=12_288)
    given = parser.parse_args()
    print(json.dumps({"machine": platform.processor() or platform.machine()}))
    if not given.learn:
        for name, cost in costs(rounds=given.rounds, steps=given.steps).items():
            print(json.dumps({"wrapper": name, "us": round(cost, 1)}))
        return
    for seed in given.seeds:
        for with_history in (False, True):
            began = time.monotonic()
            lengths = learn(seed, with_history=with_history, steps=given.learn_steps)
            said = {
                "seed": seed,
                "history": with_history,
                "mean_length": float(np.mean(lengths)),
                "never_fell": sum(length == LONGEST for length in lengths),
                "seconds": round(time.monotonic() - began, 1),
            }
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
