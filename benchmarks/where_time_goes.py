"""Where the time of a step goes, on all threads of both processes: make profile.

python benchmarks/where_time_goes.py [--payload P0] [--steps 2000] [--free] [--json FILE] [--docs]

A profiler that is called at every function distorts a step of some hundred microseconds beyond
use, so a few functions, named below, are wrapped instead; each call notes when it began and ended,
on the clock that both processes share. The line of time of a step runs through the learner's
thread, the robot's, and back; each moment of it belongs to the innermost call that is going on
there, or to the way between them. The robot's thread is the control thread, which reads its
learner's steps itself. Means are of the steps between the quartiles, so the parts add up to the
whole. What the wrapping itself costs is measured too, and so is the CPU of each thread, without
it. Only the fast lane is known here.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.goals_table import put_into_page
from benchmarks.machine import cores, describe, describe_in_words, enter_own_network, pin
from benchmarks.payloads import PAYLOADS, Rig, Sizes, observation_of
from benchmarks.reliability_rig import Child, quiet
from remote_env import RemoteRobotEnv
from remote_env_server import RobotServer

__all__ = ["Profile", "profile"]

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
STEP: Final = "learner: env.step itself"
SEND, RECEIVE = "learner: write to the socket", "learner: wait and read from the socket"
SUBMIT, SERVE = "robot: hand to the loop", "robot: the loop itself"
ANSWER: Final = "robot: write to the socket"
THERE, OVER, BACK = "way there, wake-up", "hand-over", "way back, wake-up"
NETWORK: Final = "robot: peer, rules"

# Module, name in it, and what its own time is called. What is not there any more is said.
LEARNER: Final = (
    ("remote_env.env", "RemoteRobotEnv.step", STEP),
    ("remote_env.translation", "Translator.flatten", "learner: action to arrays"),
    ("remote_env.client", "RobotClient.begin_step", "learner: session, turns"),
    ("remote_env.client", "RobotClient.finish_step", "learner: session, turns"),
    ("remote_env.protocol.connection", "Connection.send", "learner: encode"),
    ("remote_env.transport.fast_client", "FastLink.send", SEND),
    ("remote_env.transport.fast_client", "FastLink.receive", RECEIVE),
    ("remote_env.protocol.connection", "Connection.receive", "learner: decode"),
    ("remote_env.timing", "StepTimer.note", "learner: note times"),
    ("remote_env.translation", "Translator.step", "learner: to observation and info"),
)
SERVER: Final = (
    ("remote_env.transport.incoming", "Incoming.read", "robot: read"),
    ("remote_env_server.peer", "Peer.on_frame", NETWORK),
    ("remote_env.protocol.connection", "Connection.receive", "robot: decode"),
    ("remote_env_server.safety", "ActionGuard.check", "robot: action guard"),
    ("remote_env_server.control", "ControlLoop.submit", SUBMIT),
    ("remote_env_server.loop", "Loop.serve", SERVE),
    ("remote_env_server.driver", "Driver.apply_action", "robot: apply_action"),
    ("remote_env_server.driver", "Driver.observe", "robot: get_obs, snapshot"),
    ("remote_env_server.driver", "Driver.judge", "robot: outcome"),
    ("remote_env_server.peer", "Peer.finish_step", "robot: finish the step"),
    ("remote_env_server.answers", "EpisodeAnswers.step_done", "robot: make the answer"),
    ("remote_env.protocol.connection", "Connection.send", "robot: encode"),
    ("remote_env.transport.fast_server", "FastConnection.send", ANSWER),
)
# What a call was, its thread, its beginning and its end, in nanoseconds.
Call: TypeAlias = tuple[str, int, int, int]
Segment: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time went; all in microseconds for each step.

    Attributes:
        stages: Means by stage, in the order of time.
        wrapped: The median of a step while functions were wrapped.
        plain: The same without.
        cpu: Of each thread that took any, without wrapping.
        absent: Functions that are not there any more.
    """

    stages: dict[str, float]
    wrapped: float
    plain: float
    cpu: dict[str, float]
    absent: tuple[str, ...]


# Wrapping


def wrap(places: Sequence[tuple[str, str, str]], calls: list[Call]) -> list[str]:
    """Let these functions note their calls; return the names of those that are not there."""
    absent = []
    for module, name, label in places:
        owner_name, _, function_name = name.rpartition(".")
        owner = getattr(importlib.import_module(module), owner_name, None)
        function = getattr(owner, function_name, None)
        if owner is None or function is None:
            absent.append(f"{module}.{name}")
            continue
        setattr(owner, function_name, _noting(function, label, calls))
    return absent


def _noting(function: Callable[..., Any], label: str, calls: list[Call]) -> Callable[..., Any]:
    now, ident, note = time.perf_counter_ns, threading.get_ident, calls.append

    @functools.wraps(function)
    def noting(*args: Any, **options: Any) -> Any:
        began = now()
        try:
            return function(*args, **options)
        finally:
            note((label, ident(), began, now()))

    return noting


# The line of time


def own_times(calls: Sequence[Call], begin: int, end: int, rest: str) -> Iterator[Segment]:
    """Cut the time of one thread into pieces, each of the innermost call that was going on.

    Args:
        calls: Of that thread.
        begin: Of the time, in nanoseconds.
        end: The same.
        rest: What to call the time in no call.

    Yields:
        What it was, and how long, in nanoseconds.
    """
    edges = sorted({begin, end, *(t for c in calls for t in c[2:] if begin < t < end)})
    for left, right in itertools.pairwise(edges):
        inside = [c for c in calls if c[2] <= left and c[3] >= right]
        yield (max(inside, key=lambda c: c[2])[0] if inside else rest, right - left)


def line_of(learner: Sequence[Call], server: Sequence[Call]) -> list[Segment]:
    """Return the line of time of one step: its parts, in order; empty if it is not whole.

    Args:
        learner: Calls within one ``env.step``, itself among them.
        server: Calls of the server in that time.
    """
    step = _one(learner, STEP)
    sent, received = _one(learner, SEND), _one(learner, RECEIVE)
    handed, served = _one(server, SUBMIT), _one(server, SERVE)
    answered = _one(server, ANSWER)
    if not (step and sent and received and handed and served and answered):
        return []
    network = [c for c in server if c[1] == handed[1]]
    control = [c for c in server if c[1] == served[1]]
    woken = min(c[2] for c in network if c[2] >= sent[2])
    # Where one thread goes on before the other has left its call, the first one counts.
    left = min(sent[3], woken)
    handed_at = min(handed[3], served[2])
    answered_at = min(answered[3], received[3])
    return [
        *own_times(learner, step[2], left, STEP),
        (THERE, woken - left),
        *own_times(network, woken, handed_at, NETWORK),
        (OVER, served[2] - handed_at),
        *own_times(control, served[2], answered_at, SERVE),
        (BACK, received[3] - answered_at),
        *own_times(learner, received[3], step[3], STEP),
    ]


def _one(calls: Sequence[Call], label: str) -> Call | None:
    return next((call for call in calls if call[0] == label), None)


def lines(learner: Sequence[Call], server: Sequence[Call]) -> Iterator[list[Segment]]:
    """Return the line of time of each step that is whole."""
    ours = sorted(learner, key=lambda c: c[2])
    theirs = sorted(server, key=lambda c: c[2])
    i = j = 0
    for step in (call for call in ours if call[0] == STEP):
        mine, there = [], []
        while i < len(ours) and ours[i][2] <= step[3]:
            if ours[i][2] >= step[2]:
                mine.append(ours[i])
            i += 1
        while j < len(theirs) and theirs[j][2] <= step[3]:
            if theirs[j][2] >= step[2]:
                there.append(theirs[j])
            j += 1
        line = line_of(mine, there)
        if line:
            yield line


def means(found: Sequence[Sequence[Segment]]) -> dict[str, float]:
    """Return the mean of each part over the steps between the quartiles, in microseconds."""
    totals = np.array([sum(length for _, length in line) for line in found])
    low, high = np.percentile(totals, [25, 75])
    chosen = [line for line, total in zip(found, totals, strict=True) if low <= total <= high]
    stages: dict[str, float] = {}
    for line in chosen:
        for label, length in line:
            stages[label] = stages.get(label, 0.0) + length / 1e3 / len(chosen)
    return stages


# Both processes


def _serve(pipe: Pipe, sizes: Sizes, core: int | None, wraps: bool) -> None:
    quiet()
    pin(core)
    calls: list[Call] = []
    absent = wrap(SERVER, calls) if wraps else []
    with RobotServer(Rig(sizes), port=0, mode="lockstep") as server:
        pipe.send(server.url)
        while (question := pipe.recv()) is not None:
            pipe.send((calls, absent) if question == "calls" else threads())


def _learn(pipe: Pipe, url: str, sizes: Sizes, core: int | None, wraps: bool) -> None:
    quiet()
    pin(core)
    calls: list[Call] = []
    absent = wrap(LEARNER, calls) if wraps else []
    env = RemoteRobotEnv(url, streams=list(observation_of(sizes)))
    env.reset()
    action = np.zeros(7, np.float32)
    pipe.send(None)
    while (count := pipe.recv()) is not None:
        calls.clear()
        before = threads()
        times = []
        for _ in range(count):
            began = time.perf_counter_ns()
            env.step(action)
            times.append(time.perf_counter_ns() - began)
        pipe.send((times, (before, threads()), calls, absent))
    env.close()


def threads() -> dict[str, float]:
    """Return the CPU time that each thread of this process has had, in microseconds."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        name = names.get(int(folder.name), (folder / "comm").read_text().strip())
        found[f"{name} ({folder.name})"] = int((folder / "schedstat").read_text().split()[0]) / 1e3
    return found


def profile(sizes: Sizes, *, steps: int, pinned: bool = True) -> Profile:
    """Measure so many steps plain, and as many with functions wrapped."""
    here, there = (cores() if pinned else None) or (None, None)
    cpu: dict[str, float] = {}
    medians = {}
    for wraps in (False, True):
        with (
            Child(_serve, sizes, there, wraps) as server,
            Child(_learn, server.ask(), sizes, here, wraps) as learner,
        ):
            learner.ask()
            learner.ask(max(steps // 10, 10), timeout=120)  # to warm up
            before = server.ask("threads")
            times, used, calls, absent = learner.ask(steps, timeout=300)
            medians[wraps] = float(np.median(times)) / 1e3
            if not wraps:
                cpu = _used("server", before, server.ask("threads"), steps)
                cpu |= _used("learner", used[0], used[1], steps)
                continue
            server_calls, server_absent = server.ask("calls")
    whole = list(lines(calls, server_calls))
    if len(whole) < steps // 2:
        raise RuntimeError(
            f"only {len(whole)} of {steps} steps could be followed; functions that are not there "
            f"any more: {[*absent, *server_absent] or 'none'}"
        )
    return Profile(means(whole), medians[True], medians[False], cpu, (*absent, *server_absent))


def _used(
    who: str, before: dict[str, float], after: dict[str, float], steps: int
) -> dict[str, float]:
    spent = {name: (total - before.get(name, 0.0)) / steps for name, total in after.items()}
    return {f"{who}: {name.split(' (')[0]}": us for name, us in spent.items() if us >= 0.5}


def show(console: Console, payload: str, found: Profile) -> None:
    """Print it."""
    total = sum(found.stages.values())
    table = Table(title=f"where a step goes, {payload}", title_justify="left")
    for heading in ("stage", "us", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for label, us in found.stages.items():
        table.add_row(label, f"{us:.1f}", f"{us / total:.1%}")
    table.add_section()
    table.add_row("whole step", f"{total:.1f}", "100 %")
    console.print(table)
    ways = sum(us for label, us in found.stages.items() if label in (THERE, OVER, BACK))
    for side in ("learner", "robot"):
        own = sum(us for label, us in found.stages.items() if label.startswith(side))
        console.print(f"{side:16}{own:8.1f} us  {own / total:6.1%}", highlight=False)
    console.print(f"{'between threads':16}{ways:8.1f} us  {ways / total:6.1%}", highlight=False)
    console.print(
        f"median of a step {found.wrapped:.1f} us, and {found.plain:.1f} us without the "
        "wrapping that measures this",
        highlight=False,
    )
    console.print("CPU for each step, without it:", highlight=False)
    for name, us in sorted(found.cpu.items(), key=lambda item: -item[1]):
        console.print(f"  {name:40} {us:7.1f} us", highlight=False)
    if found.absent:
        console.print(f"not there any more: {', '.join(found.absent)}", highlight=False)


def markdown(found: Profile, payload: str, facts: dict[str, Any]) -> str:
    """Return the table for the page."""
    total = sum(found.stages.values())
    lines = [f"| stage of a step, {payload} | us | share |", "| --- | --- | --- |"]
    lines += [f"| {label} | {us:.1f} | {us / total:.1%} |" for label, us in found.stages.items()]
    threads_ = ", ".join(f"{name} {us:.0f} us" for name, us in found.cpu.items())
    lines.append(f"| **whole step** | {total:.1f} | |")
    return (
        "\n".join(lines) + f"\n\nMedian {found.wrapped:.0f} us, and {found.plain:.0f} us without "
        f"the wrapping. CPU for each step, without it: {threads_}.\n\n{describe_in_words(facts)}"
    )


def main() -> None:
    """Print the table; with --json write it too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--payload", choices=list(PAYLOADS), default="P0")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--free", action="store_true", help="let the system choose the cores")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write it into docs/performance.md")
    options = parser.parse_args()
    if os.environ.get("REMOTE_ENV_FAST") == "0":
        parser.error("only the fast lane is known here; unset REMOTE_ENV_FAST")
    enter_own_network()
    console = Console(width=None if sys.stdout.isatty() else 150)
    facts = describe()
    console.print(describe_in_words(facts), highlight=False)
    found = profile(PAYLOADS[options.payload], steps=options.steps, pinned=not options.free)
    show(console, options.payload, found)
    if options.docs:
        put_into_page(PAGE, {"profile": markdown(found, options.payload, facts)})
    if options.json:
        content = {
            "machine": facts,
            "payload": options.payload,
            "stages_us": found.stages,
            "wrapped_us": found.wrapped,
            "plain_us": found.plain,
            "cpu_us": found.cpu,
            "absent": found.absent,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
