"""Cuts frames out of what comes in, without a socket; see ``fast_client.py``."""

from __future__ import annotations

from typing import Final

from remote_env.protocol.codec import Buffer
from remote_env.protocol.pool import BufferPool
from remote_env.transport.fast_frames import Header, Library, read_header
from remote_env.transport.shared_memory import Borrower

__all__ = ["Cutter"]

# Frames that fit are read together with their header. A copy of 64 KiB costs 4 us, a system call
# more 1 us; and this much may come of one that does not fit before we know its size.
_READ_AHEAD: Final = 64 << 10


class Cutter:
    """What came and was not taken yet. Copies only frames that fit into what is read ahead.

    Attributes:
        library: For what is not a usual frame.
        may_borrow: Whether frames may lie in shared memory.
        has_more: Whether there is something to take without anything more coming in.
    """

    def __init__(
        self, library: Library, ahead: bytes = b"", borrower: Borrower | None = None
    ) -> None:
        """Begin with what came in behind the handshake."""
        self.has_more = bool(ahead)
        self._borrower = borrower
        self.may_borrow = borrower is not None
        self.library = library
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

    @property
    def is_large(self) -> bool:
        """Whether all that fits into ``room`` is of one frame."""
        return self._large is not None

    def give_back(self) -> None:
        """Give back what of shared memory nobody refers to any more."""
        if self._borrower is not None:
            self._borrower.give_back()

    def room(self) -> memoryview:
        """Return where to put what comes next; then call ``note``."""
        if self._large is not None:
            return self._large[self._filled :]
        if self._start:
            left = self._end - self._start
            self._ahead[:left] = self._ahead[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    def note(self, size: int) -> None:
        """Note how much was put there."""
        if self._large is not None:
            self._filled += size
        else:
            self._end += size
        self.has_more = size > 0

    def take(self) -> Buffer | None:
        """Return the next frame if it is all here and usual; the library has what is not.

        Raises:
            RemoteProtocolError: If the peer sent text, or refers to shared memory at random.
        """
        if self._large is not None:
            return self._take_large()
        if self._passing:
            return self._pass_on()
        header = read_header(self._ahead, self._start, self._end)
        if header is None:
            self.has_more = False
            return None
        size = header.size + header.length
        if not self.library.is_usual(header):
            if self._borrower is not None and self.library.is_reference(header):
                return self._take_shared(header, self._borrower)
            self._passing = size
        elif size > _READ_AHEAD:
            self._begin_large(header)
        elif size > self._end - self._start:
            self.has_more = False
        else:
            self._start += size
            self.has_more = self._start < self._end
            return self._ahead[self._start - header.length : self._start]
        return None

    def _take_large(self) -> Buffer | None:
        assert self._large is not None
        if self._filled < len(self._large):
            self.has_more = False
            return None
        large, self._large = self._large, None
        self.has_more = False  # what came behind it was not read
        return large

    def _take_shared(self, header: Header, borrower: Borrower) -> Buffer | None:
        start = self._start + header.size
        end = start + header.length
        if end > self._end:
            self.has_more = False
            return None
        self._start = end
        return borrower.take(self._view[start:end])

    def _begin_large(self, header: Header) -> None:
        self._large = self._pool.take(header.length)
        here = self._view[self._start + header.size : self._end]
        self._filled = len(here)
        self._large[: self._filled] = here
        self._start = self._end = 0

    def _pass_on(self) -> Buffer | None:
        size = min(self._passing, self._end - self._start)
        self.has_more = size > 0
        self._passing -= size
        self._start += size
        whole = self.library.feed(bytes(self._view[self._start - size : self._start]))
        return whole if isinstance(whole, bytearray) else None
