"""The server's end over WebSocket with the library's own asyncio server: the plain path.

With ``REMOTE_ENV_FAST=0``; ``fast_server.py`` is for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any, Final

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from remote_env.transport.base import Accept, Frame, FrameHandler
from remote_env.transport.connecting import SUBPROTOCOL
from remote_env.transport.kernel import unsent
from remote_env.transport.lending import Borrower
from remote_env.transport.listening import (
    CLOSE_TIMEOUT,
    OPEN_TIMEOUT,
    PING_EVERY,
    PONG_WITHIN,
    WebSocketListener,
    is_brief,
)

__all__ = ["PlainListener"]

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger("remote_env.websockets")

# Our own answers are measured as they are written; a guard looks after the library's: a flood of
# pings without reading the pongs makes it buffer 28 MB a second otherwise.
_GUARD_PERIOD: Final = 0.05


class _Sink:
    """See ``FrameSink``. Sends without waiting, and cuts off a peer for which too much waits."""

    def __init__(self, connection: ServerConnection, max_unread: int) -> None:
        self._connection = connection
        self._max_unread = max_unread
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()  # guards _queued
        self._queued = 0
        self.peer_name = _address(connection)

    def send(self, frame: Frame) -> None:
        data = b"".join(frame)
        if threading.get_ident() == self._thread:
            self._write(data)
            return
        with self._lock:
            self._queued += len(data)
        self._call(self._send_queued, data)

    def _send_queued(self, data: bytes) -> None:
        self._write(data)
        with self._lock:
            self._queued -= len(data)

    def _write(self, data: bytes) -> None:
        if not self._connection.transport.is_closing():  # asyncio would warn, on the terminal
            broadcast((self._connection,), data)
            _cut_off_if_more_waits(self._connection, self._max_unread)

    def backlog(self) -> int:
        transport = self._connection.transport
        sock = transport.get_extra_info("socket")
        return self._queued + transport.get_write_buffer_size() + unsent(sock)

    def lend(self, borrower: Borrower) -> None:
        pass  # its socket is asyncio's

    def close(self, code: int, reason: str) -> None:
        short = reason.encode()[:120].decode("utf-8", "ignore")
        self._call(self._close, code, short)

    def _close(self, code: int, reason: str) -> None:
        task = self._loop.create_task(self._connection.close(code, reason))
        # The loop keeps only a weak reference to a task.
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    def _call(self, function: object, *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the connection
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]


_closing: set[asyncio.Task[None]] = set()


class PlainListener(WebSocketListener):
    """See ``WebSocketListener``. Copies every frame once on each way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Prepare, as ``WebSocketListener``."""
        super().__init__(*args, **options)
        self._connections: set[ServerConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._where: dict[str, Any] = {"host": self.host, "port": self.port}

    def _run(self, accept: Accept) -> None:
        if self._unix is not None:
            try:
                self._where = {"unix": True, "sock": self._unix.listen()}
            except OSError as error:
                self._failure = error
                self._started.set()
                return
        asyncio.run(self._listen(accept))

    def _ask_to_stop(self) -> None:
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _listen(self, accept: Accept) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            server = await self._serve(accept)
        except (OSError, OverflowError, ValueError) as error:
            self._failure = error  # a port or a name that cannot be
            self._started.set()
            return
        guard = asyncio.create_task(self._cut_off_who_does_not_read())
        if self._unix is None:
            self.port = next(iter(server.sockets)).getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        guard.cancel()
        server.close(code=1012, reason="the robot server stopped")
        await server.wait_closed()

    async def _serve(self, accept: Accept) -> Server:
        async def handle(connection: ServerConnection) -> None:
            await self._handle(connection, accept)

        return await serve(
            handle,
            **self._where,
            process_request=self._check_request,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=self._max_frame_size,
            max_queue=4,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=PING_EVERY,
            ping_timeout=PONG_WITHIN,
            close_timeout=CLOSE_TIMEOUT,
            logger=_library_logger,
        )

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        refusal = self._refusal(request, len(self._connections))
        return None if refusal is None else connection.respond(*refusal)

    async def _handle(self, connection: ServerConnection, accept: Accept) -> None:
        self._connections.add(connection)
        handler = accept(_Sink(connection, self._max_unread))
        reason = "closed"
        try:
            async with asyncio.timeout(self.brief if is_brief(connection.request) else None):
                await self._pass_on(connection, handler)
        except ConnectionClosed as error:
            reason = str(error)
        except TimeoutError:
            reason = f"no hello within {self._hello_timeout:g} s, or no brief visit"
            await connection.close(1008, reason)
        finally:
            self._connections.discard(connection)
            handler.on_close(reason)

    async def _pass_on(self, connection: ServerConnection, handler: FrameHandler) -> None:
        async with asyncio.timeout(self._hello_timeout):
            frame = await connection.recv()
        while True:
            if isinstance(frame, str):
                await connection.close(1003, "frames are binary")
                return
            # A copy: what the robot is handed must be its own and writable, as locally.
            handler.on_frame(bytearray(frame))
            # recv() does not suspend while frames wait that came in one piece: thousands may,
            # and the other peers would have to wait until all are answered.
            await asyncio.sleep(0)
            frame = await connection.recv()

    async def _cut_off_who_does_not_read(self) -> None:
        while True:
            await asyncio.sleep(_GUARD_PERIOD)
            for connection in list(self._connections):
                _cut_off_if_more_waits(connection, self._max_unread)


def _cut_off_if_more_waits(connection: ServerConnection, limit: int) -> None:
    unread = connection.transport.get_write_buffer_size()
    if unread > limit:
        logger.warning("%s left %d bytes unread and is cut off", _address(connection), unread)
        connection.transport.abort()


def _address(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a local peer"
