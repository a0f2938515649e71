"""What a peer of the server's fast lane has sent, until somebody takes it up."""

from __future__ import annotations

import socket
from typing import Final

from websockets.protocol import State

from remote_env.transport import fast_frames

__all__ = ["Incoming"]

_LONGEST_HEAD: Final = 16 << 10


class Incoming:
    """Bytes of one peer: usual frames are cut out, the rest is for the library."""

    def __init__(self, sock: socket.socket, library: fast_frames.Library) -> None:
        """Take a socket that does not block."""
        self._sock = sock
        self._library = library
        self._data = bytearray()
        self._put_back: bytearray | None = None
        self._passing = 0  # how much of what comes next is for the library

    def __bool__(self) -> bool:
        """Whether something came that was not taken up."""
        return bool(self._data) or self._put_back is not None

    @property
    def is_for_library(self) -> bool:
        """Whether the library has to see what comes next."""
        return self._passing > 0

    def read(self, scratch: bytearray) -> int:
        """Take what came into memory; return how many bytes, 0 at the end.

        Raises:
            BlockingIOError: If nothing came.
        """
        try:
            size = self._sock.recv_into(scratch)
        except BlockingIOError:
            raise
        except OSError:
            return 0
        self._data += memoryview(scratch)[:size]
        return size

    def cut(self) -> bytearray | None:
        """Return the next frame, without its mask, if it is a usual one and all of it is here."""
        if self._put_back is not None:
            frame, self._put_back = self._put_back, None
            return frame
        data = self._data
        if self._passing or self._library.protocol.state is State.CONNECTING:
            return None
        header = fast_frames.read_header(data, 0, len(data))
        if header is None:
            return None
        end = header.size + header.length
        if not (self._library.is_open and self._library.is_usual(header)):
            self._passing = end
            return None
        if len(data) < end:
            return None
        key = bytes(data[header.size - 4 : header.size])
        frame = bytearray(fast_frames.mask(data[header.size : end], key))
        del data[:end]
        return frame

    def put_back(self, frame: bytearray) -> None:
        """Let ``cut`` return the frame that it returned last, once more."""
        self._put_back = frame

    def cut_for_library(self) -> bytes:
        """Return what is here of the next frame, or of the handshake, if that is the library's."""
        data = self._data
        if self._library.protocol.state is State.CONNECTING:
            end = fast_frames.end_of_head(data)
            if end < 0 and len(data) <= _LONGEST_HEAD:
                return b""
            self._passing = len(data) if end < 0 else end  # behind it are frames, for us
        part = bytes(data[: self._passing])
        self._passing -= len(part)
        del data[: len(part)]
        return part
