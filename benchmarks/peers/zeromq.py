"""ZeroMQ: REQ and REP, an array a part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell


def serve(tell: Tell, observation: Arrays) -> None:
    """Answer with a header and the arrays, by reference."""
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        tell(socket.bind_to_random_port("tcp://127.0.0.1"))
        while True:
            np.frombuffer(socket.recv(), np.float32)
            header = {
                "arrays": [(n, a.dtype.str, a.shape) for n, a in observation.items()],
                "reward": 0.0,
                "terminated": False,
                "truncated": False,
            }
            parts = [msgpack.packb(header), *observation.values()]
            socket.send_multipart(parts, copy=False)


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Ask."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(f"tcp://127.0.0.1:{address}")

        def step(action: NDArray[Any]) -> Arrays:
            socket.send(action.tobytes())
            header, *parts = socket.recv_multipart(copy=False)
            described = msgpack.unpackb(header.buffer)["arrays"]
            return {
                name: np.frombuffer(part.buffer, dtype).reshape(shape)
                for (name, dtype, shape), part in zip(described, parts, strict=True)
            }

        yield step
