"""What a transport is: it carries frames in order, whole, and knows nothing else.

The client's end is a blocking ``Link``. The server's end is driven by a network thread: a
``Listener`` calls ``accept`` for every connection and hands what comes in to the
``FrameHandler`` that it got; that one answers through its ``FrameSink``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from remote_env.errors import DeadlineExceededError
from remote_env.protocol.codec import Buffer
from remote_env.transport.lending import Borrower

__all__ = [
    "Accept",
    "Frame",
    "FrameHandler",
    "FrameSink",
    "Link",
    "LinkWithoutFile",
    "Listener",
    "join",
]

Frame: TypeAlias = Sequence[Buffer]


def join(frame: Frame) -> bytearray:
    """Copy the parts of a frame into one writable buffer."""
    joined = bytearray(sum(len(part) for part in frame))
    start = 0
    for part in frame:
        joined[start : start + len(part)] = part
        start += len(part)
    return joined


class Link(Protocol):
    """The client's end of one connection. Not safe from several threads at once, but for abort."""

    @property
    def carrier(self) -> str:
        """What frames travel by, for people: ``"TCP"``."""

    def send(self, frame: Frame) -> None:
        """Send one frame; blocks until the operating system has it.

        Raises:
            ConnectionLostError: If the connection is gone.
        """

    def receive(self, timeout: float) -> Buffer:
        """Return the next frame, in writable memory that is the caller's own.

        It stays so for as long as anything refers to it, a view or an array in it.

        Raises:
            DeadlineExceededError: If none came within ``timeout`` seconds.
            ConnectionLostError: If the connection is gone.
            RemoteProtocolError: If the peer sent something that is no frame.
        """

    def receive_nowait(self) -> Buffer | None:
        """Return the next frame, as ``receive``, if all of it is here; never waits for more.

        Raises:
            ConnectionLostError: If the connection is gone.
            RemoteProtocolError: If the peer sent something that is no frame.
        """

    def fileno(self) -> int:
        """Return what a selector waits for until more comes in; -1 if there is nothing such."""

    @property
    def has_unread(self) -> bool:
        """Whether something came in that was not received, of which ``fileno`` does not tell."""

    def serve_control_frames(self) -> None:
        """Answer the peer's pings while nobody receives; never waits. Frames that come are kept.

        Raises:
            ConnectionLostError: If the connection is gone.
        """

    def idle_for(self) -> float:
        """Return for how long not a byte has come in, in seconds.

        Less than since the last frame while a large one is on its way. Infinity where the
        system does not tell.
        """

    def close(self) -> None:
        """Close the connection. Idempotent; takes at most about a second."""

    def abort(self) -> None:
        """End the connection without a word, at once. Idempotent; safe from any thread."""


class LinkWithoutFile(Link, Protocol):
    """A ``Link`` whose frames come out of a queue: no selector can wait for it."""

    def receive_nowait(self) -> Buffer | None:
        """See ``Link.receive_nowait``."""
        try:
            return self.receive(0.0)
        except DeadlineExceededError:
            return None

    def fileno(self) -> int:
        """See ``Link.fileno``."""
        return -1

    @property
    def has_unread(self) -> bool:
        """See ``Link.has_unread``; that cannot be seen from here."""
        return False


class FrameSink(Protocol):
    """The server's end of one connection, for answers. Safe to call from any thread."""

    peer_name: str

    def send(self, frame: Frame) -> None:
        """Send one frame; never waits, and does nothing if the connection is gone.

        Read-only buffers in the frame must stay as they are until it has left: a transport may
        keep references to them until then. Of others it has a copy before this returns.
        """

    def backlog(self) -> int:
        """Return about how many bytes were sent here and have not left yet; never blocks.

        More than 0 means that the client, or the line to it, is slower than we are; 0 if the
        connection is gone.
        """

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what was sent so far; never blocks.

        Args:
            code: An RFC 6455 close code.
            reason: At most 120 bytes.
        """

    def lend(self, borrower: Borrower) -> None:
        """Offer what comes in next to a thread that waits for it; never blocks.

        A transport that cannot do that does nothing. See ``lending.py``.
        """


class FrameHandler(Protocol):
    """What a transport drives, for one connection."""

    def on_frame(self, frame: Buffer) -> None:
        """Take the next frame; never blocks. On the network thread, or a borrower's."""

    def on_close(self, reason: str) -> None:
        """The connection is gone; called once, last."""


Accept: TypeAlias = Callable[[FrameSink], FrameHandler]


class Listener(Protocol):
    """The server's side of a transport."""

    @property
    def url(self) -> str:
        """What a client passes to connect; known once started."""

    def start(self, accept: Accept) -> None:
        """Begin to accept connections; returns when clients can connect.

        Raises:
            ConfigurationError: If the address cannot be used.
        """

    def stop(self) -> None:
        """Close all connections and stop. Idempotent; takes at most about two seconds."""
