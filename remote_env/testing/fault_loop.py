"""What runs on the thread of a ``FaultProxy``: sockets, and commands from other threads.

A loop of its own rather than asyncio: it decides itself when it reads, which is what
backpressure is made of, and closes a socket with an RST or a FIN as it likes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from remote_env.testing.fault_connection import FaultyConnection, abort
from remote_env.testing.fault_lane import Lane

__all__ = ["FaultLoop"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BUFFER_SIZE: Final = 1 << 18
_COMMAND_TIMEOUT: Final = 5.0


class FaultLoop:
    """Listens, connects and forwards, until it is stopped.

    Owned by its thread, except ``do`` and ``stop``. A lock guards the list of commands and
    whether there may be more.
    """

    def __init__(self, target: tuple[str, int], port: int, *, to_server: Lane, to_client: Lane):
        """Listen; ``start`` starts the thread.

        Args:
            target: Where the server listens.
            port: To listen at, or 0.
            to_server: The faults towards the server.
            to_client: The faults towards the client.

        Raises:
            OSError: If the target's name is not known, or the port is taken.
        """
        resolved = socket.getaddrinfo(*target, type=socket.SOCK_STREAM)[0]
        self._family: socket.AddressFamily = resolved[0]
        self._target: Any = resolved[4]
        self._to_server = to_server
        self._to_client = to_client
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.is_refusing = False
        self.outage_until = math.inf
        self._connections: set[FaultyConnection] = set()
        self._registered: dict[socket.socket, int] = {}
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._is_stopping = False
        self._woken, self._wake = socket.socketpair()
        for sock in (self._woken, self._wake):
            sock.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, name=f"fault proxy {self.port}", daemon=True
        )

    def start(self) -> None:
        """Start forwarding."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept_all)
        self._selector.register(self._woken, selectors.EVENT_READ, self._note_woken)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; closes everything."""
        with self._lock:
            self._is_stopping = True
            self._wake_up()
        self._thread.join(_COMMAND_TIMEOUT)

    def do(self, command: Callable[[], T]) -> T:
        """Run a command on the thread, and wait for it; then what it changed is in force."""
        done: Future[T] = Future()
        with self._lock:
            if self._is_stopping:
                raise RuntimeError("the proxy is stopped")
            self._commands.append((command, done))
            self._wake_up()
        return done.result(_COMMAND_TIMEOUT)

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake up
            self._wake.send(b"\0")

    # The thread

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                ready = self._selector.select(self._wait())
                now = time.monotonic()
                for key, events in ready:
                    key.data(events, now)
                if self._commands:
                    self._obey(now)
                if now >= self.outage_until:
                    self.end_blackhole((self._to_server, self._to_client))
                for connection in [c for c in self._connections if now >= c.wake_at]:
                    connection.service(now)
                    self._watch(connection)
        finally:
            self._close()

    def _wait(self) -> float | None:
        wake_at = min((c.wake_at for c in self._connections), default=math.inf)
        wake_at = min(wake_at, self.outage_until)
        return None if wake_at == math.inf else max(0.0, wake_at - time.monotonic())

    def _close(self) -> None:
        for connection in self._connections:
            connection.finish()
        self._connections.clear()
        self._registered.clear()
        with self._lock:  # stop() may be about to wake us
            for resource in (self._selector, self._listener, self._woken, self._wake):
                resource.close()
        self._do_all()  # nobody who came just before the end waits in vain

    def _note_woken(self, events: int, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _obey(self, now: float) -> None:
        """Run the commands, for all connections that were made before them."""
        self._accept_all(0, now)
        self._do_all()
        for connection in list(self._connections):
            connection.service(now)
            self._watch(connection)

    def _do_all(self) -> None:
        while self._commands:
            command, done = self._commands.popleft()
            try:
                done.set_result(command())
            except BaseException as error:
                done.set_exception(error)

    def _accept_all(self, events: int, now: float) -> None:
        while (pair := self._accept()) is not None:
            self._connect(*pair)

    def _accept(self) -> tuple[socket.socket, socket.socket] | None:
        """Return a new client, with a socket for its server, or None if there is none."""
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:  # no descriptors are left: let others run, and try again
            logger.debug("the proxy could not accept: %s", error)
            time.sleep(0.001)
            return None
        try:
            return client, socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            logger.debug("the proxy could not connect: %s", error)
            abort(client)
            return None

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        if self.is_refusing:
            abort(client)
            abort(server)
            return
        self.accepted += 1
        is_dead = self._to_server.is_blackholed or self._to_client.is_blackholed
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not is_dead and server.connect_ex(self._target) not in (0, errno.EINPROGRESS):
            abort(client)
            abort(server)
            return
        connection = FaultyConnection(
            client, server, to_server=self._to_server, to_client=self._to_client, is_dead=is_dead
        )
        self._connections.add(connection)
        self._watch(connection)

    def _watch(self, connection: FaultyConnection) -> None:
        """Wait for what the connection now wants; forget it once it is closed."""
        for sock in connection.sockets:
            events = connection.events(sock) if connection.is_open else 0
            before = self._registered.get(sock, 0)
            if events == before:
                continue
            self._registered[sock] = events
            if not before:
                self._selector.register(sock, events, self._handler(connection, sock))
            elif events:
                self._selector.modify(sock, events, self._selector.get_key(sock).data)
            else:
                self._selector.unregister(sock)
        if not connection.is_open:
            self._connections.discard(connection)
            for sock in connection.sockets:
                self._registered.pop(sock, None)

    def _handler(
        self, connection: FaultyConnection, sock: socket.socket
    ) -> Callable[[int, float], None]:
        def handle(events: int, now: float) -> None:
            connection.handle(sock, events, now, self._buffer)
            self._watch(connection)

        return handle

    # Commands, run on the thread

    def each(self, command: Callable[[FaultyConnection], None]) -> None:
        """Do something to every connection."""
        for connection in list(self._connections):
            command(connection)
            self._watch(connection)

    def begin_blackhole(self, lanes: Iterable[Lane], *, until: float) -> None:
        """Let nothing pass, until then or until told."""
        self.outage_until = until
        for lane in lanes:
            lane.is_blackholed = True

    def end_blackhole(self, lanes: Iterable[Lane]) -> None:
        """Let bytes pass again; connections that lost some stay silent."""
        self.outage_until = math.inf
        for lane in lanes:
            lane.is_blackholed = False
        self.each(FaultyConnection.end_of_blackhole)
