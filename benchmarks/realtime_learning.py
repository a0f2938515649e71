"""Whether robots keep their control periods while a policy is learned from them.

    python benchmarks/realtime_learning.py --seconds 600 --algo sac

Serves arms in real time, in processes of their own, and trains on them in each of the ways there
are: in the background, after each step (in the collector's thread), between episodes. A control
period without an action is counted as missed, by the robots' own clocks; overruns are those of
these that the robots' control loops missed themselves. Beside it stands a collector that only
acts, with no learner at all: what this machine takes anyway. The policies are evaluated on an arm
in lockstep. Exit code 1 if the background learner missed more than --most-missed.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import stable_baselines3
import torch

from remote_env_agents import TrainConfig, evaluate, train
from remote_env_agents.config import Algorithm, Updates
from remote_env_agents.periods import PeriodCount
from remote_env_agents.robots import look_at, make_vec_env
from remote_env_agents.served import ServedRobots

WAYS: tuple[Updates, ...] = ("background", "each-step", "between-episodes")


@dataclass
class Row:
    """What came of one way.

    Attributes:
        way: Its name.
        periods: How the control periods were kept.
        seconds: That it took.
        per_step: Gradient steps for each step.
        success: Of the policy in the end.
    """

    way: str
    periods: PeriodCount
    seconds: float
    per_step: float
    success: float | None


@contextlib.contextmanager
def served(robots: int, rate: float) -> Iterator[tuple[str, ...]]:
    with ServedRobots(name_of(rate), count=robots, options=["--mode", "realtime"]) as urls:
        yield urls


def name_of(rate: float) -> str:
    """Return what to serve for an arm at this rate."""
    os.environ["ARM_HZ"] = str(rate)
    return f"{Path(__file__).with_name('realtime_arm.py')}:RatedArm"


def only_act(urls: tuple[str, ...], steps: int, rate: float) -> Row:
    """Act by chance."""
    env = make_vec_env(urls)
    periods = PeriodCount(rate, len(urls))
    env.reset()
    began = time.monotonic()
    for _ in range(steps // len(urls)):
        actions = [env.action_space.sample() for _ in urls]
        _, _, dones, infos = env.step(actions)  # type: ignore[arg-type]
        periods.note(infos, list(dones))
    env.close()
    return Row("no learner", periods, time.monotonic() - began, 0.0, None)


def learn(urls: tuple[str, ...], way: Updates, options: argparse.Namespace, steps: int) -> Row:
    """Train a new policy."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            urls, algo=options.algo, steps=steps, updates=way, folder=Path(folder) / "run"
        )
        result = train(config)
        assert result.periods is not None
        assert result.gradient_steps is not None
        return Row(
            way,
            result.periods,
            result.seconds,
            result.gradient_steps / result.steps,
            success_of(str(result.policy), options),
        )


def success_of(policy: str, options: argparse.Namespace) -> float | None:
    """Return which share of the goals a policy reaches, on an arm in lockstep."""
    with ServedRobots(name_of(options.rate), options=["--mode", "lockstep"]) as urls:
        return evaluate(policy, urls, episodes=options.episodes).success_rate


def told(row: Row) -> str:
    p50, p99, most = (1e3 * value for value in row.periods.percentiles(50, 99, 100))
    success = "     -" if row.success is None else f"{100 * row.success:5.1f} %"
    return (
        f"{row.way:17} {row.periods.missed:5} of {row.periods.periods:6} "
        f"({100 * row.periods.missed_rate:6.3f} %)  {row.periods.overruns:5}   "
        f"{p50:7.2f} {p99:7.2f} {most:8.1f}   {row.per_step:5.2f}   {success}   "
        f"{row.seconds:6.1f} s"
    )


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each way")
    algos: tuple[Algorithm, ...] = ("sac", "td3", "tqc")
    parser.add_argument("--algo", choices=algos, default="sac")
    parser.add_argument("--rate", type=float, default=20.0, help="control periods a second")
    parser.add_argument("--robots", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=("none", *WAYS), default=["none", *WAYS])
    parser.add_argument("--episodes", type=int, default=50, help="of an evaluation")
    parser.add_argument("--most-missed", type=float, default=0.1, help="in percent")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, Stable-Baselines3 "
        f"{stable_baselines3.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{platform.platform()}"
    )
    print(
        f"{options.algo}, {options.robots} arms at {options.rate:g} Hz, {options.seconds:g} s "
        f"each; by chance {100 * (success_of('random', options) or 0):.1f} % of goals reached"
    )
    print(
        "                        control periods                period is off by, ms\n"
        "                           missed            overruns      p50     p99      max"
        "   updates/step  success     took"
    )
    steps = round(options.seconds * options.rate) * options.robots
    is_good = True
    for way in options.ways:
        with served(options.robots, options.rate) as urls:
            assert look_at(urls).control_hz == options.rate
            if way == "none":
                row = only_act(urls, steps, options.rate)
            else:
                row = learn(urls, way, options, steps)
        print(told(row), flush=True)
        if way == "background":
            is_good = 100 * row.periods.missed_rate <= options.most_missed
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
