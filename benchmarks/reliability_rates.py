"""Who keeps the time: the rate of a learner that works, the lateness of ticks, a round trip.

The rate is measured where the actions are applied. A client that sleeps by itself is the usual
way: step, work, then ``time.sleep``, either for a whole period or for what is left of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Final

import numpy as np
from numpy.typing import NDArray

import remote_env
from benchmarks import step
from benchmarks.reliability_rig import (
    Child,
    Line,
    Recorder,
    Scale,
    ServerProcess,
    journal,
    milliseconds,
)

HZ: Final = 50.0
WORK: Final = 0.009
RATE: Final = 0.05  # Hz by which 50.0 may be wrong
TICKS_HZ: Final = 100.0
LATE_P50, LATE_P99 = 0.25e-3, 1e-3


def work(seconds: float) -> None:
    """Compute for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def never(began: float) -> None:
    """Leave the pace to the robot."""


def sleep_a_period(began: float) -> None:
    """Sleep as if nothing else took time."""
    time.sleep(1 / HZ)


def sleep_the_rest(began: float) -> None:
    """Sleep for what is left of a period since the step began."""
    time.sleep(max(0.0, began + 1 / HZ - time.monotonic()))


def periods(
    mode: str, pause: Callable[[float], None], seconds: float, hz: float = HZ, busy: float = WORK
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Step and work for so long; return the times between actions, and the ticks' lateness."""
    with (
        journal() as kept,
        ServerProcess(Recorder, {"path": kept.path, "hz": hz}, mode=mode) as server,
    ):
        env = remote_env.RemoteRobotEnv(server.url)
        env.reset()
        action = np.ones(1)
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            env.step(action)
            work(busy)
            pause(began)
        late = server.ask("statistics")["lateness"]
        env.close()
        moments = np.array([entry.at for entry in kept.read() if entry.what == "apply"])
    return np.diff(moments[3:]), late


def rate(scale: Scale) -> Iterator[Line]:
    """Measure a learner that works 9 ms in each period of 20 ms."""
    seconds = scale.pick(6, 15)
    ways = {
        "paced by the robot": ("realtime", never),
        "sleeping a period": ("lockstep", sleep_a_period),
        "sleeping the rest of a period": ("lockstep", sleep_the_rest),
    }
    for name, (mode, pause) in ways.items():
        taken, _ = periods(mode, pause, seconds)
        found = 1 / float(np.mean(taken))
        measured = f"{found:.2f} Hz, period {milliseconds(taken)}"
        if name == "paced by the robot":
            goal = f"{HZ:.1f} Hz with {WORK * 1e3:.0f} ms of work in the learner, {name}"
            yield Line(goal, measured, abs(found - HZ) <= RATE)
        else:
            yield Line(f"the same, with a client that paces itself by {name}", measured)


def burn(pipe: Pipe) -> None:
    """Keep a core busy."""
    pipe.send(None)
    while True:
        pass


def ticks(scale: Scale) -> Iterator[Line]:
    """Measure how late ticks are, and what a step costs."""
    seconds = scale.pick(5, 15)
    for is_busy in (False, True):
        with contextlib.ExitStack() as stack:
            if is_busy:
                stack.enter_context(Child(burn)).ask()
            _, late = periods("realtime", never, seconds, hz=TICKS_HZ, busy=0.0)
        beside = "beside a busy process" if is_busy else "idle"
        yield Line(
            f"ticks at {TICKS_HZ:.0f} Hz, {beside}"
            + (
                ""
                if is_busy
                else f": late p50 at most {LATE_P50 * 1e3:g}, p99 {LATE_P99 * 1e3:g} ms"
            ),
            f"p50 {late['p50'] * 1e3:.3f}, p99 {late['p99'] * 1e3:.3f}, max "
            f"{late['max'] * 1e3:.2f} ms, {late['count']} ticks",
            None if is_busy else late["p50"] <= LATE_P50 and late["p99"] <= LATE_P99,
        )
    found = step.measure((), scale.pick(1, 2), rounds=3)
    ratio = found.ratio("ours", "raw TCP")
    yield Line(
        "a round trip in lockstep, small observation (benchmarks/step.py, P0)",
        f"p50 {found.figure('ours') * 1e6:.0f}, p99 {found.figure('ours', 'p99') * 1e6:.0f} us, "
        f"{ratio:.1f} x raw TCP in the same run",
    )
