"""What a step of several robots costs: ours beside what a user would build, in one run.

python benchmarks/vector.py [--quick] [--robots 1 2 4 8 16] [--payloads P0 P3 P1 P2]
                            [--periods 10 0] [--rounds 3] [--seconds 2]

Every robot is a process of its own; its step costs nothing, and it answers at once or at the end of
a control period. Of each, four learners take turns in bursts: our vector environment, Gymnasium's
``AsyncVectorEnv`` of remote environments, our ``VecEnv`` for Stable-Baselines3, and its
``SubprocVecEnv`` of remote environments. Client CPU is that of the learner's process with all its
threads and workers. The median of the rounds is the figure to quote.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

sys.path.append(str(Path(__file__).resolve().parent.parent))

import remote_env
from benchmarks.payloads import PAYLOADS, Rig, Sizes
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_server import RobotServer

Step = Callable[[Any], object]


def serve(pipe: Connection, sizes: Sizes, period: float) -> None:
    """Serve one robot until the pipe is closed."""
    robot = Rig(sizes)
    if period:
        robot.control_hz = 1.0 / period
    with RobotServer(robot, port=0, mode="realtime" if period else "lockstep") as server:
        pipe.send(server.url)
        with contextlib.suppress(EOFError):
            pipe.recv()


@contextlib.contextmanager
def served(count: int, sizes: Sizes, period: float) -> Iterator[list[str]]:
    """Start so many processes; yield their urls."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(count):
        here, there = multiprocessing.Pipe()
        process = context.Process(target=serve, args=(there, sizes, period))
        process.start()
        there.close()
        started.append((process, here))
    try:
        yield [pipe.recv() for _, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(10)
            process.kill()


def make_remote(url: str) -> Callable[[], gym.Env[Any, Any]]:
    """Return what makes one remote environment, as a worker does."""
    return lambda: remote_env.RemoteRobotEnv(url, take=True)


class Learner:
    """One way to step several robots."""

    def __init__(self, env: Any, step: Step, workers: list[int]) -> None:
        """Take an environment, how it is stepped, and the processes that work for it."""
        self.env, self.step, self.workers = env, step, workers

    def cpu(self) -> float:
        """Return the seconds of CPU so far, of this process and the workers."""
        ticks = 0
        for pid in self.workers:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def burst(self, seconds: float, action: Any) -> dict[str, float]:
        """Step for a while; return what that cost."""
        self.env.reset()
        for _ in range(3):
            self.step(action)
        cpu, began, steps = self.cpu(), time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.step(action)
            steps += 1
        took = time.perf_counter() - began
        count = steps * len(action)
        return {"env steps/s": count / took, "CPU us": (self.cpu() - cpu) / count * 1e6}


def learners(urls: list[str], names: list[str]) -> dict[str, Learner]:
    """Connect all of them to the same robots; who resets takes them."""
    made = {}
    if "ours" in names:
        env = gym.make_vec("RemoteRobot-v0", urls=urls, take=True)
        made["ours"] = Learner(env, env.step, [])
    if "AsyncVectorEnv" in names:
        theirs = gym.vector.AsyncVectorEnv([make_remote(url) for url in urls], context="forkserver")
        made["AsyncVectorEnv"] = Learner(
            theirs, theirs.step, [p.pid or 0 for p in theirs.processes]
        )
    if "our VecEnv" in names:
        vec = RemoteRobotVecEnv(urls, env_kwargs={"take": True})
        made["our VecEnv"] = Learner(vec, vec.step, [])
    if "SubprocVecEnv" in names:
        sub = SubprocVecEnv([make_remote(url) for url in urls], start_method="forkserver")
        made["SubprocVecEnv"] = Learner(sub, sub.step, [p.pid or 0 for p in sub.processes])
    return made


def measure(
    count: int, sizes: Sizes, period: float, rounds: int, seconds: float, names: list[str]
) -> dict[str, dict[str, float]]:
    """Return medians for each learner."""
    with served(count, sizes, period) as urls:
        all_of_them = learners(urls, names)
        action = np.zeros((count, 7), np.float32)
        told: dict[str, list[dict[str, float]]] = {name: [] for name in all_of_them}
        for _ in range(rounds):
            for name, learner in all_of_them.items():
                told[name].append(learner.burst(seconds, action))
        for learner in all_of_them.values():
            learner.env.close()
    return {
        name: {key: statistics.median(burst[key] for burst in bursts) for key in bursts[0]}
        for name, bursts in told.items()
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--payloads", nargs="+", default=["P0", "P3", "P1", "P2"])
    parser.add_argument("--periods", type=float, nargs="+", default=[10.0, 0.0], help="in ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each burst")
    parser.add_argument(
        "--learners",
        nargs="+",
        default=["ours", "AsyncVectorEnv", "our VecEnv", "SubprocVecEnv"],
    )
    parser.add_argument("--quick", action="store_true", help="two cells, one round")
    options = parser.parse_args()
    if options.quick:
        options.robots, options.payloads, options.rounds, options.seconds = [4], ["P3"], 1, 0.5
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.platform()}")
    by_name = {name.split()[0]: sizes for name, sizes in PAYLOADS.items()}
    results = []
    for payload in options.payloads:
        for period in options.periods:
            for count in options.robots:
                rows = measure(
                    count,
                    by_name[payload],
                    period / 1e3,
                    options.rounds,
                    options.seconds,
                    options.learners,
                )
                ideal = count * 1e3 / period if period else None
                for name, row in rows.items():
                    share = f" {row['env steps/s'] / ideal:6.1%} of ideal" if ideal else ""
                    print(
                        f"{payload} {period:4.0f} ms N={count:2} {name:15} "
                        f"{row['env steps/s']:8.0f} env steps/s{share}   client CPU "
                        f"{row['CPU us']:6.0f} us per env step",
                        flush=True,
                    )
                    results.append(
                        {"payload": payload, "period": period, "robots": count, "of": name, **row}
                    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
