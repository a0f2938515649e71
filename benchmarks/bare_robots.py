"""What several robots cost at least: bare sockets, and nothing that is checked.

python benchmarks/bare_robots.py [--robots 1 8 16] [--payloads P0 P3 P1 P2] [--periods 10 0]
                                 [--rounds 3] [--seconds 1]

As ``vector.py``, with robots and a learner that do nothing but send and receive: each robot, a
process of its own, answers 100 bytes at the end of a control period, or at once, with as many
bytes as an observation has. The learner sends to all, waits for all with one ``poll``, and
receives straight into one array. No WebSocket, no header, no order of steps, no ``info``: what
is between this and ``vector.py`` is ours, and what is below it is the system's. Client CPU is
that of the learner's process for one env step. Medians of the rounds. Three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import select
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe, describe_in_words, enter_own_network, tune
from benchmarks.payloads import PAYLOADS, observation_of

_ACTION: Final = bytes(100)


def answer(pipe: Connection, size: int, period: float) -> None:
    """Serve one robot until its learner is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname()[1])
        sock, _ = listening.accept()
    tune(sock)
    room, observation = bytearray(len(_ACTION)), bytes(size)
    ends_at = time.monotonic()
    with sock, contextlib.suppress(ConnectionError):
        while sock.recv_into(room):
            now = time.monotonic()
            while period and ends_at <= now:  # absolute periods; who misses one has the next
                ends_at = ends_at + period if now - ends_at < period else now + period
            time.sleep(max(0.0, ends_at - now))
            sock.sendall(observation)


@contextlib.contextmanager
def connected(count: int, size: int, period: float) -> Iterator[list[socket.socket]]:
    """Start so many robots; yield a connection to each."""
    context = multiprocessing.get_context("forkserver")
    with contextlib.ExitStack() as files:
        socks = []
        for _ in range(count):
            here, there = multiprocessing.Pipe()
            process = context.Process(target=answer, args=(there, size, period), daemon=True)
            process.start()
            files.callback(process.kill)
            there.close()
            sock = files.enter_context(socket.create_connection(("127.0.0.1", here.recv())))
            tune(sock)
            sock.setblocking(False)
            socks.append(sock)
        yield socks


class Learner:
    """Steps all robots at once."""

    def __init__(self, socks: list[socket.socket], size: int) -> None:
        """Take connections to robots, whose observations have so many bytes."""
        self._socks = socks
        self._size = size
        rows = np.empty((len(socks), size), np.uint8)
        self._rows = {sock.fileno(): (sock, rows[i].data) for i, sock in enumerate(socks)}
        self._poll = select.poll()
        for sock in socks:
            self._poll.register(sock, select.POLLIN)

    def step(self) -> None:
        """Send to all, and wait for all."""
        for sock in self._socks:
            sock.send(_ACTION)
        came, missing = dict.fromkeys(self._rows, 0), len(self._socks)
        while missing:
            for file, _ in self._poll.poll():
                sock, row = self._rows[file]
                came[file] += sock.recv_into(row[came[file] :])
                missing -= came[file] == self._size


def measure(count: int, size: int, period: float, *, rounds: int, seconds: float) -> str:
    """Return env steps per second, and the client's CPU for one, in words."""
    rates, costs = [], []
    with connected(count, size, period) as socks:
        learner = Learner(socks, size)
        for _ in range(20):
            learner.step()
        for _ in range(rounds):
            began, cpu, steps = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - began < seconds:
                learner.step()
                steps += count
            costs.append((time.process_time() - cpu) / steps)
            rates.append(steps / (time.perf_counter() - began))
    rate = statistics.median(rates)
    share = f" ({rate * period / count:.1%})" if period else ""
    return f"{rate:,.0f}{share}, {statistics.median(costs) * 1e6:.0f} us"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--payloads", nargs="+", default=list(PAYLOADS), choices=list(PAYLOADS))
    parser.add_argument("--periods", type=float, nargs="+", default=[10, 0], help="in ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    enter_own_network()
    print(describe_in_words(describe()))
    print("| robots | " + " | ".join(f"{p:g} ms" if p else "at once" for p in args.periods) + " |")
    print("| --- |" + " --- |" * len(args.periods))
    for name in args.payloads:
        size = sum(array.nbytes for array in observation_of(PAYLOADS[name]).values())
        for count in args.robots:
            cells = [
                measure(count, size, period / 1e3, rounds=args.rounds, seconds=args.seconds)
                for period in args.periods
            ]
            print(f"| {name}, {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
