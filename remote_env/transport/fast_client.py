"""The client's fast lane: a WebSocket over a blocking socket, without a thread or an event loop.

Three kinds of bytes come in, and each takes the shortest way:

* a usual frame (a whole binary message) that is small is cut out of what was read ahead: one
  system call for header and payload, and one copy;
* a large one is received straight into pooled memory, where the observation's arrays stay: no
  copy, and no page faults (``pool.py``);
* everything else is fed to the Sans-I/O protocol of the ``websockets`` library, which does the
  handshake, answers pings, joins fragments, and closes.

Nobody reads between calls. Who keeps a connection open for long calls ``serve_control_frames``
now and then (``keeper.py`` does).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from secrets import token_bytes
from typing import Final

from websockets.client import ClientProtocol

from remote_env.errors import ConnectionLostError, DeadlineExceededError, RemoteProtocolError
from remote_env.protocol.codec import Buffer
from remote_env.protocol.pool import BufferPool
from remote_env.transport import base, fast_frames
from remote_env.transport.kernel import set_timeout, time_since_data

__all__ = ["FastLink"]

# Frames that fit are read together with their header. A copy of 64 KiB costs 4 us, a system call
# more 1 us; and this much may come of one that does not fit before we know its size.
_READ_AHEAD: Final = 64 << 10
_CLOSE_TIMEOUT: Final = 0.5
_ENDS_WITHIN: Final = 0.05
# By so much a timeout of the socket may be longer, in seconds: to set it is a system call.
_SLACK: Final = 0.02
_MOST_KEPT: Final = 4  # frames that came while nobody received


class FastLink:
    """See ``Link``. Not safe from several threads at once, but for ``abort``.

    Copies what is sent once, in masking it; of what is received only frames under 64 KiB.
    """

    def __init__(
        self, sock: socket.socket, protocol: ClientProtocol, url: str, ahead: bytes = b""
    ) -> None:
        """Take a connection that has shaken hands; ``ahead`` came in behind the answer."""
        self._sock = sock
        self._library = fast_frames.Library(protocol)
        self._protocol = protocol
        self._url = url
        self._timeout = 0.0  # what the socket has; 0 is none
        sock.settimeout(None)
        # What was read ahead, and how far into it we are.
        self._ahead = bytearray(_READ_AHEAD)
        self._ahead[: len(ahead)] = ahead
        self._view = memoryview(self._ahead)
        self._start, self._end = 0, len(ahead)
        # A large frame that is being received, and how much of it is there.
        self._large: memoryview | None = None
        self._filled = 0
        self._pool = BufferPool()
        self._passing = 0  # how much of the present frame is for the library
        self._kept: deque[Buffer] = deque()
        # Whoever has one of these uses the socket.
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._is_aborted = False

    def __del__(self) -> None:
        self._sock.close()  # in a fork that is a copy, and the parent's connection goes on

    def send(self, frame: base.Frame) -> None:
        """See ``Link.send``."""
        if not self._library.is_open:
            raise self._lost()
        data = frame[0] if len(frame) == 1 else b"".join(frame)
        key = token_bytes(4)
        masked = fast_frames.binary_header(len(data), key=key) + fast_frames.mask(data, key)
        with self._sending:
            try:
                self._sock.sendall(masked)
            except OSError as error:
                raise self._lost(error) from error

    def receive(self, timeout: float) -> Buffer:
        """See ``Link.receive``."""
        if self._kept:
            return self._kept.popleft()
        with self._receiving:
            deadline = time.monotonic() + timeout
            left = timeout
            while (frame := self._next()) is None:
                if not self._read(left) and time.monotonic() >= deadline:
                    raise DeadlineExceededError(
                        f"no reply from {self._url} within {timeout * 1e3:.0f} ms", waited=timeout
                    )
                left = deadline - time.monotonic()
            return frame

    def serve_control_frames(self) -> None:
        """See ``Link.serve_control_frames``."""
        with self._receiving:
            while len(self._kept) < _MOST_KEPT:
                frame = self._next()
                if frame is not None:
                    self._kept.append(frame)
                elif not self._read(0.0):
                    return

    def idle_for(self) -> float:
        """See ``Link.idle_for``."""
        return time_since_data(self._sock)

    def close(self) -> None:
        """See ``Link.close``."""
        with contextlib.suppress(ConnectionLostError, DeadlineExceededError, RemoteProtocolError):
            if self._library.is_open:
                self._protocol.send_close(1000)
                self._flush()
            deadline = time.monotonic() + _CLOSE_TIMEOUT
            while (left := deadline - time.monotonic()) > 0:
                self.receive(left)  # what comes is for nobody; the server ends it
        self._sock.close()

    def abort(self) -> None:
        """See ``Link.abort``."""
        self._is_aborted = True
        with contextlib.suppress(OSError):  # closed already
            # Nothing is sent after this, not even what the system still holds.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.shutdown(socket.SHUT_RDWR)
        # That ends a call of another thread, whose file this is until then.
        if self._sending.acquire(timeout=_ENDS_WITHIN):
            if self._receiving.acquire(timeout=_ENDS_WITHIN):
                self._sock.close()
                self._receiving.release()
            self._sending.release()

    def _next(self) -> Buffer | None:
        """Return the next frame if it is all here.

        Raises:
            ConnectionLostError: If there will be none.
            RemoteProtocolError: If the peer sent text.
        """
        while True:
            if self._large is not None:
                if self._filled < len(self._large):
                    return None
                large, self._large = self._large, None
                return large
            if self._passing:
                size = min(self._passing, self._end - self._start)
                if not size:
                    return None
                self._passing -= size
                self._start += size
                whole = self._feed(bytes(self._view[self._start - size : self._start]))
                if whole is not None:
                    return whole
                continue
            if self._protocol.close_rcvd is not None:
                raise self._lost()
            header = fast_frames.read_header(self._ahead, self._start, self._end)
            if header is None:
                return None
            size = header.size + header.length
            if not self._library.is_usual(header):
                self._passing = size
            elif size > _READ_AHEAD:
                self._begin_large(header)
            elif size > self._end - self._start:
                return None
            else:
                self._start += size
                return self._ahead[self._start - header.length : self._start]

    def _begin_large(self, header: fast_frames.Header) -> None:
        self._large = self._pool.take(header.length)
        here = self._view[self._start + header.size : self._end]
        self._filled = len(here)
        self._large[: self._filled] = here
        self._start = self._end = 0

    def _read(self, timeout: float) -> bool:
        """Read what comes; return whether anything came in time.

        Raises:
            ConnectionLostError: If there is no more.
        """
        flags = 0 if timeout > 0 else socket.MSG_DONTWAIT
        try:
            if timeout > 0 and not timeout <= self._timeout <= timeout + _SLACK:
                self._timeout = timeout
                set_timeout(self._sock, socket.SO_RCVTIMEO, timeout)
            if self._large is not None:
                # All of it: 1 wake-up instead of 30 for a picture of 0.9 MB.
                flags |= socket.MSG_WAITALL
                size = self._sock.recv_into(self._large[self._filled :], 0, flags)
                self._filled += size
            else:
                if self._start:
                    left = self._end - self._start
                    self._ahead[:left] = self._ahead[self._start : self._end]
                    self._start, self._end = 0, left
                size = self._sock.recv_into(self._view[self._end :], 0, flags)
                self._end += size
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(error) from error
        if not size:
            raise self._lost()
        return True

    def _feed(self, data: bytes) -> Buffer | None:
        """Let the library have some bytes; return a message that they completed.

        Raises:
            ConnectionLostError: If they broke the standard.
            RemoteProtocolError: If it is text.
        """
        try:
            whole = self._library.feed(data)
        finally:
            self._flush()
        if self._protocol.parser_exc is not None:
            raise self._lost()
        return whole if isinstance(whole, bytearray) else None

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            # The next receive finds a loss, and says why.
            with self._sending, contextlib.suppress(OSError):
                if data:
                    self._sock.sendall(data)
                else:
                    self._sock.shutdown(socket.SHUT_WR)

    def _lost(self, error: OSError | None = None) -> ConnectionLostError:
        why = self._library.why_closed or ("ended by this side" if self._is_aborted else error)
        return ConnectionLostError(
            f"the connection to {self._url} is closed: {why or 'the peer vanished'}"
        )
