"""Nothing grows: a thousand times make and close, and a million steps.

Server and learner are two processes, each looked at in ``/proc``. The slope of the resident
memory is the least-squares line through what was seen in the second half: caches fill, and
the allocator takes what it needs once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Final

import numpy as np

import remote_env
from benchmarks.reliability_driver import Quick
from benchmarks.reliability_rig import (
    Child,
    Line,
    Scale,
    ServerProcess,
    Usage,
    quiet,
    say,
    usage,
    wait_for,
)

SLOPE: Final = 1.0  # MB in a million steps, and in a thousand cycles
LOOKS: Final = 200
ENOUGH: Final = 100_000  # steps; with fewer, a page more is already too much


def slope(at: Sequence[float], resident: Sequence[float]) -> float:
    """Return the growth of memory per unit of ``at``, in bytes; of the second half."""
    skipped = len(at) // 2
    return float(np.polyfit(at[skipped:], resident[skipped:], 1)[0])


def make_and_close(url: str) -> None:
    """Make an environment, use it, close it."""
    env = remote_env.RemoteRobotEnv(url)
    env.reset()
    env.step(np.zeros(2, np.float32))
    env.close()


def cycle(pipe: Pipe, url: str, count: int) -> None:
    """Make and close so many times; tell what this process has after each tenth of them."""
    quiet()
    for number in range(count):
        if number % max(count // LOOKS, 1) == 0:
            gc.collect()
            pipe.send((number, usage()))
        make_and_close(url)
    # The keeper of connections ends by itself once there are none.
    time.sleep(1.5)
    pipe.send((count, usage()))


def cycles(scale: Scale) -> Iterator[Line]:
    """Make and close."""
    count = scale.pick(800, 1000)
    seen: dict[str, list[tuple[int, Usage]]] = {"learner": [], "server": []}
    with (
        ServerProcess(Quick, mode="lockstep") as server,
        Child(cycle, server.url, count) as child,
    ):
        first = usage(server.pid)
        number = -1
        while number < count:
            number, used = child.ask()
            seen["learner"].append((number, used))
            if number == count:
                wait_for(lambda: usage(server.pid).descriptors <= first.descriptors, 5.0)
            seen["server"].append((number, usage(server.pid)))
    for who, looks in seen.items():
        # The learner is first looked at before it has connected for the first time.
        before, after = looks[len(looks) // 10][1], looks[-1][1]
        at = [float(number) for number, _ in looks[:-1]]
        growth = slope(at, [used.resident for _, used in looks[:-1]]) * 1000 / 1e6
        threads, descriptors = (
            f"{what} {was} to {now}"
            for what, was, now in (
                ("threads", before.threads, after.threads),
                ("descriptors", before.descriptors, after.descriptors),
            )
        )
        is_flat = after.threads <= before.threads and after.descriptors <= before.descriptors
        yield Line(
            f"{count} times make and close: threads and descriptors of the {who} flat, memory "
            f"grows by less than {SLOPE:g} MB per 1000",
            f"{threads}; {descriptors}; {growth:+.2f} MB per 1000",
            is_flat and growth < SLOPE,
        )


def growth(count: int) -> dict[str, float]:
    """Step so often; return by how many bytes each end grows in a step."""
    every = max(count // LOOKS, 1)
    at: list[float] = []
    resident: dict[str, list[float]] = {"learner": [], "server": []}
    began = time.monotonic()
    with (
        ServerProcess(Quick, mode="lockstep") as server,
        Child(step_for, server.url, count) as child,
    ):
        for _ in range(count // every):
            number, used = child.ask(timeout=120.0)
            at.append(number)
            resident["learner"].append(used.resident)
            resident["server"].append(usage(server.pid).resident)
            if len(at) % (LOOKS // 5) == 0:
                say(
                    f"{number} steps in {time.monotonic() - began:.0f} s: "
                    + ", ".join(f"{who} {seen[-1] / 1e6:.1f} MB" for who, seen in resident.items())
                )
    return {who: slope(at, seen) for who, seen in resident.items()}


def memory(scale: Scale) -> Iterator[Line]:
    """Step for long."""
    count = scale.steps or scale.pick(20_000, 150_000)
    for who, per_step in growth(count).items():
        yield Line(
            f"memory of the {who} grows by less than {SLOPE:g} MB per million steps",
            f"{per_step:+.2f} MB, from {count} steps",  # bytes per step: MB per million
            per_step < SLOPE if count >= ENOUGH else None,
        )


def step_for(pipe: Pipe, url: str, count: int) -> None:
    """Make so many steps; tell now and then what this process has."""
    quiet()
    every = max(count // LOOKS, 1)
    action = np.zeros(2, np.float32)
    env = remote_env.RemoteRobotEnv(url)
    env.reset()
    for number in range(1, count + 1):
        env.step(action)
        if number % every == 0:
            pipe.send((number, usage()))
    pipe.recv()
