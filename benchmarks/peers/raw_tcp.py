"""The limit: the same bytes over a blocking socket, and nothing done with them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from benchmarks.machine import tune
from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell

REQUEST = 200  # about what a step's request has
OVERHEAD = 600  # and its answer, beside the arrays


def size_of(observation: Arrays) -> int:
    """Return how many bytes an answer has."""
    return sum(array.nbytes for array in observation.values()) + OVERHEAD


def serve(tell: Tell, observation: Arrays) -> None:
    """Send so many bytes for every request."""
    reply = bytes(size_of(observation))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tune(listener)
        tell(listener.getsockname()[1])
        while True:
            peer, _ = listener.accept()
            with peer:
                tune(peer)
                while len(peer.recv(REQUEST, socket.MSG_WAITALL)) == REQUEST:
                    peer.sendall(reply)


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Receive into one buffer."""
    size = size_of(observation)
    buffer = memoryview(bytearray(size))
    with socket.create_connection(("127.0.0.1", address)) as sock:
        tune(sock)

        def step(action: NDArray[Any]) -> Arrays:
            sock.sendall(bytes(REQUEST))
            sock.recv_into(buffer, size, socket.MSG_WAITALL)
            return {}

        yield step
