"""What leaves to one peer: sent at once by whoever has it, or by reference when there is room."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from remote_env.protocol.codec import Buffer
from remote_env.transport.fast_frames import rest

__all__ = ["Outbox"]

_MOST_PARTS: Final = 512  # of one system call; Linux takes 1024
_COST_OF_PART: Final = 400  # bytes, of the objects around one that waits


class Outbox:
    """Sends in the order of its calls, which any thread may make and which never wait.

    Attributes:
        size: How many bytes wait for the system to have room.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take a socket that does not block, to close it in the end."""
        self.size = 0
        self._sock = sock
        # Guards all of this, and the sending: a copy into the kernel, at most of what its
        # buffer holds (4 MB, 1 ms).
        self._lock = threading.Lock()
        self._waiting: deque[memoryview] = deque()
        self._is_last = False
        self._must_shut = False
        self._is_over = False

    @property
    def footprint(self) -> int:
        """About how much memory what waits takes, in bytes: of many small parts more than them."""
        return self.size + _COST_OF_PART * len(self._waiting)

    def put(self, parts: Sequence[Buffer], *, is_last: bool = False, shuts: bool = False) -> bool:
        """Send; return whether there is something for ``flush`` to do.

        Args:
            parts: Copied only if they have to wait and may be written to meanwhile.
            is_last: Whether nothing may follow.
            shuts: Whether the peer is to be told that; once all has left.
        """
        with self._lock:
            if self._is_over or (self._is_last and not is_last):
                return False
            self._is_last, self._must_shut = self._is_last or is_last, self._must_shut or shuts
            sent = 0
            if parts and not self._waiting:
                try:
                    sent = self._sock.sendmsg(parts[:_MOST_PARTS])
                except BlockingIOError:
                    pass
                except OSError:
                    return False  # lost: whoever reads hears of it
            for part in rest(parts, sent):
                self._waiting.append(part if part.readonly else memoryview(bytes(part)))
                self.size += len(part)
            return bool(self._waiting) or shuts

    def flush(self) -> bool:
        """Send what waits, as far as the system takes it; return whether more waits."""
        with self._lock:
            while self._waiting and not self._is_over:
                some = [part for part, _ in zip(self._waiting, range(_MOST_PARTS), strict=False)]
                try:
                    sent = self._sock.sendmsg(some)
                except BlockingIOError:
                    return True
                except OSError:
                    return False
                self.size -= sent
                for _ in some:
                    self._waiting.popleft()
                self._waiting.extendleft(reversed(rest(some, sent)))
            if self._must_shut:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            return False

    def close(self) -> None:
        """Forget what waits, and close the socket. Idempotent."""
        with self._lock:
            self._is_over = True
            self._waiting.clear()
            self.size = 0
            self._sock.close()
