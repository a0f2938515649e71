"""WebSockets by picows on uvloop, with raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell
from benchmarks.peers.joined import join, split


def serve(tell: Tell, observation: Arrays) -> None:
    """Answer with joined bytes."""

    class Server(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.BINARY:
                np.frombuffer(frame.get_payload_as_bytes(), np.float32)
                transport.send(WSMsgType.BINARY, join(observation))
            elif frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()

    async def run() -> None:
        server = await ws_create_server(lambda request: Server(), "127.0.0.1", 0)
        tell(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Ask, from code that is not async."""

    class Client(WSListener):
        answered: asyncio.Future[Arrays]

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.BINARY:
                self.answered.set_result(split(frame.get_payload_as_bytes(), observation))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        url = f"ws://127.0.0.1:{address}/"
        limit = 1 << 30
        transport, client = loop.run_until_complete(ws_connect(Client, url, max_frame_size=limit))

        async def ask(action: NDArray[Any]) -> Arrays:
            client.answered = loop.create_future()
            transport.send(WSMsgType.BINARY, action.tobytes())
            arrays: Arrays = await client.answered
            return arrays

        async def end() -> None:
            transport.disconnect()
            await transport.wait_disconnected()

        yield lambda action: loop.run_until_complete(ask(action))
        loop.run_until_complete(end())
