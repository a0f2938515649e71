"""Frames between two parts of one process: for tests, and to measure what a network adds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

from remote_env.errors import (
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
)
from remote_env.timed_queue import TimedQueue
from remote_env.transport.base import Accept, Frame, FrameHandler, LinkWithoutFile, join
from remote_env.transport.lending import Borrower

__all__ = ["SCHEME", "InProcessLink", "InProcessListener", "connect"]

SCHEME: Final = "inproc"
_listeners: dict[str, InProcessListener] = {}
_lock = threading.Lock()  # guards _listeners


class InProcessLink(LinkWithoutFile):
    """The client's end. The server's handler runs on the thread that sends."""

    def __init__(self, peer_name: str) -> None:
        self.peer_name = peer_name
        self._received: TimedQueue[bytearray | None] = TimedQueue()
        self._counting = threading.Lock()  # guards _unread
        self._unread = 0
        self._handler: FrameHandler | None = None
        self._closed_because = ""
        self._on_end: Callable[[InProcessLink], None] | None = None

    def open(self, accept: Accept, on_end: Callable[[InProcessLink], None]) -> None:
        """Connect to what accepts; ``on_end`` is told once when the connection ends."""
        self._on_end = on_end
        self._handler = accept(_Sink(self))

    @property
    def carrier(self) -> str:
        """See ``Link.carrier``."""
        return "this process"

    def send(self, frame: Frame) -> None:
        """See ``Link.send``."""
        if self._closed_because or self._handler is None:
            raise ConnectionLostError(f"the connection is closed: {self._closed_because}")
        self._handler.on_frame(join(frame))

    def receive(self, timeout: float) -> bytearray:
        """See ``Link.receive``."""
        try:
            frame = self._received.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            raise DeadlineExceededError(
                f"no reply within {timeout * 1e3:.0f} ms", waited=timeout
            ) from None
        if frame is None:
            self._received.put(None)  # for whoever asks again
            raise ConnectionLostError(f"the connection is closed: {self._closed_because}")
        self._count(-len(frame))
        return frame

    def serve_control_frames(self) -> None:
        """See ``Link.serve_control_frames``; there are none."""

    def idle_for(self) -> float:
        """See ``Link.idle_for``; nothing is lost on the way within a process."""
        return 0.0

    def abort(self) -> None:
        """See ``Link.abort``."""
        self._end("aborted by the client")

    def close(self) -> None:
        """See ``Link.close``."""
        self._end("closed by the client")

    def deliver(self, frame: Frame) -> None:
        """Take a frame from the server."""
        if not self._closed_because:
            joined = join(frame)
            self._count(len(joined))
            self._received.put(joined)

    def _count(self, size: int) -> None:
        with self._counting:
            self._unread += size

    @property
    def unread(self) -> int:
        """How many bytes the client has not received yet."""
        return 0 if self._closed_because else self._unread

    def end_by_server(self, reason: str) -> None:
        """Take the server's close."""
        self._end(reason or "closed by the server")

    def _end(self, reason: str) -> None:
        with _lock:
            if self._closed_because:
                return
            self._closed_because = reason
        self._received.put(None)
        if self._handler is not None:
            self._handler.on_close(reason)
        if self._on_end is not None:
            self._on_end(self)


class _Sink:
    def __init__(self, link: InProcessLink) -> None:
        self._link = link
        self.peer_name = link.peer_name

    def send(self, frame: Frame) -> None:
        self._link.deliver(frame)

    def backlog(self) -> int:
        return self._link.unread

    def lend(self, borrower: Borrower) -> None:
        pass  # who sends is who calls

    def close(self, code: int, reason: str) -> None:
        self._link.end_by_server(reason)


class InProcessListener:
    """Accepts connections from the same process, by name: ``inproc://NAME``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._accept: Accept | None = None
        self._links: list[InProcessLink] = []

    @property
    def url(self) -> str:
        """See ``Listener.url``."""
        return f"{SCHEME}://{self._name}"

    def start(self, accept: Accept) -> None:
        """See ``Listener.start``."""
        with _lock:
            if self._name in _listeners:
                raise ConfigurationError(f"{self.url} is already served in this process")
            _listeners[self._name] = self
        self._accept = accept

    def stop(self) -> None:
        """See ``Listener.stop``."""
        with _lock:
            if _listeners.get(self._name) is self:  # not if ``start`` found another one
                del _listeners[self._name]
            links, self._links = self._links, []
        for link in links:
            link.end_by_server("the server stopped")

    def connect(self) -> InProcessLink:
        """Return a new connection."""
        assert self._accept is not None
        link = InProcessLink(peer_name=f"{self.url} from this process")
        with _lock:
            self._links.append(link)
        link.open(self._accept, self._forget)
        return link

    def _forget(self, link: InProcessLink) -> None:
        with _lock:
            if link in self._links:
                self._links.remove(link)


def connect(url: str, *, timeout: float, max_frame_size: int) -> InProcessLink:
    """Connect to a listener of this process; the limits do not apply here.

    Raises:
        ConnectFailedError: If nothing listens under this name.
    """
    name = url.removeprefix(f"{SCHEME}://")
    with _lock:
        listener = _listeners.get(name)
    if listener is None:
        raise ConnectFailedError(f"nothing in this process listens at {url}")
    return listener.connect()
