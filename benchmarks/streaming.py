"""How much of raw TCP's bytes per second an observer gets, in turns, in one process."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Final

import numpy as np

from benchmarks.machine import tune
from benchmarks.observers import Watcher
from benchmarks.payloads import Rig, Sizes
from benchmarks.peers.raw_tcp import OVERHEAD
from benchmarks.reliability_rig import Child, ServerProcess, quiet
from remote_env.protocol import Observation

__all__ = ["fractions"]

HZ: Final = 1000.0  # what an observer may ask for at most
_TURN: Final = 0.25  # seconds


class Stream(Rig):
    """A thread publishes joints as often as an observer may see them; pictures go along."""

    def open(self) -> None:
        """Start it."""
        self.reset()
        self.start_sensor("joint_pos", self._feel, hz=HZ)

    def _feel(self) -> None:
        self.update_proprio("joint_pos", np.zeros(7, np.float32))


def pour(pipe: Pipe, size: int) -> None:
    """Send messages of this size for ever, as fast as they are taken."""
    quiet()
    message = bytes(size)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tune(listener)
        pipe.send(listener.getsockname()[1])
        peer, _ = listener.accept()
        tune(peer)
        with contextlib.suppress(ConnectionError):
            while True:
                peer.sendall(message)


def _receive(pipe: Pipe, url: str, port: int, size: int, seconds: float) -> None:
    """Receive from both in turns; tell the bytes per second of each turn."""
    quiet()
    watcher = Watcher(url, HZ)
    buffer = memoryview(bytearray(size))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        tune(sock)

        def observe() -> int:
            seen = watcher.receive()
            assert isinstance(seen, Observation)
            return sum(array.nbytes for array in seen.observation)

        def receive() -> int:
            return sock.recv_into(buffer, size, socket.MSG_WAITALL)

        rates: dict[str, list[float]] = {"ours": [], "raw": []}
        until = time.perf_counter() + 2 * seconds
        while time.perf_counter() < until:
            rates["ours"].append(_rate(observe))
            rates["raw"].append(_rate(receive))
        pipe.send({name: statistics.median(some) for name, some in rates.items()})


def _rate(receive: Callable[[], int]) -> float:
    """Return bytes per second; the first message, which waited for its turn, is not counted."""
    receive()
    began, count = time.perf_counter(), 0
    while (lasted := time.perf_counter() - began) < _TURN:
        count += receive()
    return count / lasted


def fractions(sizes: Sizes, *, seconds: float, rounds: int) -> list[dict[str, float]]:
    """Return bytes per second of ours and of raw TCP, of each round."""
    found = []
    for _ in range(rounds):
        size = sum(int(np.prod((h, w, 3 + 4 * depth))) for h, w, depth in sizes) + OVERHEAD
        with (
            ServerProcess(Stream, {"sizes": sizes}, mode="realtime") as server,
            Child(pour, size) as raw,
            Child(_receive, server.url, raw.ask(), size, seconds) as client,
        ):
            found.append(client.ask(timeout=60.0))
    return found
