"""The server's end over WebSocket: one network thread, which only parses and hands over.

Safe by default: it refuses web pages (an Origin header), names that an attacker could have
pointed here (the Host header), compression, large messages and too many connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http
import ipaddress
import logging
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from typing import Final

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from remote_env.errors import ConfigurationError
from remote_env.transport.base import Accept, Frame, FrameHandler
from remote_env.transport.websocket import BRIEF_VISIT, SUBPROTOCOL

__all__ = ["WebSocketListener", "is_loopback"]

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger("remote_env.websockets")

# A peer that does not read: what waits for it is bounded, or it would eat our memory. Our own
# answers are measured as they are written; a guard looks after the library's: a flood of pings
# without reading the pongs makes it buffer 28 MB a second otherwise.
_GUARD_PERIOD: Final = 0.05
_WRITE_BUFFER_SLACK: Final = 4 << 20

# linux/sockios.h: how much of what the kernel was given it has not sent for the first time. On a
# stalled connection that is megabytes, which the peer would see when they are old.
_SIOCOUTQNSD: Final = 0x894B

# Connections for an emergency stop, beyond the limit; and for how long, in seconds.
_RESERVE: Final = 8
_BRIEF: Final = 10.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
        return self._queued + transport.get_write_buffer_size() + _unsent(transport)

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


class WebSocketListener:
    """Accepts WebSocket connections on a network thread of its own.

    Attributes:
        host: To bind.
        port: To bind; the real one once started, if it was 0.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        max_frame_size: int,
        max_reply_size: int,
        max_connections: int = 64,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        hello_timeout: float = 5.0,
    ) -> None:
        """Prepare; ``start`` binds.

        Args:
            host: To bind.
            port: To bind; 0 lets the system choose.
            max_frame_size: The largest frame to accept, in bytes.
            max_reply_size: The largest frame that is sent; a peer that leaves more than two
                of these and 4 MiB unread is cut off.
            max_connections: Further ones are refused with 503, but for eight that say that
                they are brief, for an emergency stop: those are closed after 10 s.
            allowed_hosts: Names for this machine, beside addresses and its own name.
            allowed_origins: Web pages that may connect; none by default.
            hello_timeout: Seconds within which the first frame must come.
        """
        self.host = host
        self.port = port
        self._max_frame_size = max_frame_size
        self._max_unread = 2 * max_reply_size + _WRITE_BUFFER_SLACK
        self._max_connections = max_connections
        names = {"localhost", socket.gethostname(), socket.getfqdn(), host, *allowed_hosts}
        self._allowed_hosts = {name.lower() for name in names}
        self._allowed_origins = set(allowed_origins)
        self._hello_timeout = hello_timeout
        self._connections: set[ServerConnection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None

    @property
    def url(self) -> str:
        """See ``Listener.url``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 (no address for anybody to call)
            host = socket.gethostname()
        return f"ws://{host}:{self.port}"

    def start(self, accept: Accept) -> None:
        """See ``Listener.start``."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(accept)), name="remote-env network", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise ConfigurationError(
                f"cannot listen at {self.host}:{self.port}: {_reason(self._failure)}; choose "
                "another address or port; 0 is any free port"
            ) from self._failure

    def stop(self) -> None:
        """See ``Listener.stop``."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        self._thread = None

    async def _run(self, accept: Accept) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            server = await self._serve(accept)
        except (OSError, OverflowError, ValueError) as error:
            self._failure = error  # a port or a name that cannot be
            self._started.set()
            return
        guard = asyncio.create_task(self._cut_off_who_does_not_read())
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
            self.host,
            self.port,
            process_request=self._check_request,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=self._max_frame_size,
            max_queue=4,
            open_timeout=5.0,
            # Finds dead hosts only; whether the robot may move is decided elsewhere, and a
            # learner that holds the GIL for seconds is healthy.
            ping_interval=5.0,
            ping_timeout=20.0,
            close_timeout=0.5,
            logger=_library_logger,
        )

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        origins = request.headers.get_all("Origin")
        if any(origin not in self._allowed_origins for origin in origins):
            return connection.respond(
                http.HTTPStatus.FORBIDDEN,
                "Web pages may not drive this robot (the request has an Origin header). If this "
                "is no web page, tell your WebSocket library to send no Origin.\n",
            )
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or not self._is_allowed_host(hosts[0]):
            return connection.respond(
                http.HTTPStatus.MISDIRECTED_REQUEST,
                "This server does not go by that name; connect by its address, or start it with "
                "that name among its allowed hosts.\n",
            )
        most = self._max_connections + (_RESERVE if _is_brief(request) else 0)
        if len(self._connections) >= most:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._max_connections} connections are open, which is the limit.\n",
            )
        return None

    def _is_allowed_host(self, header: str) -> bool:
        name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
        name = name.strip("[]").lower()
        if name in self._allowed_hosts and name != "0.0.0.0":  # noqa: S104
            return True
        try:
            # An address cannot be rebound by whoever owns a name; 0.0.0.0 is a trick.
            return not ipaddress.ip_address(name).is_unspecified
        except ValueError:
            return False

    async def _handle(self, connection: ServerConnection, accept: Accept) -> None:
        self._connections.add(connection)
        handler = accept(_Sink(connection, self._max_unread))
        reason = "closed"
        try:
            async with asyncio.timeout(_BRIEF if _is_brief(connection.request) else None):
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


def _is_brief(request: Request | None) -> bool:
    name, value = BRIEF_VISIT
    return request is not None and request.headers.get_all(name) == [value]


def _cut_off_if_more_waits(connection: ServerConnection, limit: int) -> None:
    unread = connection.transport.get_write_buffer_size()
    if unread > limit:
        logger.warning("%s left %d bytes unread and is cut off", _address(connection), unread)
        connection.transport.abort()


def _unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes wait in the kernel for the peer to make room; 0 where unknown."""
    if sys.platform != "linux":
        return 0
    try:
        raw = fcntl.ioctl(transport.get_extra_info("socket").fileno(), _SIOCOUTQNSD, bytes(4))
    except (OSError, ValueError):  # closed meanwhile
        return 0
    return int(struct.unpack("i", raw)[0])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _address(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a local peer"
