"""What a step of several robots costs: over the wire and locally, side by side in one run.

python benchmarks/vector_step.py [--arms 1 4 8] [--rounds 5] [--steps 150]

Each double pendulum is served by a process of its own. Four vector environments of SB3 take
turns in bursts of some steps, so that a machine whose speed drifts favours none: a DummyVecEnv of
gym.make (whose robots are served too, and asked one after the other), RemoteRobotVecEnv, and
Dummy- and SubprocVecEnv of LocalRobotEnv. Client CPU is that of the learner's process with all
its threads; of SubprocVecEnv without its workers.
"""

import argparse
import contextlib
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import remote_env  # noqa: F401 (registers the environment)
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_server import LocalRobotEnv, RobotServer
from remote_env_server.robots import make_robot

ROBOT = "double-pendulum"


def serve(pipe: Connection) -> None:
    """Serve a double pendulum until the pipe is closed."""
    with RobotServer(make_robot(ROBOT), port=0) as server:
        pipe.send(server.url)
        with contextlib.suppress(EOFError):
            pipe.recv()


@contextlib.contextmanager
def served(count: int) -> Iterator[list[str]]:
    """Start so many processes; yield their urls."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(count):
        here, there = multiprocessing.Pipe()
        process = context.Process(target=serve, args=(there,))
        process.start()
        there.close()
        started.append((process, here))
    yield [pipe.recv() for _, pipe in started]
    for process, pipe in started:
        pipe.close()
        process.join(10)
        process.kill()


def make_remote(url: str) -> Callable[[], gym.Env[Any, Any]]:
    return lambda: gym.make("RemoteRobot-v0", url=url, disable_env_checker=True)


def make_local() -> gym.Env[Any, Any]:
    return LocalRobotEnv(make_robot(ROBOT))


def burst(env: VecEnv, steps: int, rng: np.random.Generator) -> tuple[float, float, list[float]]:
    """Return wall and CPU seconds per step of one robot, and the wall seconds of each step."""
    actions = rng.uniform(-0.3, 0.3, (steps, env.num_envs, 1)).astype(np.float32)
    took = []
    cpu, wall = time.process_time(), time.perf_counter()
    for action in actions:
        began = time.perf_counter()
        env.step(action)
        took.append(time.perf_counter() - began)
    count = steps * env.num_envs
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count, took


def measure(arms: int, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Return what each kind of environment costs with so many robots."""
    with served(2 * arms) as urls:
        envs: dict[str, VecEnv] = {
            "(a) Dummy of gym.make": DummyVecEnv([make_remote(url) for url in urls[:arms]]),
            "(b) RemoteRobotVecEnv": RemoteRobotVecEnv(urls[arms:]),
            "(c) Dummy of Local": DummyVecEnv([make_local] * arms),
            "(d) Subproc of Local": SubprocVecEnv([make_local] * arms, start_method="spawn"),
        }
        rng = np.random.default_rng(1)
        for env in envs.values():
            env.seed(1)
            env.reset()
            burst(env, steps, rng)
        bursts: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in envs}
        for _ in range(rounds):
            for name, env in envs.items():
                bursts[name].append(burst(env, steps, rng))
        for env in envs.values():
            env.close()
    return {name: summary(told) for name, told in bursts.items()}


def summary(bursts: list[tuple[float, float, list[float]]]) -> dict[str, float]:
    """Return medians over the rounds."""
    return {
        "env steps per s": 1 / statistics.median(wall for wall, _, _ in bursts),
        "client CPU us per env step": 1e6 * statistics.median(cpu for _, cpu, _ in bursts),
        "vector step p50 us": 1e6 * float(np.median([t for *_, took in bursts for t in took])),
        "vector step p99 us": 1e6
        * float(np.percentile([t for *_, took in bursts for t in took], 99)),
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150, help="in each burst")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.platform()}")
    results = {arms: measure(arms, options.rounds, options.steps) for arms in options.arms}
    for arms, rows in results.items():
        for name, row in rows.items():
            print(
                f"N={arms}  {name:22} {row['env steps per s']:7.0f} env steps/s   "
                f"client CPU {row['client CPU us per env step']:5.0f} us   vector step p50 "
                f"{row['vector step p50 us']:6.0f} us, p99 {row['vector step p99 us']:6.0f} us"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
