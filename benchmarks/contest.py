"""Several ways to make the same step, in turns, in one process, beside raw TCP.

Each way has a server process of its own; the client process has them all and gives each a short
burst in turn, so that a machine whose speed drifts favours none. The first step of a burst, which
finds the caches full of the others' things, is not counted. A round begins with fresh processes;
of each round the median counts, and of the rounds the median of those, and of their ratios.

A peer is best measured alone with ours and raw TCP: what one library frees, another may get
without a page fault, and threads of one that only wait may still take time.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

import numpy as np

from benchmarks.machine import cores, pin
from benchmarks.payloads import Arrays, Sizes, observation_of
from benchmarks.peers import OURS, RAW, Peer, Step
from benchmarks.reliability_rig import Child, quiet

__all__ = ["Figures", "Result", "compare_arrays", "contest", "versus"]

_ACTION: Final = np.linspace(-0.5, 0.5, 7, dtype=np.float32)
_BURST: Final = 0.03  # seconds, and at least _LEAST steps
_LEAST, _MOST = 4, 50
_WARM_UP: Final = 0.15  # seconds for each, at least _LEAST steps
_PATIENCE: Final = 120.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way costs, in seconds for each step.

    Attributes:
        p50: The median.
        p99: 99 of 100 took no longer.
        cpu: Of client and server together; NaN if that is not known.
        count: How many steps were counted.
    """

    p50: float
    p99: float
    cpu: float
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a contest: the figures of each round, by name."""

    rounds: tuple[dict[str, Figures], ...]

    def figure(self, name: str, which: str = "p50") -> float:
        """Return the median over the rounds, in seconds."""
        return float(statistics.median(getattr(figures[name], which) for figures in self.rounds))

    def pair(self, name: str) -> tuple[float, float]:
        """Return median and 99th percentile, in seconds."""
        return self.figure(name), self.figure(name, "p99")

    def ratio(self, one: str, other: str, which: str = "p50") -> float:
        """Return the median over the rounds of the ratio of two ways."""
        return float(statistics.median(self.ratios(one, other, which)))

    def ratios(self, one: str, other: str, which: str = "p50") -> tuple[float, ...]:
        """Return the ratio of two ways in each round; where they differ, none can be trusted."""
        return tuple(getattr(f[one], which) / getattr(f[other], which) for f in self.rounds)

    def values(self) -> dict[str, Any]:
        """Return it in plain values, in microseconds."""
        names = self.rounds[0]
        rows: dict[str, dict[str, Any]] = {
            name: {
                "p50_us": self.figure(name) * 1e6,
                "p99_us": self.figure(name, "p99") * 1e6,
                "cpu_us": self.figure(name, "cpu") * 1e6,
                "steps": sum(figures[name].count for figures in self.rounds),
            }
            for name in names
        }
        if RAW.name in rows:
            for name, row in rows.items():
                row["x_raw"] = self.ratio(name, RAW.name)
                row["x_raw_rounds"] = self.ratios(name, RAW.name)
        return rows


def versus(peer: Peer, sizes: Sizes, **options: Any) -> Result:
    """Measure a peer beside raw TCP and ours; see ``contest``."""
    return contest((RAW, OURS, peer), sizes, **options)


def contest(
    entrants: Sequence[Peer],
    sizes: Sizes,
    *,
    seconds: float,
    rounds: int = 3,
    pinned: bool = False,
    period: float = 0.0,
    check: bool = True,
    tell: Callable[[], None] = lambda: None,
) -> Result:
    """Let them take turns.

    Args:
        entrants: The ways.
        sizes: Of the cameras; see ``payloads``.
        seconds: Of measuring for each of them, in a round.
        rounds: How many.
        pinned: Whether the client keeps to one core and the servers to another.
        period: From the beginning of a step to that of the next, in seconds; 0 for at once.
        check: Whether to compare what each returns with what it should, once.
        tell: Called after each round.
    """
    found = []
    for _ in range(rounds):
        found.append(_round(entrants, sizes, seconds, pinned, period, check))
        tell()
    return Result(tuple(found))


class _Client(Child):
    """May start the worker of a vector environment, and ends it itself."""

    may_have_children = True


def _round(
    entrants: Sequence[Peer],
    sizes: Sizes,
    seconds: float,
    pinned: bool,
    period: float,
    check: bool,
) -> dict[str, Figures]:
    here, there = (cores() if pinned else None) or (None, None)
    keeps = any(peer.malloc for peer in entrants)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Child(_serve, peer, sizes, there)) for peer in entrants]
        places = [
            (peer, server.ask(), server.pid) for peer, server in zip(entrants, servers, strict=True)
        ]
        arguments = (sizes, seconds, here, keeps, period, check)
        client = stack.enter_context(_Client(_run_client, places, *arguments))
        figures = client.ask(timeout=_PATIENCE + 3 * seconds * len(entrants))
    if isinstance(figures, str):
        raise RuntimeError(figures)
    return {peer.name: one for peer, one in zip(entrants, figures, strict=True)}


def _serve(pipe: Pipe, peer: Peer, sizes: Sizes, core: int | None) -> None:
    quiet()
    pin(core)
    if peer.malloc:
        keep_memory()
    peer.serve(pipe.send, observation_of(sizes))


def keep_memory() -> None:
    """Let the allocator of this process keep buffers of up to 32 MiB, and the heap's end."""
    libc = ctypes.CDLL(None)
    for what, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30)):
        if libc.mallopt(what, size) != 1:
            raise RuntimeError(f"mallopt({what}, {size}) failed; it needs glibc")


# In the client's process


class _Entrant:
    """A way, connected, and what it cost so far."""

    def __init__(self, name: str, step: Step, server: int) -> None:
        self.name = name
        self.step = step
        self.times: list[float] = []
        self.cpu = 0.0
        self.steps = 0
        self._clock = (~server << 3) | 2  # what clock_getcpuclockid(3) makes of a process
        self._burst = _LEAST

    def warm_up(self, expected: Arrays | None) -> None:
        """Find out how many steps make a burst; compare one with what it should return."""
        began, count = time.perf_counter(), 0
        while count < _LEAST or time.perf_counter() - began < _WARM_UP:
            arrays = self.step(_ACTION)
            count += 1
        took = (time.perf_counter() - began) / count
        self._burst = int(min(max(_BURST / took, _LEAST), _MOST)) + 1
        if expected is not None:
            compare_arrays(self.name, arrays, expected)

    def burst(self, period: float) -> None:
        """Make a few steps."""
        step, times = self.step, self.times
        cpu = self._cpu_time()
        due = time.perf_counter() + period
        for number in range(self._burst):
            if period:
                time.sleep(max(0.0, due - time.perf_counter()))
                due += period
            began = time.perf_counter()
            step(_ACTION)
            if number:
                times.append(time.perf_counter() - began)
        self.cpu += self._cpu_time() - cpu
        self.steps += self._burst

    def _cpu_time(self) -> float:
        return time.process_time() + time.clock_gettime(self._clock)

    def figures(self) -> Figures:
        """Return all of it."""
        p50, p99 = np.percentile(self.times, [50, 99])
        return Figures(float(p50), float(p99), self.cpu / self.steps, len(self.times))


def _run_client(
    pipe: Pipe,
    places: Sequence[tuple[Peer, Any, int]],
    sizes: Sizes,
    seconds: float,
    core: int | None,
    keeps: bool,
    period: float,
    check: bool,
) -> None:
    quiet()
    pin(core)
    if keeps:
        keep_memory()
    try:
        pipe.send(_measure(places, observation_of(sizes), seconds, period, check))
    except Exception as error:
        names = ", ".join(peer.name for peer, _, _ in places)
        pipe.send(f"in a contest of {names}: {type(error).__name__}: {error}")


def _measure(
    places: Sequence[tuple[Peer, Any, int]],
    observation: Arrays,
    seconds: float,
    period: float,
    check: bool,
) -> list[Figures]:
    with contextlib.ExitStack() as stack:
        entrants = [
            _Entrant(peer.name, stack.enter_context(peer.connect(address, observation)), server)
            for peer, address, server in places
        ]
        for entrant, (peer, _, _) in zip(entrants, places, strict=True):
            is_checked = check and peer.module != RAW.module
            entrant.warm_up(observation if is_checked else None)
        until = time.perf_counter() + seconds * len(entrants)
        while time.perf_counter() < until or not entrants[0].times:
            for entrant in entrants:
                entrant.burst(period)
        return [entrant.figures() for entrant in entrants]


def compare_arrays(name: str, arrays: Arrays, expected: Arrays) -> None:
    """Find out whether a way returned what was sent.

    Raises:
        RuntimeError: Naming what is different.
    """
    if arrays.keys() != expected.keys():
        raise RuntimeError(f"{name} returned {sorted(arrays)}, not {sorted(expected)}")
    for key, array in expected.items():
        if arrays[key].dtype != array.dtype or not np.array_equal(arrays[key], array):
            raise RuntimeError(f"{name} returned another {key} than was sent")
