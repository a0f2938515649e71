"""The websockets library as it comes, with raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.sync.client import connect as open_connection

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell
from benchmarks.peers.joined import join, split


def serve(tell: Tell, observation: Arrays) -> None:
    """Answer with joined bytes."""

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            assert isinstance(message, bytes)
            np.frombuffer(message, np.float32)
            await connection.send(join(observation))

    async def run() -> None:
        async with listen(answer, "127.0.0.1", 0, compression=None, max_size=None) as server:
            tell(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Ask."""
    with open_connection(f"ws://127.0.0.1:{address}", compression=None, max_size=None) as ws:

        def step(action: NDArray[Any]) -> Arrays:
            ws.send(action.tobytes())
            message = ws.recv()
            assert isinstance(message, bytes)
            return split(message, observation)

        yield step
