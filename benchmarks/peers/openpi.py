"""openpi's way: msgpack with a hook for numpy, one WebSocket message each way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell


def pack_array(value: Any) -> Any:
    """Turn an array into a map."""
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    return value


def unpack_array(value: Any) -> Any:
    """Turn such a map into an array."""
    if b"__ndarray__" in value:
        return np.ndarray(
            buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"]
        )
    return value


class Packing:
    """The few names of openpi's ``msgpack_numpy`` that a client needs."""

    @staticmethod
    def packb(value: Any) -> bytes:
        """Pack."""
        packed: bytes = msgpack.packb(value, default=pack_array)
        return packed

    @staticmethod
    def unpackb(data: bytes) -> Any:
        """Unpack."""
        return msgpack.unpackb(data, object_hook=unpack_array)


def packing(real: bool) -> Any:
    """Return ours, or the package's own."""
    if not real:
        return Packing
    from openpi_client import msgpack_numpy

    return msgpack_numpy


def serve(tell: Tell, observation: Arrays, real: bool = False, period: float = 0.0) -> None:
    """Serve as openpi's ``WebsocketPolicyServer`` does.

    Args:
        tell: Takes the port.
        observation: What every step returns.
        real: Whether with the package's own packing.
        period: If it is a robot with control periods, in seconds; it answers when one ends.
    """
    from websockets.asyncio.server import ServerConnection
    from websockets.asyncio.server import serve as listen

    pack = packing(real)
    began = time.monotonic()

    async def answer(connection: ServerConnection) -> None:
        await connection.send(pack.packb({"name": "rig"}))
        async for message in connection:
            pack.unpackb(message)
            if period:
                await asyncio.sleep(period - (time.monotonic() - began) % period)
            step = {"observation": observation, "reward": 0.0, "terminated": False, "info": {}}
            await connection.send(pack.packb(step))

    async def run() -> None:
        async with listen(answer, "127.0.0.1", 0, compression=None, max_size=None) as server:
            tell(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


@contextlib.contextmanager
def connect(address: int, observation: Arrays, real: bool = False) -> Iterator[Step]:
    """Ask as openpi's ``WebsocketClientPolicy`` does, or let it ask."""
    if real:
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        policy = WebsocketClientPolicy("127.0.0.1", address)

        def infer(action: NDArray[Any]) -> Arrays:
            arrays: Arrays = policy.infer({"action": action})["observation"]
            return arrays

        yield infer
        return
    from websockets.sync.client import connect as open_connection

    with open_connection(f"ws://127.0.0.1:{address}", compression=None, max_size=None) as ws:
        Packing.unpackb(_bytes(ws.recv()))

        def step(action: NDArray[Any]) -> Arrays:
            ws.send(Packing.packb({"action": action}))
            arrays: Arrays = Packing.unpackb(_bytes(ws.recv()))["observation"]
            return arrays

        yield step


def _bytes(message: str | bytes) -> bytes:
    assert isinstance(message, bytes)
    return message
