"""PPO on arms of which one is killed now and then, and the same without: what is learned.

python benchmarks/learning_with_kills.py [--robots 4] [--steps 16384] [--every 2000] [--seeds 0 1]
    [--episodes 200] [--picture docs/learning-with-kills.png] [--quick]

Each arm is a process of its own. Whenever so many steps are done, the next one in turn is killed
(SIGKILL) and started again at its port, and training goes on meanwhile: a step of a robot that is
away counts as a step too. While the policy is examined, every 1,024 steps on 20 goals on an arm of
this process, the others rest. In the end each policy is evaluated on goals that it has not seen,
on the served arms. The picture has the learning curves of both. Exit code 1 if a training with
kills ended with fewer than six of them (of all steps), or with an error.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.learning import EVALUATE_EVERY, ROLLOUT, Examiner
from remote_env_agents.buffers import is_transition
from remote_env_agents.config import TrainConfig
from remote_env_agents.evaluation import evaluate
from remote_env_agents.monitoring import EpisodeMonitor
from remote_env_agents.presets import Preset, make_model
from remote_env_agents.robots import make_vec_env
from remote_env_agents.rollouts import InvalidRows

_URL: Final = re.compile(r"ws://\S+:(\d+)")
_COLOURS: Final = {False: "#2f5fb3", True: "#d9622b"}
_LEAST_KILLS: Final = 6


@dataclass
class Run:
    """One training.

    Attributes:
        seed: Of PPO and of the robots.
        with_kills: Whether robots were killed.
        seconds: It took, examinations not counted.
        kills: After how many steps one was killed.
        rows: Of all robots.
        left_out: Of them those that are no transitions.
        examined: Share of the goals reached, by the number of steps.
        episodes: Mean success of the last 100, by the number of steps.
        successes: In the end, of so many episodes.
        interval: 95 % interval of the success rate, after Wilson.
    """

    seed: int
    with_kills: bool
    seconds: float = 0.0
    kills: list[int] = field(default_factory=list)
    rows: int = 0
    left_out: int = 0
    examined: dict[int, float] = field(default_factory=dict)
    episodes: dict[int, float] = field(default_factory=dict)
    successes: int = 0
    interval: tuple[float, float] = (0.0, 1.0)


class Arm:
    """One served arm."""

    def __init__(self) -> None:
        self._port = "0"
        self._waiting: threading.Thread | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "remote_env", "serve", "arm", "--cameras", "none"]
        return subprocess.Popen(
            [*command, "--port", self._port],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait(self) -> str:
        """Return where it is, once it is there."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _URL.search(line):
                self._port = found[1]
                # What else it says must not fill the pipe.
                drain = threading.Thread(target=self._process.stdout.read, daemon=True)
                drain.start()
                return found[0]
        raise RuntimeError("an arm could not be served")

    def kill_and_restart(self) -> None:
        """Kill it, and start it again at the same port; it is there some seconds later."""
        self.stop(signal.SIGKILL)
        self._process = self._start()
        self._waiting = threading.Thread(target=self.wait, daemon=True)
        self._waiting.start()

    def wait_until_back(self) -> None:
        """Wait until it is there again, if it was killed."""
        if self._waiting is not None:
            self._waiting.join(60)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(number)
        self._process.wait(20)


class Arms:
    """Several served arms, while a ``with`` block lasts."""

    def __init__(self, count: int) -> None:
        self.each = [Arm() for _ in range(count)]

    def __enter__(self) -> Self:
        self.urls = tuple(arm.wait() for arm in self.each)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for arm in self.each:
            arm.stop()


class Watch(BaseCallback):
    """Kills arms in turn, if it is to, and notes how it goes."""

    def __init__(self, run: Run, arms: Arms, examiner: Examiner, every: int) -> None:
        super().__init__()
        self._told = run
        self._arms = arms
        self._examiner = examiner
        self._every = every
        self._successes: list[bool] = []

    def _on_training_start(self) -> None:
        self._began = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= EVALUATE_EVERY * (len(self._told.examined) + 1):
            self._examine()

    def _examine(self) -> None:
        began = time.perf_counter()
        self._told.examined[self.num_timesteps] = self._examiner.success_rate(self.model)
        if self._successes:
            self._told.episodes[self.num_timesteps] = float(np.mean(self._successes[-100:]))
        self._began += time.perf_counter() - began

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self._told.rows += 1
            self._told.left_out += not is_transition(info)
            if "episode" in info:
                self._successes.append(bool(info["is_success"]))
        if self._told.with_kills:
            self._kill()
        return True

    def _kill(self) -> None:
        """Kill the next one if it is time to, and if it is back from the last time."""
        kills = self._told.kills
        index = len(kills) % len(self._arms.each)
        is_up = is_transition(self.locals["infos"][index])
        if is_up and self.num_timesteps >= self._every * (len(kills) + 1):
            self._arms.each[index].kill_and_restart()
            kills.append(self.num_timesteps)

    def _on_training_end(self) -> None:
        self._told.seconds = time.perf_counter() - self._began
        self._examine()


def train(run: Run, examiner: Examiner, options: argparse.Namespace) -> None:
    """Train a new policy, and evaluate it."""
    preset = Preset(
        net_arch=(64, 64),
        learning_rate=3e-3,
        gamma=0.9,
        batch_size=256,
        extra={"n_steps": ROLLOUT // options.robots, "n_epochs": 10},
    )
    with Arms(options.robots) as arms:
        env = EpisodeMonitor(make_vec_env(arms.urls))
        try:
            config = TrainConfig(urls=("",), seed=run.seed, device="cpu")
            model: Any = make_model(config, preset, env)
            watch = Watch(run, arms, examiner, options.every)
            model.learn(options.steps, callback=[InvalidRows(), watch])
        finally:
            env.close()
        for arm in arms.each:
            arm.wait_until_back()  # whoever evaluates begins with all of them
        evaluation = evaluate(model, arms.urls, episodes=options.episodes)
    run.successes = evaluation.successes or 0
    run.interval = evaluation.interval or (0.0, 1.0)


def draw(path: Path, runs: list[Run], options: argparse.Namespace) -> None:
    """Draw the learning curves of all runs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.2, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    figure.suptitle(
        f"PPO on {options.robots} arms over the wire, one of them killed every "
        f"{options.every:,} steps",
        x=0.015,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    styles = ["-", "--", ":", "-."]
    seeds = sorted({run.seed for run in runs})
    for run in runs:
        style, colour = styles[seeds.index(run.seed) % 4], _COLOURS[run.with_kills]
        what = "with kills" if run.with_kills else "without"
        label = f"{what}, seed {run.seed}: {run.successes} of {options.episodes} in the end"
        upper.plot(*_points(run.examined), style, color=colour, label=label, linewidth=1.6)
        lower.plot(*_points(run.episodes), style, color=colour, linewidth=1.6)
    for axis in (upper, lower):
        for step in next((run.kills for run in runs if run.with_kills), []):
            axis.axvline(step, color="#9aa1ab", linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_ylim(-0.03, 1.06)
        axis.set_xlim(left=0)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(color="#e6e8eb", linewidth=0.8)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(labelsize=8.5, length=0)
    upper.set_title("success on 20 goals of an examination", loc="left", fontsize=10)
    upper.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="white")
    lower.set_title("success of the last 100 whole episodes, exploring", loc="left", fontsize=10)
    lower.set_xlabel(
        "steps of all robots together, those of robots that are away included; "
        "dotted lines: a robot is killed",
        fontsize=9,
    )
    figure.savefig(path, facecolor="white")


def _points(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def told(run: Run, episodes: int) -> str:
    """Return a line of what came of it."""
    low, high = run.interval
    learned = next((steps for steps, rate in run.examined.items() if rate >= 0.95), None)
    return (
        f"seed {run.seed}, {len(run.kills)} kills: {run.successes} of {episodes} goals "
        f"({100 * low:.1f} to {100 * high:.1f} %), 95 % of an examination after {learned} steps, "
        f"{run.left_out} of {run.rows} rows left out, {run.seconds:.1f} s"
    )


def main() -> int:
    """Train with and without kills; print and draw what came of it, and print it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16_384, help="of all robots, in each training")
    parser.add_argument("--every", type=int, default=2_000, help="steps from one kill to the next")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--episodes", type=int, default=200, help="of the last evaluation")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--quick", action="store_true", help="one short training of each")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.every, options.seeds, options.episodes = 2_048, 300, [0], 20
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    examiner = Examiner()
    runs = []
    for seed in options.seeds:
        for with_kills in (False, True):
            run = Run(seed, with_kills)
            train(run, examiner, options)
            runs.append(run)
            print(told(run, options.episodes), flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if options.picture is not None:
        draw(options.picture, runs, options)
    print(json.dumps([asdict(run) for run in runs]))
    return 0 if all(len(run.kills) >= _LEAST_KILLS for run in runs if run.with_kills) else 1


if __name__ == "__main__":
    sys.exit(main())
