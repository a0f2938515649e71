"""What a step of several robots costs: ours beside what a user would build, in one run.

python benchmarks/vector.py [--quick] [--robots 1 2 4 8 16] [--payloads P0 P3 P1 P2]
                            [--periods 10 0] [--rounds 3] [--seconds 1] [--also-ours] [--docs]

Every robot is a process of its own; its step costs nothing, and it answers at the end of a control
period, or at once. Four learners take turns in bursts: our vector environment, Gymnasium's
``AsyncVectorEnv`` of plain WebSocket clients, our ``VecEnv`` for Stable-Baselines3, and its
``SubprocVecEnv`` of plain clients. A plain client has a plain robot, both as openpi builds them
(``peers/openpi.py``): no order of steps, no lease, no guard, no ``info``. ``--also-ours`` adds both
of them with our own environments in their workers. Client CPU is that of the learner's process
with all its threads and workers. The median of the rounds counts. --docs writes the tables into
docs/performance.md. A quarter of an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium import spaces

sys.path.append(str(Path(__file__).resolve().parent.parent))

import remote_env
from benchmarks.goals_table import put_into_page
from benchmarks.machine import describe, describe_in_words, enter_own_network, note_end
from benchmarks.payloads import PAYLOADS, Rig, Sizes, observation_of
from benchmarks.peers import openpi
from remote_env_server import RobotServer

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results" / "vector.json"
OURS, ASYNC, OUR_VEC, SUBPROC = "ours", "AsyncVectorEnv", "our VecEnv", "SubprocVecEnv"
ASYNC_OF_OURS, SUBPROC_OF_OURS = "AsyncVectorEnv of ours", "SubprocVecEnv of ours"
PAIRS: Final = ((OURS, ASYNC), (OUR_VEC, SUBPROC))
PRELOADED: Final = ["gymnasium", "stable_baselines3", "remote_env", "websockets.sync.client"]


# Robots


def serve_ours(pipe: Connection, sizes: Sizes, period: float) -> None:
    """Serve one robot until the pipe is closed."""
    robot = Rig(sizes)
    if period:
        robot.control_hz = 1.0 / period
    with RobotServer(robot, port=0, mode="realtime" if period else "lockstep") as server:
        pipe.send(server.url)
        with contextlib.suppress(EOFError):
            pipe.recv()


def serve_plain(pipe: Connection, sizes: Sizes, period: float) -> None:
    """Serve a plain robot until the process is killed."""
    openpi.serve(pipe.send, observation_of(sizes), period=period)


@contextlib.contextmanager
def served(
    count: int,
    sizes: Sizes,
    period: float,
    serve: Callable[[Connection, Sizes, float], None] = serve_ours,
) -> Iterator[list[Any]]:
    """Start so many processes; yield their urls, or ports."""
    context = multiprocessing.get_context("forkserver")
    started = []
    for _ in range(count):
        here, there = multiprocessing.Pipe()
        process = context.Process(target=serve, args=(there, sizes, period), daemon=True)
        process.start()
        there.close()
        started.append((process, here))
    try:
        yield [pipe.recv() for _, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(5 if serve is serve_ours else 0)
            process.kill()


class PlainEnv(gym.Env[Any, Any]):
    """What one would write around a plain client."""

    def __init__(self, port: int, sizes: Sizes) -> None:
        """Connect to a plain robot."""
        observation = observation_of(sizes)
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(0, 255, a.shape, np.uint8)
                if a.dtype == np.uint8
                else spaces.Box(-np.inf, np.inf, a.shape, a.dtype.type)
                for name, a in observation.items()
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._files = contextlib.ExitStack()
        self._step = self._files.enter_context(openpi.connect(port, observation))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Take one step."""
        return self._step(np.zeros(7, np.float32)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Ask the robot."""
        return self._step(action), 0.0, False, False, {}

    def close(self) -> None:
        """Disconnect."""
        self._files.close()


def make_remote(url: str) -> Callable[[], gym.Env[Any, Any]]:
    """Return what makes one of our environments, as a worker does."""
    return lambda: remote_env.RemoteRobotEnv(url, take=True)


def make_plain(port: int, sizes: Sizes) -> Callable[[], gym.Env[Any, Any]]:
    """Return what makes a plain one."""
    return lambda: PlainEnv(port, sizes)


# Learners


class Learner:
    """One way to step several robots."""

    def __init__(self, env: Any) -> None:
        """Take a vector environment of Gymnasium or of Stable-Baselines3."""
        self.env = env
        self._workers = [process.pid for process in getattr(env, "processes", [])]

    def cpu(self) -> float:
        """Return the seconds of CPU so far, of this process and the workers."""
        ticks = 0
        for pid in self._workers:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def burst(self, seconds: float, action: Any) -> dict[str, float]:
        """Step for a while; return what that cost."""
        self.env.reset()
        for _ in range(3):
            self.env.step(action)
        cpu, began, steps = self.cpu(), time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.env.step(action)
            steps += 1
        took = time.perf_counter() - began
        count = steps * len(action)
        return {"steps": count / took, "cpu_us": (self.cpu() - cpu) / count * 1e6}


@contextlib.contextmanager
def learners(
    ours: list[str], plain: list[int], sizes: Sizes, names: Sequence[str]
) -> Iterator[dict[str, Learner]]:
    """Connect all of them; who resets takes the robots."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from remote_env.sb3 import RemoteRobotVecEnv

    remotes = [make_remote(url) for url in ours]
    plains = [make_plain(port, sizes) for port in plain]
    makers: dict[str, Callable[[], Any]] = {
        OURS: lambda: gym.make_vec("RemoteRobot-v0", urls=ours, take=True),
        ASYNC: lambda: gym.vector.AsyncVectorEnv(plains, context="forkserver"),
        OUR_VEC: lambda: RemoteRobotVecEnv(ours, env_kwargs={"take": True}),
        SUBPROC: lambda: SubprocVecEnv(plains, start_method="forkserver"),
        ASYNC_OF_OURS: lambda: gym.vector.AsyncVectorEnv(remotes, context="forkserver"),
        SUBPROC_OF_OURS: lambda: SubprocVecEnv(remotes, start_method="forkserver"),
    }
    with contextlib.ExitStack() as files:
        made = {}
        for name in names:
            made[name] = Learner(makers[name]())
            files.callback(made[name].env.close)
        yield made


@dataclass(frozen=True)
class Cell:
    """What was measured at once.

    Attributes:
        payload: Its name.
        period: Of the robots, in seconds; 0 for robots that answer at once.
        robots: How many.
        found: Of each learner, medians: env steps per second, and CPU for one in us.
    """

    payload: str
    period: float
    robots: int
    found: dict[str, dict[str, float]]

    def ratio(self, one: str, other: str, which: str = "steps") -> float:
        """Return one learner's figure by another's."""
        return self.found[one][which] / self.found[other][which]

    def share(self, name: str) -> float:
        """Return a learner's env steps by those that the robots' periods allow."""
        return self.found[name]["steps"] * self.period / self.robots

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {"payload": self.payload, "period": self.period, "robots": self.robots} | self.found


def measure(
    payload: str, period: float, robots: int, rounds: int, seconds: float, names: Sequence[str]
) -> Cell:
    """Measure one cell."""
    sizes = PAYLOADS[payload]
    action = np.zeros((robots, 7), np.float32)
    told: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with (
        served(robots, sizes, period) as ours,
        served(robots, sizes, period, serve_plain) as plain,
        learners(ours, plain, sizes, names) as made,
    ):
        for _ in range(rounds):
            for name, learner in made.items():
                told[name].append(learner.burst(seconds, action))
    medians = {
        name: {key: statistics.median(burst[key] for burst in bursts) for key in bursts[0]}
        for name, bursts in told.items()
    }
    return Cell(payload, period, robots, medians)


# Tables


def markdown(cells: Sequence[Cell]) -> str:
    """Return a table for each period."""
    parts = []
    for period in sorted({cell.period for cell in cells}, reverse=True):
        what = f"{period * 1e3:.0f} ms" if period else "at once"
        heads = " | ".join(f"{ours} | {theirs} | x steps, x CPU" for ours, theirs in PAIRS)
        lines = [f"| {what} | {heads} |", "| --- |" + " --- |" * 6]
        for cell in cells:
            if cell.period == period:
                columns = [f"{cell.payload}, {cell.robots}"]
                for ours, theirs in PAIRS:
                    columns += [_figures(cell, ours), _figures(cell, theirs)]
                    steps = cell.ratio(ours, theirs)
                    cpu = cell.ratio(theirs, ours, "cpu_us")
                    columns.append(f"**{steps:.2f}**, {cpu:.1f}")
                lines.append("| " + " | ".join(columns) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _figures(cell: Cell, name: str) -> str:
    found = cell.found[name]
    share = f" ({cell.share(name):.1%})" if cell.period else ""
    return f"{found['steps']:,.0f}{share}, {found['cpu_us']:,.0f} us"


@dataclass(frozen=True)
class Goal:
    """What is wanted of one cell: performance.md's goals 11 to 16."""

    number: int
    key: tuple[str, float, int]
    what: str
    must: float
    of: Callable[[Cell], float]
    is_most: bool = False
    unit: str = ""


def _goals() -> list[Goal]:
    def share(cell: Cell) -> float:
        return 100 * cell.share(OURS)

    def cpu(cell: Cell) -> float:
        return cell.found[OURS]["cpu_us"]

    def less(cell: Cell) -> float:
        return cell.ratio(ASYNC, OURS, "cpu_us")

    def quicker(cell: Cell) -> float:
        return cell.ratio(OURS, ASYNC)

    def vec(cell: Cell) -> float:
        return cell.ratio(OUR_VEC, SUBPROC)

    ideal = "env steps / ideal"
    few = [(payload, 0.01, count) for payload in ("P0", "P3") for count in (8, 16)]
    return [
        *[Goal(11, key, ideal, 99, share, unit=" %") for key in few],
        *[
            Goal(12, key, "client CPU of an env step", 50, cpu, is_most=True, unit=" us")
            for key in few
        ],
        *[Goal(12, key, "client CPU, AsyncVectorEnv / ours", 6, less) for key in few],
        Goal(13, ("P1", 0.01, 8), ideal, 97, share, unit=" %"),
        Goal(14, ("P2", 0.01, 8), ideal, 85, share, unit=" %"),
        Goal(15, ("P3", 0.0, 8), "env steps, ours / AsyncVectorEnv", 3, quicker),
        Goal(15, ("P1", 0.0, 8), "env steps, ours / AsyncVectorEnv", 8, quicker),
        Goal(16, ("P3", 0.0, 8), "env steps, our VecEnv / SubprocVecEnv", 2.5, vec),
        Goal(16, ("P1", 0.0, 8), "env steps, our VecEnv / SubprocVecEnv", 10, vec),
        Goal(16, ("P2", 0.0, 4), "env steps, our VecEnv / SubprocVecEnv", 10, vec),
    ]


def goals(cells: Sequence[Cell]) -> str:
    """Return what is wanted of several robots, beside what was measured."""
    by = {(cell.payload, cell.period, cell.robots): cell for cell in cells}
    lines = ["| # | robots | what | must | measured | |", "| --- | --- | --- | --- | --- | --- |"]
    for goal in _goals():
        if (cell := by.get(goal.key)) is None:
            continue
        value = goal.of(cell)
        is_met = value <= goal.must if goal.is_most else value >= goal.must
        payload, period, count = goal.key
        when = f"{period * 1e3:.0f} ms" if period else "at once"
        lines.append(
            f"| {goal.number} | {count}, {payload}, {when} | {goal.what} | "
            f"{'<=' if goal.is_most else '>='} {goal.must:g}{goal.unit} | "
            f"{value:.3g}{goal.unit} | {'met' if is_met else 'missed'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a line for each cell as it is measured, then tables, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--payloads", nargs="+", choices=list(PAYLOADS), default=list(PAYLOADS))
    parser.add_argument("--periods", type=float, nargs="+", default=[10.0, 0.0], help="in ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each burst")
    parser.add_argument("--also-ours", action="store_true", help="our environments in workers")
    parser.add_argument("--quick", action="store_true", help="one cell, one round")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    names = [name for pair in PAIRS for name in pair]
    names += [ASYNC_OF_OURS, SUBPROC_OF_OURS] if options.also_ours else []
    if options.quick:
        options.robots, options.payloads, options.rounds, options.seconds = [4], ["P3"], 1, 0.5
    enter_own_network()
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    machine = describe(["stable_baselines3"])
    print(describe_in_words(machine))
    cells = []
    for payload in options.payloads:
        for period in options.periods:
            for count in options.robots:
                cell = measure(payload, period / 1e3, count, options.rounds, options.seconds, names)
                cells.append(cell)
                told = "   ".join(f"{name} {_figures(cell, name)}" for name in names)
                print(f"{payload} {period:2.0f} ms N={count:2}   {told}", flush=True)
    note_end(machine)
    sections = {
        "many goals": goals(cells),
        "many": f"{markdown(cells)}\n\n{describe_in_words(machine)}",
    }
    print("\n\n".join(sections.values()))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    values = {"machine": machine, "cells": [cell.values() for cell in cells]}
    options.json.write_text(json.dumps(values, indent=1) + "\n")
    if options.docs:
        put_into_page(ROOT / "docs" / "performance.md", sections)


if __name__ == "__main__":
    main()
