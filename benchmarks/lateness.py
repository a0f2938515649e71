"""How late a thread wakes for its control period, and how soon a message wakes it.

python benchmarks/lateness.py [--rounds 12] [--periods 25]

Every way to wait gets a short burst of 10 ms periods in turn, round after round, so that a
machine whose speed drifts favours none. Lateness is the time on return minus the deadline. A
hand-over is the time from another thread's ``put`` to the return of the wait.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import platform
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from remote_env.timed_queue import TimedQueue
from remote_env_server.timing import sharpen_timers, try_realtime_priority, wait_until

PERIOD = 0.01
REAL_TIME = 10
MAILBOX: TimedQueue[float] = TimedQueue()
WOKEN = threading.Condition()
LOOP = asyncio.new_event_loop()


def wait_by_sleep(deadline: float) -> None:
    time.sleep(max(0.0, deadline - time.monotonic()))


def wait_by_asyncio(deadline: float) -> None:
    LOOP.run_until_complete(asyncio.sleep(max(0.0, deadline - time.monotonic())))


def wait_by_condition(deadline: float) -> float | None:
    with WOKEN:
        WOKEN.wait_for(lambda: not MAILBOX.empty(), max(0.0, deadline - time.monotonic()))
    return None if MAILBOX.empty() else MAILBOX.get()


def wait_by_queue(deadline: float) -> float | None:
    try:
        return MAILBOX.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def wait_in_two(deadline: float) -> float | None:
    """Wait to 150 us before, then to the deadline: no time awake."""
    got = wait_by_queue(deadline - 150e-6)
    return wait_by_queue(deadline) if got is None else got


def wait_and_spin(deadline: float) -> float | None:
    """Wait to 50 us before, then stay awake: no approach."""
    got = wait_by_queue(deadline - 50e-6)
    while got is None and time.monotonic() < deadline:
        pass
    return got


def wait_ours(deadline: float) -> float | None:
    return wait_until(deadline, MAILBOX)


@dataclass
class Variant:
    """One way to wait, and what came of it, in seconds."""

    name: str
    wait: Callable[[float], float | None]
    is_sharp: bool = True
    is_real_time: bool = False
    switch_interval: float = 0.005
    late: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def burst(self, periods: int) -> None:
        """Keep so many periods, on a thread of its own."""
        sys.setswitchinterval(self.switch_interval)
        thread = threading.Thread(target=self._run, args=(periods,))
        thread.start()
        thread.join()

    def _run(self, periods: int) -> None:
        if self.is_sharp:
            sharpen_timers()
        if self.is_real_time:
            refused = try_realtime_priority(REAL_TIME)
            assert refused is None, refused
        began = time.thread_time()
        deadline = time.monotonic() + PERIOD
        for _ in range(periods):
            self.wait(deadline)
            now = time.monotonic()
            self.late.append(now - deadline)
            deadline = max(deadline + PERIOD, now)
        self.cpu += time.thread_time() - began

    def print(self) -> None:
        """Print the figures in microseconds."""
        print_row(self.name, self.late, f"{self.cpu / len(self.late) * 1e6:5.0f}")


def print_row(name: str, seconds: list[float], cpu: str = "") -> None:
    p50, p90, p99, most = np.percentile(seconds, [50, 90, 99, 100]) * 1e6
    print(f"  {name:38} {p50:7.0f} {p90:7.0f} {p99:7.0f} {most:7.0f} {cpu}")


def compare(title: str, variants: list[Variant], rounds: int, periods: int) -> None:
    """Give each a burst in turn, and print what came of it."""
    for _ in range(rounds):
        for variant in variants:
            variant.burst(periods)
    print(f"{title}\n  {'us late':38} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7} CPU/period")
    for variant in variants:
        variant.print()


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """One Python thread beside us that never waits."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number = number * 3 % 1_000_003 + 1

    thread = threading.Thread(target=work, name="busy")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_processes() -> Iterator[None]:
    """Two ordinary processes for every core."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))
    ]
    for process in processes:
        process.start()
    time.sleep(1)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def send(count: int, others: threading.Condition | None) -> None:
    """Put the time into the mailbox at random moments, a few milliseconds apart."""
    for _ in range(count):
        time.sleep(random.uniform(0.001, 0.006))
        if others is None:
            MAILBOX.put(time.monotonic())
        else:
            with others:
                MAILBOX.put(time.monotonic())
                others.notify()


def hand_overs(wait: Callable[[float], float | None], count: int) -> list[float]:
    """Return how long each of so many messages took to wake us, in seconds."""
    taken: list[float] = []
    others = WOKEN if wait is wait_by_condition else None
    sender = threading.Thread(target=send, args=(count, others))

    def receive() -> None:
        sharpen_timers()
        deadline = time.monotonic() + PERIOD
        while len(taken) < count:
            sent = wait(deadline)
            now = time.monotonic()
            if sent is not None:
                taken.append(now - sent)
            if now >= deadline:
                deadline = now + PERIOD

    receiver = threading.Thread(target=receive)
    receiver.start()
    sender.start()
    receiver.join()
    sender.join()
    return taken


def wait_for_message(deadline: float) -> float | None:
    return MAILBOX.get()


def compare_hand_overs(rounds: int, count: int) -> None:
    ways = {
        "TimedQueue.get(), no deadline": wait_for_message,
        "TimedQueue.get(timeout)": wait_by_queue,
        "Condition.wait(timeout)": wait_by_condition,
        "wait_until": wait_ours,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, wait in ways.items():
            taken[name] += hand_overs(wait, count)
    print(f"hand-over\n  {'us after put':38} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}")
    for name, seconds in taken.items():
        print_row(name, seconds)


def quiet() -> list[Variant]:
    return [
        Variant("asyncio.sleep, slack 50 us", wait_by_asyncio, is_sharp=False),
        Variant("time.sleep, slack 50 us", wait_by_sleep, is_sharp=False),
        Variant("time.sleep, slack 1 ns", wait_by_sleep),
        Variant("TimedQueue.get(timeout), slack 50 us", wait_by_queue, is_sharp=False),
        Variant("TimedQueue.get(timeout), slack 1 ns", wait_by_queue),
        Variant("Condition.wait(timeout), slack 1 ns", wait_by_condition),
        Variant("get to -150 us, get to deadline", wait_in_two),
        Variant("get to -50 us, awake to deadline", wait_and_spin),
        Variant("wait_until, slack 50 us", wait_ours, is_sharp=False),
        Variant("wait_until, slack 1 ns", wait_ours),
    ]


def beside_a_thread() -> list[Variant]:
    variants = []
    for interval in (5e-3, 0.5e-3, 0.1e-3):
        name = f"switch {interval * 1e3:g} ms"
        variants += [
            Variant(f"get(timeout), {name}", wait_by_queue, switch_interval=interval),
            Variant(f"wait_until, {name}", wait_ours, switch_interval=interval),
        ]
    return variants


def real_time() -> list[Variant]:
    return [
        Variant("get(timeout), ordinary", wait_by_queue),
        Variant("get(timeout), real time", wait_by_queue, is_real_time=True),
        Variant("wait_until, ordinary", wait_ours),
        Variant("wait_until, real time", wait_ours, is_real_time=True),
    ]


def why_not_real_time() -> str | None:
    """Try it on a thread of its own, so that this one stays ordinary."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(try_realtime_priority, REAL_TIME).result()


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--periods", type=int, default=25, help="in each burst")
    options = parser.parse_args()
    rounds, periods = options.rounds, options.periods
    print(f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    compare("quiet", quiet(), rounds, periods)
    compare_hand_overs(rounds, periods)
    with busy_thread():
        compare("one busy Python thread beside it", beside_a_thread(), rounds, periods)
    refused = why_not_real_time()
    if refused is not None:
        print(f"not measured: {refused}")
        return
    compare("quiet, real time", real_time(), rounds, periods)
    with busy_processes():
        compare("two busy processes for every core", real_time(), rounds, periods)


if __name__ == "__main__":
    main()
