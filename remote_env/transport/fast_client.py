"""The client's fast lane: a WebSocket over a blocking socket, without a thread or an event loop.

Three kinds of bytes come in, and each takes the shortest way:

* a usual frame (a whole binary message) that is small is cut out of what was read ahead: one
  system call for header and payload, and one copy;
* a large one is received straight into pooled memory, where the observation's arrays stay: no
  copy, and no page faults (``pool.py``); on one machine only a reference comes, to where it lies
  in memory that both ends share (``shared_memory.py``);
* everything else is fed to the Sans-I/O protocol of the ``websockets`` library, which does the
  handshake, answers pings, joins fragments, and closes.

Nobody reads between calls. Who keeps a connection open for long calls ``serve_control_frames``
now and then (``keeper.py`` does).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from typing import Final

from remote_env.errors import ConnectionLostError, DeadlineExceededError
from remote_env.protocol.codec import Buffer
from remote_env.transport import base, fast_frames
from remote_env.transport.fast_cutter import Cutter
from remote_env.transport.kernel import cut_off, name, set_timeout, time_since_data

__all__ = ["FastLink"]

_CLOSE_TIMEOUT: Final = 0.5
_ENDS_WITHIN: Final = 0.05
# How long one receive of a large frame waits for more of it, in seconds.
_AT_ONCE: Final = 0.05
_MOST_KEPT: Final = 4  # frames that came while nobody received
# A flood of pings is answered for so long after the deadline, in seconds.
_GRACE: Final = 0.05


class _LateError(Exception):
    """Nothing came in time."""


class FastLink:
    """See ``Link``. Not safe from several threads at once, but for ``abort``.

    Copies what is sent once, in masking it; of what is received only frames under 64 KiB.
    """

    def __init__(self, sock: socket.socket, cutter: Cutter, url: str) -> None:
        """Take a connection that has shaken hands; the cutter has what came in behind that."""
        self._sock = sock
        self._cutter = cutter
        self._library = cutter.library
        self._url = url
        sock.settimeout(None)
        set_timeout(sock, socket.SO_RCVTIMEO, _AT_ONCE)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._kept: deque[Buffer] = deque()
        # Whoever has one of these uses the socket.
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._is_ended = self._is_out_of_step = False

    def __del__(self) -> None:
        self._sock.close()  # in a fork that is a copy, and the parent's connection goes on

    @property
    def carrier(self) -> str:
        """See ``Link.carrier``."""
        return ("shared memory and " if self._cutter.may_borrow else "") + name(self._sock)

    def send(self, frame: base.Frame) -> None:
        """See ``Link.send``."""
        self._cutter.give_back()
        if not self._library.is_open:
            raise self._lost()
        data = frame[0] if len(frame) == 1 else b"".join(frame)
        key = os.urandom(4)
        masked = fast_frames.binary_header(len(data), key=key) + fast_frames.mask(data, key)
        try:
            self._send_whole(masked)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, timeout: float) -> Buffer:
        """See ``Link.receive``."""
        if self._kept:
            return self._kept.popleft()
        self._cutter.give_back()
        with self._receiving:
            deadline = time.monotonic() + max(timeout, 0.0)
            left = timeout
            try:
                while (frame := self._next(deadline)) is None:
                    if not self._read(left) and time.monotonic() >= deadline:
                        raise _LateError
                    left = deadline - time.monotonic()
            except _LateError:
                raise DeadlineExceededError(
                    f"no reply from {self._url} within {timeout * 1e3:.0f} ms", waited=timeout
                ) from None
            return frame

    def receive_nowait(self) -> Buffer | None:
        """See ``Link.receive_nowait``."""
        if self._kept:
            return self._kept.popleft()
        with self._receiving:
            now = time.monotonic()
            try:
                while (frame := self._next(now)) is None:
                    if not self._read(0.0):
                        return None
            except _LateError:
                return None
            return frame

    def fileno(self) -> int:
        """See ``Link.fileno``."""
        return self._sock.fileno()

    @property
    def has_unread(self) -> bool:
        """See ``Link.has_unread``."""
        return bool(self._kept) or self._cutter.has_more

    def serve_control_frames(self) -> None:
        """See ``Link.serve_control_frames``."""
        with self._receiving, contextlib.suppress(_LateError):
            now = time.monotonic()
            while len(self._kept) < _MOST_KEPT:
                frame = self._next(now)
                if frame is not None:
                    self._kept.append(frame)
                elif not self._read(0.0):
                    return

    def idle_for(self) -> float:
        """See ``Link.idle_for``."""
        return time_since_data(self._sock)

    def close(self) -> None:
        """See ``Link.close``."""
        with self._receiving, contextlib.suppress(OSError):
            if not self._is_ended:
                self._shake_hands_again()
        self._is_ended = True
        self._sock.close()

    def _shake_hands_again(self) -> None:
        if self._library.is_open:
            set_timeout(self._sock, socket.SO_SNDTIMEO, _CLOSE_TIMEOUT)
            self._library.protocol.send_close(1000)
            self._flush()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            # What comes is for nobody; the server ends it.
            if self._poll.poll(left * 1e3) and not self._sock.recv(64 << 10):
                return

    def abort(self) -> None:
        """See ``Link.abort``."""
        self._is_ended = True
        cut_off(self._sock)
        # That ends a call of another thread, whose file this is until then.
        if self._sending.acquire(timeout=_ENDS_WITHIN):
            if self._receiving.acquire(timeout=_ENDS_WITHIN):
                self._sock.close()
                self._receiving.release()
            self._sending.release()

    def _next(self, deadline: float) -> Buffer | None:
        """Return the next frame if it is all here.

        Raises:
            ConnectionLostError: If there will be none.
            RemoteProtocolError: If the peer sent text.
            _LateError: If what is for the library does not end.
        """
        while True:
            if self._library.is_over or self._is_out_of_step or self._is_ended:
                raise self._lost()
            try:
                frame = self._cutter.take()
            finally:
                if self._library.was_fed:
                    self._library.was_fed = False
                    self._flush()
            if frame is not None or not self._cutter.has_more:
                return frame
            if time.monotonic() > deadline + _GRACE:
                raise _LateError

    def _read(self, timeout: float) -> bool:
        """Read what comes; return whether anything came in time.

        Raises:
            ConnectionLostError: If there is no more.
        """
        # Not the timeout of a blocking receive: each signal would begin that anew.
        if timeout > 0 and not self._poll.poll(timeout * 1e3):
            return False
        # All of a large frame: 1 wake-up instead of 30 for a picture of 0.9 MB.
        is_waiting = timeout > 0 and self._cutter.is_large
        flags = socket.MSG_WAITALL if is_waiting else socket.MSG_DONTWAIT
        try:
            size = self._sock.recv_into(self._cutter.room(), 0, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(error) from error
        except BaseException:  # Ctrl-C: what came is in memory, and not counted
            self._is_out_of_step = True
            raise
        if not size:
            raise self._lost()
        self._cutter.note(size)
        return True

    def _flush(self) -> None:
        """Send what the library wants to be sent; the next receive finds a loss, and says why."""
        if data := b"".join(self._library.protocol.data_to_send()):
            with contextlib.suppress(OSError):
                self._send_whole(data)

    def _send_whole(self, data: bytes) -> None:
        """Send all of it, or end the connection: half of a frame makes noise of what follows."""
        with self._sending:
            try:
                self._sock.sendall(data)
            except BaseException:  # also Ctrl-C, and a peer that reads nothing
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
                raise

    def _lost(self, error: OSError | None = None) -> ConnectionLostError:
        why = self._library.why_closed or ("ended by this side" if self._is_ended else error)
        return ConnectionLostError(
            f"the connection to {self._url} is closed: {why or 'the peer vanished'}"
        )
