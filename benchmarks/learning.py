"""PPO on arms: what it costs through the wire and locally, side by side, and that it is the same.

python benchmarks/learning.py [--robots 4] [--steps 8192] [--seeds 0 1] [--rounds 3] [--quick]

Three vector environments take turns at whole trainings with the same seeds: RemoteRobotVecEnv of
arms that are served by processes of their own, and Dummy- and SubprocVecEnv of LocalRobotEnv.
Only collecting and updating counts; start-up is told apart, and evaluations and hashes are taken
while the clocks stand still. An evaluation is of 20 goals with the deterministic policy, on an
arm of this process, once for each set of parameters. The learner's CPU is that of its process
with all its threads, without servers and workers. Exit code 1 if the hashes (of all observations,
actions and rewards, and of the parameters in the end) are not all equal.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_agents.config import TrainConfig
from remote_env_agents.presets import Preset, make_model
from remote_env_agents.rollouts import InvalidRows
from remote_env_agents.served import ServedRobots
from remote_env_server import LocalRobotEnv
from remote_env_server.robots.arm import ArmConfig, ArmRobot

WIRE, DUMMY, SUBPROC = "(a) RemoteRobotVecEnv", "(b) Dummy of Local", "(c) Subproc of Local"
ROLLOUT = 512  # steps of all robots between two updates
EVALUATE_EVERY = 1024
GOALS = range(10_000, 10_020)  # seeds of the episodes of an evaluation


@dataclass
class Run:
    """One training.

    Attributes:
        seed: Of PPO and of the robots.
        wall: Of collecting and updating, in seconds.
        cpu: Of the learner's process meanwhile, in seconds.
        collecting: How much of the wall time was not for updates.
        rollouts: SHA-256 of all observations, actions and rewards.
        parameters: SHA-256 of the policy in the end.
        success: Share of the goals reached, by the number of steps.
    """

    seed: int
    wall: float = 0.0
    cpu: float = 0.0
    collecting: float = 0.0
    rollouts: str = ""
    parameters: str = ""
    success: dict[int, float] = field(default_factory=dict)

    @property
    def steps_to_learn(self) -> float:
        """After how many steps 95 % of the goals were reached."""
        return next((steps for steps, rate in self.success.items() if rate >= 0.95), float("inf"))


class Examiner:
    """Evaluates policies on an arm of its own; each set of parameters once."""

    def __init__(self) -> None:
        self._env = make_local()
        self._known: dict[str, float] = {}

    def success_rate(self, model: Any) -> float:
        """Return the share of the goals that a policy reaches."""
        key = hash_of_parameters(model)
        if key not in self._known:
            self._known[key] = statistics.fmean(self._reaches(model, seed) for seed in GOALS)
        return self._known[key]

    def _reaches(self, model: Any, seed: int) -> bool:
        observation, info = self._env.reset(seed=seed)
        has_ended = False
        while not has_ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = self._env.step(action)
            has_ended = terminated or truncated
        return bool(info["is_success"])


class Watch(BaseCallback):
    """Takes the time of a training, and stops the clocks while it looks at what was done."""

    def __init__(self, run: Run, examiner: Examiner) -> None:
        super().__init__()
        self._told = run
        self._examiner = examiner
        self._digest = hashlib.sha256()

    def _on_training_start(self) -> None:
        self._start()

    def _on_rollout_start(self) -> None:
        self._stop()
        if self.num_timesteps >= EVALUATE_EVERY * (len(self._told.success) + 1):
            self._told.success[self.num_timesteps] = self._examiner.success_rate(self.model)
        self._start()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._told.collecting += time.perf_counter() - self._wall
        self._stop()
        buffer = self.locals["rollout_buffer"]
        for name, array in sorted(buffer.observations.items()):
            self._digest.update(name.encode() + array.tobytes())
        self._digest.update(buffer.actions.tobytes() + buffer.rewards.tobytes())
        self._start()

    def _on_training_end(self) -> None:
        self._stop()
        self._told.rollouts = self._digest.hexdigest()
        self._told.parameters = hash_of_parameters(self.model)
        self._told.success[self.num_timesteps] = self._examiner.success_rate(self.model)

    def _start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def _stop(self) -> None:
        self._told.wall += time.perf_counter() - self._wall
        self._told.cpu += time.process_time() - self._cpu


def hash_of_parameters(model: Any) -> str:
    """Return the SHA-256 of a policy."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.policy.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def make_local() -> LocalRobotEnv:
    return LocalRobotEnv(ArmRobot(ArmConfig(cameras=("none",))))


@contextlib.contextmanager
def started(robots: int) -> Iterator[tuple[dict[str, VecEnv], dict[str, float]]]:
    """Start everything; yield the environments, and the seconds that each took to start."""
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        urls = stack.enter_context(ServedRobots("arm", count=robots, options=["--cameras", "none"]))
        makers: dict[str, Callable[[], VecEnv]] = {
            WIRE: lambda: RemoteRobotVecEnv(urls),
            DUMMY: lambda: DummyVecEnv([make_local] * robots),
            SUBPROC: lambda: SubprocVecEnv([make_local] * robots, start_method="spawn"),
        }
        envs: dict[str, VecEnv] = {}
        took: dict[str, float] = {}
        for name, make in makers.items():
            envs[name] = make()
            stack.callback(envs[name].close)
            took[name] = time.perf_counter() - began
            began = time.perf_counter()
        yield envs, took


def train(env: VecEnv, seed: int, steps: int, examiner: Examiner) -> Run:
    """Train a new policy."""
    preset = Preset(
        net_arch=(64, 64),
        learning_rate=3e-3,
        gamma=0.9,
        batch_size=256,
        extra={"n_steps": ROLLOUT // env.num_envs, "n_epochs": 10},
    )
    model: Any = make_model(TrainConfig(urls=("",), seed=seed, device="cpu"), preset, env)
    run = Run(seed)
    model.learn(steps, callback=[InvalidRows(), Watch(run, examiner)])
    return run


def measure(
    robots: int, steps: int, seeds: Sequence[int], rounds: int
) -> tuple[dict[str, list[Run]], dict[str, float]]:
    """Return all trainings of each environment, and the seconds that each took to start."""
    examiner = Examiner()
    with started(robots) as (envs, start_up):
        for env in envs.values():  # the first training pays for what torch loads late
            train(env, seeds[0], ROLLOUT, examiner)
        runs: dict[str, list[Run]] = {name: [] for name in envs}
        names = list(envs)
        for number in range(rounds):
            for seed in seeds:
                for name in names:
                    runs[name].append(train(envs[name], seed, steps, examiner))
                    print(f"round {number + 1}, {told(name, runs[name][-1])}", flush=True)
                names = names[1:] + names[:1]  # none is always the first
    return runs, start_up


def told(name: str, run: Run) -> str:
    return (
        f"seed {run.seed}  {name:22} {run.wall:6.2f} s ({run.collecting:5.2f} collecting)  "
        f"learner's CPU {run.cpu:6.2f} s  95 % after {run.steps_to_learn:g} steps  "
        f"rollouts {run.rollouts[:12]}  parameters {run.parameters[:12]}"
    )


def ratio(runs: Mapping[str, Sequence[Run]], name: str) -> float:
    """Return the median of how much longer the wire takes, round for round."""
    pairs = zip(runs[WIRE], runs[name], strict=True)
    return statistics.median(wire.wall / other.wall for wire, other in pairs)


def are_equal(runs: Mapping[str, Sequence[Run]]) -> bool:
    """Whether every training with one seed did and learned the same."""
    every = [run for of_one in runs.values() for run in of_one]
    kinds = {(run.seed, run.rollouts, run.parameters, run.steps_to_learn) for run in every}
    return len(kinds) == len({run.seed for run in every})


def main() -> int:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8192, help="of all robots, in each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short training of each")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.rounds = 2 * ROLLOUT, [0], 1
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
        f"Stable-Baselines3 {stable_baselines3.__version__}, {platform.platform()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    runs, start_up = measure(options.robots, options.steps, options.seeds, options.rounds)
    print(f"\nN={options.robots}, medians of {options.rounds} rounds of {options.seeds}")
    for name, seconds in start_up.items():
        wall = statistics.median(run.wall for run in runs[name])
        cpu = statistics.median(run.cpu for run in runs[name])
        collecting = statistics.median(run.collecting for run in runs[name])
        print(
            f"{name:22} {wall:6.2f} s ({collecting:5.2f} collecting)   learner's CPU {cpu:6.2f} s"
            f"   start-up {seconds:5.2f} s   95 % after "
            f"{[run.steps_to_learn for run in runs[name][: len(options.seeds)]]} steps"
        )
    ratios = {name: ratio(runs, name) for name in (DUMMY, SUBPROC)}
    for name, value in ratios.items():
        print(f"wall time through the wire: {value:4.2f} x {name}")
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    equal = are_equal(runs)
    print("all rollouts and policies are bit-identical" if equal else "THE HASHES DIFFER")
    told_runs = {name: [asdict(run) for run in of_one] for name, of_one in runs.items()}
    print(json.dumps({"runs": told_runs, "start-up": start_up, "ratios": ratios, "equal": equal}))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
