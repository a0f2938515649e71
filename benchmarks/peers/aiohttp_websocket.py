"""WebSockets by aiohttp, with raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from aiohttp import ClientSession, web
from numpy.typing import NDArray

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell
from benchmarks.peers.joined import join, split


def serve(tell: Tell, observation: Arrays) -> None:
    """Answer with joined bytes."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, max_msg_size=0)
        await ws.prepare(request)
        async for message in ws:
            np.frombuffer(message.data, np.float32)
            await ws.send_bytes(join(observation))
        return ws

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        tell(runner.addresses[0][1])
        await asyncio.get_running_loop().create_future()

    asyncio.run(run())


@contextlib.contextmanager
def connect(address: int, observation: Arrays) -> Iterator[Step]:
    """Ask, from code that is not async."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def begin() -> tuple[ClientSession, Any]:
            session = ClientSession()
            url = f"http://127.0.0.1:{address}/"
            return session, await session.ws_connect(url, compress=0, max_msg_size=0)

        session, ws = loop.run_until_complete(begin())

        async def ask(action: NDArray[Any]) -> Arrays:
            await ws.send_bytes(action.tobytes())
            return split(await ws.receive_bytes(), observation)

        async def end() -> None:
            await ws.close()
            await session.close()

        yield lambda action: loop.run_until_complete(ask(action))
        loop.run_until_complete(end())
