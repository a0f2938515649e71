"""One connection through a ``FaultProxy``: two pipes. The proxy's thread alone may touch it."""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import struct
import sys
from collections import deque

from remote_env.testing.fault_lane import Allowance, Chunk, Ending, Lane
from remote_env.testing.websocket_messages import MessageRepeater

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = ["FaultyConnection", "abort"]

_TCP_CLOSED = 7  # include/net/tcp_states.h
_LOOK_AGAIN = 0.001


class Pipe:
    """One direction of one connection.

    Attributes:
        lane: Its faults.
        sink: Where bytes go.
        wake_at: When there is something to do, if nothing happens before.
        is_blocked: Whether the sink takes no more for now.
        is_dead: Whether nothing is forwarded ever again.
        is_torn: Whether something was lost, so that what follows would be nonsense.
        is_sink_gone: Whether the sink was reset.
        is_done: Whether the end of the stream was passed on, or lost.
        reached: The cut that this pipe has come to.
    """

    def __init__(self, lane: Lane, source: socket.socket, sink: socket.socket) -> None:
        self.lane = lane
        self.sink = sink
        self.wake_at = math.inf
        self.is_blocked = False
        self.is_dead = False
        self.is_torn = False
        self.is_sink_gone = False
        self.is_done = False
        self.reached: Ending | None = None
        self._source = source
        self._has_ended = False
        self._queue: deque[Chunk] = deque()
        self._queued = 0
        self._reset: Chunk | None = None
        self._repeater = MessageRepeater()
        self._allowance = Allowance()

    @property
    def wants_bytes(self) -> bool:
        """Whether to read from the source."""
        is_open = not (self._has_ended or self.lane.is_stalled)
        return is_open and self._queued < self.lane.queue_limit

    def read(self, now: float, buffer: memoryview) -> None:
        """Read once from the source, and forward what is due."""
        try:
            count = self._source.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.note_reset(now)
            return
        if not count:
            self._has_ended = True
            self._queue.append(self.lane.end(now))
            return
        pieces = self._repeater.feed(buffer[:count], is_repeating=self.lane.is_duplicating)
        chunks = [self.lane.chunk(now, memoryview(piece)) for piece in pieces]
        self._queue.extend(chunks)
        self._queued += sum(len(chunk.data) for chunk in chunks)
        self.forward(now)
        for chunk in chunks:  # the buffer is read into again
            if chunk.data:
                chunk.data = memoryview(bytes(chunk.data))

    def note_reset(self, now: float) -> None:
        """Note that the source was reset."""
        self._has_ended = True
        self._reset = self._reset or self.lane.end(now)

    def forward(self, now: float) -> None:
        """Send what is due; lose it if the direction is silent."""
        self.wake_at = math.inf
        self.is_blocked = False
        if self._is_silent:
            self._lose_all()
        elif not self.lane.is_stalled:
            while self._queue and self.reached is None and self._send_first(now):
                pass

    def is_reset_due(self, now: float) -> bool:
        """Whether the reset of the source is to reach the sink now.

        As on a network it waits for the bytes before it, unless the sink takes no more.
        """
        if self._reset is None or self._is_silent or self.lane.is_stalled:
            return False
        if self._queue and not self.is_blocked:
            return False
        due = self.lane.due(self._reset)
        if now < due:
            self.wake_at = min(self.wake_at, due)
        return now >= due

    @property
    def _is_silent(self) -> bool:
        return self.is_dead or self.is_torn or self.is_sink_gone or self.lane.is_blackholed

    def _lose_all(self) -> None:
        if not self._queue and self._reset is None:
            return
        self.is_torn = self.is_torn or not self.is_sink_gone
        self.is_done = self._has_ended
        self._reset = None
        self.drop_rest()

    def drop_rest(self) -> None:
        """Drop what is queued, and count it."""
        self.lane.dropped += self._queued
        self._queued = 0
        for chunk in self._queue:
            chunk.data = chunk.data[:0]
        self._queue.clear()

    def _send_first(self, now: float) -> bool:
        """Send from the first chunk; return whether the next one may be tried."""
        lane, chunk = self.lane, self._queue[0]
        due = lane.due(chunk)
        if now < due:
            self.wake_at = due
            return False
        if chunk.is_end:
            self._queue.popleft()
            self.is_done = True
            with contextlib.suppress(OSError):  # its reset is found where it is read
                self.sink.shutdown(socket.SHUT_WR)
            return False
        size = self._allowed(now, len(chunk.data))
        if size == 0:
            return False
        try:
            sent = self.sink.send(lane.damage(chunk.data[:size]))
        except (BlockingIOError, InterruptedError):
            self.is_blocked = True
            return False
        except OSError:
            self.is_sink_gone = True
            self._lose_all()
            return False
        self._note_sent(chunk, sent)
        return True

    def _allowed(self, now: float, size: int) -> int:
        """Return how many bytes the rate and an armed cut let through."""
        lane = self.lane
        if lane.cut is not None:
            size = min(size, lane.cut.at - lane.forwarded)
            if size == 0:
                self.reached, lane.cut = lane.cut.how, None
                return 0
        if lane.rate is not None:
            size = min(size, self._allowance.take(lane.rate, now))
            if size == 0:
                self.wake_at = now + self._allowance.wait(lane.rate)
        return size

    def _note_sent(self, chunk: Chunk, count: int) -> None:
        lane = self.lane
        chunk.data = chunk.data[count:]
        if not chunk.data:
            self._queue.popleft()
        self._queued -= count
        lane.count_forwarded(count)
        if lane.rate is not None:
            self._allowance.spend(count)
        if lane.cut is not None and lane.cut.at == lane.forwarded:
            self.reached, lane.cut = lane.cut.how, None


class FaultyConnection:
    """A client and a server, and the two pipes between them.

    Attributes:
        is_open: Whether its sockets are.
        wake_at: When there is something to do, if nothing happens before.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        to_server: Lane,
        to_client: Lane,
        is_dead: bool,
    ) -> None:
        """Begin.

        Args:
            client: Accepted.
            server: Connecting; or never to be connected, if dead.
            to_server: The faults towards the server.
            to_client: The faults towards the client.
            is_dead: Whether this connection stays silent from its beginning.
        """
        self.sockets = (client, server)
        self.is_open = True
        self.wake_at = math.inf
        self._to_server = Pipe(to_server, client, server)
        self._to_client = Pipe(to_client, server, client)
        self._pipes = (self._to_server, self._to_client)
        self._has_server = not is_dead
        self._is_connecting = not is_dead
        self._cut: tuple[Ending, socket.socket] | None = None
        if is_dead:
            self._die()
            self._to_client.is_done = True

    def events(self, sock: socket.socket) -> int:
        """Return what to wait for at one of the sockets: a selector's events, or 0."""
        is_client = sock is self.sockets[0]
        if self._is_connecting:
            return 0 if is_client else selectors.EVENT_WRITE
        if self._cut is not None or not (is_client or self._has_server):
            return 0
        reader, writer = self._pipes if is_client else self._pipes[::-1]
        reading = selectors.EVENT_READ if reader.wants_bytes else 0
        return reading | (selectors.EVENT_WRITE if writer.is_blocked else 0)

    def handle(self, sock: socket.socket, events: int, now: float, buffer: memoryview) -> None:
        """Do what can be done at one of the sockets."""
        if not self.is_open:
            return
        if self._is_connecting:
            self._is_connecting = False
            if self.sockets[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abort()
                return
        elif events & selectors.EVENT_READ and self.events(sock) & selectors.EVENT_READ:
            pipe = self._to_server if sock is self.sockets[0] else self._to_client
            pipe.read(now, buffer)
        self.service(now)

    def service(self, now: float) -> None:
        """Do what is due."""
        if not self.is_open or self._is_connecting:
            return
        if self._cut is None:
            self._forward(now)
        if self._cut is not None:
            self._finish_cut(*self._cut, now)

    def _forward(self, now: float) -> None:
        for pipe, opposite in (self._pipes, self._pipes[::-1]):
            pipe.forward(now)
            if pipe.is_sink_gone:
                opposite.note_reset(now)
            if pipe.reached is not None:
                self._begin_cut(pipe, pipe.reached)
                return
        for pipe in self._pipes:
            if pipe.is_reset_due(now):
                self.abort()
                return
        if all(pipe.is_done for pipe in self._pipes):
            self.finish()
            return
        self.wake_at = min(pipe.wake_at for pipe in self._pipes)

    def _begin_cut(self, pipe: Pipe, how: Ending) -> None:
        pipe.reached = None
        if how is Ending.BLACKHOLE:
            self._die()
            self.wake_at = 0.0  # to drop what is queued
        else:
            self._cut = (how, pipe.sink)

    def _finish_cut(self, how: Ending, sink: socket.socket, now: float) -> None:
        """Cut as soon as the kernel has delivered what was forwarded; a reset drops the rest."""
        if not _is_delivered(sink):
            self.wake_at = now + _LOOK_AGAIN
        elif how is Ending.RST:
            self.abort()
        else:
            self.finish()

    def end_of_blackhole(self) -> None:
        """Stay silent for good if anything was lost."""
        if any(pipe.is_torn for pipe in self._pipes):
            self._die()

    def _die(self) -> None:
        for pipe in self._pipes:
            pipe.is_dead = True

    def abort(self) -> None:
        """Send RST to both ends, now."""
        self._count_lost()
        for sock in self.sockets:
            abort(sock)

    def finish(self) -> None:
        """Send FIN to both ends, now, as a process does that closes its socket."""
        self._count_lost()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                for _ in range(64):  # unread bytes would turn the FIN into an RST
                    if not sock.recv(1 << 16):
                        break
            sock.close()

    def _count_lost(self) -> None:
        self.is_open = False
        self.wake_at = math.inf
        for pipe in self._pipes:
            pipe.drop_rest()


def abort(sock: socket.socket) -> None:
    """Close a socket with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _is_delivered(sock: socket.socket) -> bool:
    """Whether the peer's kernel has acknowledged all that was sent; True if nobody can say."""
    if sys.platform != "linux":
        return True
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSED:
        return True
    return fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)) == bytes(4)
