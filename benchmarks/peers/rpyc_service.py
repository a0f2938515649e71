"""Remote calls by rpyc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import rpyc
from numpy.typing import NDArray
from rpyc.utils.server import ThreadedServer

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell


def serve(tell: Tell, observation: Arrays) -> None:
    """Expose a step. Tuples of plain values go by value, anything else would by reference."""

    class Rig(rpyc.Service):
        def exposed_step(self, action: bytes) -> tuple[Any, ...]:
            np.frombuffer(action, np.float32)
            arrays = tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in observation.items())
            return arrays, 0.0, False, False

    server = ThreadedServer(Rig, hostname="127.0.0.1", port=0)
    tell(server.port)
    server.start()


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Call it."""
    with contextlib.closing(rpyc.connect("127.0.0.1", address)) as connection:
        call = connection.root.step

        def step(action: NDArray[Any]) -> Arrays:
            arrays = call(action.tobytes())[0]
            return {n: np.frombuffer(data, d).reshape(shape) for n, d, shape, data in arrays}

        yield step
