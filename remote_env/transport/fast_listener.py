"""Accepts WebSockets for the fast lane, and drives them: one thread, one selector.

Each peer gets one frame a turn, so that who sends a thousand in one piece does not hold up the
others.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from websockets.http11 import Request

from remote_env.transport.addresses import listen
from remote_env.transport.base import Accept
from remote_env.transport.fast_server import FastConnection
from remote_env.transport.kernel import tune
from remote_env.transport.listening import CLOSE_TIMEOUT, WebSocketListener, is_brief

__all__ = ["FastListener"]

logger = logging.getLogger(__name__)

_READ_SIZE: Final = 64 << 10
_LOOK_EVERY: Final = 0.05  # at deadlines, in seconds
_LOOK_AT_LOANS: Final = 0.02  # at who has borrowed: what else that peer says waits as long
_MOST_ACCEPTED: Final = 16  # in a turn
# After the system had no file left for another connection, in seconds.
_ACCEPT_AGAIN_AFTER: Final = 1.0
_NO_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class FastListener(WebSocketListener):
    """See ``WebSocketListener``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Prepare, as ``WebSocketListener``."""
        super().__init__(*args, **options)
        self._calls: deque[Callable[[], object]] = deque()
        self._sockets: list[socket.socket] = []
        self._connections: set[FastConnection] = set()
        # Those of which there may be another frame in memory.
        self._eager: dict[FastConnection, None] = {}
        self._network_thread = 0
        self._lent: dict[FastConnection, None] = {}
        self._look_at = self._look_at_loans = 0.0
        self._accept_at = 0.0
        self._stop_at: float | None = None

    @property
    def max_frame_size(self) -> int:
        """The largest frame to accept, in bytes."""
        return self._max_frame_size

    @property
    def max_reply_size(self) -> int:
        """The largest frame that is sent, in bytes, but for its header."""
        return self._max_reply_size

    @property
    def max_unread(self) -> int:
        """How many bytes a peer may leave unread."""
        return self._max_unread

    @property
    def hello_timeout(self) -> float:
        """Seconds within which the first frame must come."""
        return self._hello_timeout

    def judge(self, request: Request) -> tuple[HTTPStatus, str] | float:
        """Return why a peer may not connect, or how long it may stay, in seconds."""
        refusal = self._refusal(request, sum(c.is_open for c in self._connections))
        if refusal is not None:
            return refusal
        return self.brief if is_brief(request) else float("inf")

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the network thread, soon. Safe to call from any thread."""
        self._calls.append(function)
        if threading.get_ident() != self._network_thread:
            with contextlib.suppress(OSError):  # full: it will wake; closed: nobody is there
                self._waker.send(b"\0")

    def watch(self, connection: FastConnection, *, is_writing: bool) -> None:
        """Read what comes, if that is not lent; call ``flush`` when there is room, or do not."""
        events = 0 if connection.is_lent else selectors.EVENT_READ
        events |= selectors.EVENT_WRITE if is_writing else 0
        if not connection.is_lent:
            self._lent.pop(connection, None)
        elif connection not in self._lent:
            self._lent[connection] = None
            self._look_at_loans = time.monotonic() + _LOOK_AT_LOANS
        known = self._selector.get_map().get(connection.sock)
        if known is None and events:
            self._selector.register(connection.sock, events, connection)
        elif known is not None and not events:
            self._selector.unregister(connection.sock)
        elif known is not None and known.events != events:
            self._selector.modify(connection.sock, events, connection)

    def read_again(self, connection: FastConnection) -> None:
        """Take up what another thread has left in memory."""
        self._eager[connection] = None

    def forget(self, connection: FastConnection) -> None:
        """Serve a connection no more."""
        if connection.sock in self._selector.get_map():  # not while it is lent
            self._selector.unregister(connection.sock)
        self._connections.discard(connection)
        self._eager.pop(connection, None)
        self._lent.pop(connection, None)

    def _ask_to_stop(self) -> None:
        self.call(self._begin_to_stop)

    def _run(self, accept: Accept) -> None:
        self._network_thread = threading.get_ident()
        try:
            with contextlib.ExitStack() as files:
                files.callback(self._close_sockets)
                self._open(files)
                self._started.set()
                try:
                    self._drive(accept)
                finally:
                    for connection in list(self._connections):
                        self._guarded(connection, connection.end)
                    self._network_thread = 0
        except (OSError, OverflowError, ValueError) as error:
            if self._started.is_set():
                raise
            self._failure = error  # a port or a name that cannot be, or no file is left
        finally:
            self._started.set()

    def _open(self, files: contextlib.ExitStack) -> None:
        self._selector = files.enter_context(selectors.DefaultSelector())
        self._waker, self._woken = map(files.enter_context, socket.socketpair())
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        if self._unix is not None:
            self._sockets = [self._unix.listen()]
        else:
            self._sockets = listen(self.host, self.port)
            self.port = self._sockets[0].getsockname()[1]
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listen_again()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _listen_again(self) -> None:
        self._accept_at = float("inf")
        for sock in self._sockets:
            self._selector.register(sock, selectors.EVENT_READ)

    def _listen_no_more(self) -> None:
        for sock in self._sockets:
            if sock in self._selector.get_map():
                self._selector.unregister(sock)

    def _begin_to_stop(self) -> None:
        self._stop_at = time.monotonic() + CLOSE_TIMEOUT
        self._listen_no_more()
        self._close_sockets()
        self._sockets.clear()
        self._accept_at = float("inf")
        for connection in list(self._connections):
            connection.say_close(1012, "the robot server stopped")

    def _drive(self, accept: Accept) -> None:
        scratch = bytearray(_READ_SIZE)
        while self._stop_at is None or (self._connections and time.monotonic() < self._stop_at):
            for key, events in self._selector.select(self._patience()):
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                elif key.data is None:
                    self._accept_some(key.fileobj, accept)  # type: ignore[arg-type]
                else:
                    self._guarded(key.data, self._serve, key.data, events, scratch)
            for connection in list(self._eager):
                self._guarded(connection, self._take_next, connection)
            self._answer_calls()
            now = time.monotonic()
            if self._lent and now >= self._look_at_loans:
                self._look_at_loans = now + _LOOK_AT_LOANS
                for connection in list(self._lent):
                    self._guarded(connection, connection.take_back_if_away)
            if now >= self._look_at:
                self._look_at = now + _LOOK_EVERY
                for connection in list(self._connections):
                    self._guarded(connection, connection.look_at_clock, now)
            if now >= self._accept_at:
                self._listen_again()

    def _patience(self) -> float | None:
        if self._eager or self._calls:
            return 0.0
        if self._lent:
            return _LOOK_AT_LOANS
        if self._connections or self._accept_at < float("inf"):
            return _LOOK_EVERY
        return None

    def _answer_calls(self) -> None:
        for _ in range(len(self._calls)):
            try:
                self._calls.popleft()()
            except Exception:
                logger.exception("the network thread was asked for what it could not do")

    def _serve(self, connection: FastConnection, events: int, scratch: bytearray) -> None:
        if events & selectors.EVENT_WRITE:
            connection.flush()
        # Who has something in memory has its turn below, and may send more when that is done.
        if events & selectors.EVENT_READ and connection not in self._eager:
            connection.read(scratch)
            if connection in self._connections:
                self._eager[connection] = None

    def _take_next(self, connection: FastConnection) -> None:
        if not connection.take_next():
            self._eager.pop(connection, None)

    def _guarded(
        self, connection: FastConnection, function: Callable[..., None], *args: Any
    ) -> None:
        """Call a function, and end the connection if that fails: it is a bug of ours."""
        if connection not in self._connections:
            return  # it ended earlier in this turn
        try:
            function(*args)
        except Exception:
            logger.exception("the connection of %s failed", connection.peer_name)
            connection.end()

    def _accept_some(self, listening: socket.socket, accept: Accept) -> None:
        for _ in range(_MOST_ACCEPTED):
            try:
                sock, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_FILES:
                    logger.error("no more connections for a second: %s", error)
                    self._listen_no_more()
                    self._accept_at = time.monotonic() + _ACCEPT_AGAIN_AFTER
                return
            with contextlib.suppress(OSError):  # it is gone already; reading will tell
                tune(sock)
            sock.setblocking(False)
            name = f"{address[0]}:{address[1]}" if self._unix is None else "a local peer"
            connection = FastConnection(sock, name, self, accept)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)
