"""Memory that both ends of a connection on one machine share, so that large frames need no socket.

The server's end, the ``Lender``, copies a frame into a free place of the segment and sends a
``reference`` to it over the socket; the client's end, the ``Borrower``, hands that place out as
the frame. When nobody refers to it any more (CPython counts that, see ``protocol/pool.py``), the
borrower says so in the segment, and the lender uses it again. Nobody ever waits: without a free
place the frame goes through the socket, like those that are small.

The segment is a memfd: it has no name, and is gone when both processes are, however they end. It
is sealed, so that neither can take away what the other one has mapped. Its first page:

    bytes 0-31     a token, which the server's end also said in the handshake
    bytes 64-95    the same token, written by the client's end: it has found the segment
    word 16        the stamp of the newest frame that the client's end has taken
    words 32-47    per loan, the stamp of the newest frame that it gave back
    words 64-79    per loan, the stamp of the frame that lies there, whole

The lender believes nothing that stands there but what the borrower loses by lying.
"""

from __future__ import annotations

import bisect
import fcntl
import hmac
import mmap
import os
import secrets
import struct
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import RemoteProtocolError
from remote_env.protocol.codec import Buffer
from remote_env.protocol.pool import REFERENCES_WHEN_FREE

__all__ = ["LEAST", "REFERENCE_SIZE", "Borrower", "Lender"]

# Smaller frames go through the socket: to lend a place, take it and give it back costs 28 us, as
# much as the copies of 100 KB into the system and out of it (there and back, 2 busy slow cores:
# 64 KB 117 us and by TCP 90, 128 KB 139 and 143, 1 MB 196 and 348).
LEAST: Final = 128 << 10
# An observation that the learner has, the one before, and one under way.
_FRAMES: Final = 3
_HEADER_ROOM: Final = 64 << 10  # what a frame has beside its streams
_MOST_LOANS: Final = 16
_PAGE: Final = 4096  # where places begin; a multiple of what arrays need
_LARGE_PART: Final = 16 << 10

_NAME: Final = "remote-env"
_TOKEN_SIZE: Final = 32
_PROOF: Final = 64
_TAKEN: Final = 16
_GIVEN_BACK: Final = 32
_WRITTEN: Final = 64

# stamp, where it begins, its size, which loan
_REFERENCE: Final = struct.Struct("<QQQQ")
REFERENCE_SIZE: Final = _REFERENCE.size


class _Segment:
    """A mapping of the memory, which lasts for as long as anybody has an array in it.

    Attributes:
        size: In bytes.
        view: All of it.
        words: The first page as 64-bit numbers. Each is written by one end and read whole.
    """

    def __init__(self, file: int, size: int) -> None:
        # Python 3.13 can do without a file of the mapping's own.
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._memory = mmap.mmap(file, size, **options)
        self.size = size
        self.view = memoryview(self._memory)
        self.words = self.view[:_PAGE].cast("Q")

    def block(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return a part of it. Arrays made of that have it as their base, and so keep it alive."""
        return np.frombuffer(self._memory, np.uint8, size, start)

    def text(self, start: int) -> bytes:
        """Return a token, or where one may come."""
        return bytes(self.view[start : start + _TOKEN_SIZE])

    def write_text(self, start: int, token: bytes) -> None:
        """Write a token."""
        self.view[start : start + _TOKEN_SIZE] = token


class _Loan(NamedTuple):
    start: int
    end: int
    number: int
    stamp: int


class Lender:
    """The server's end. ``place`` and ``unread`` may be called from any thread.

    Attributes:
        file: Of the segment, for the other end to open; closed by ``settle``.
        size: Of the segment, in bytes. Memory is taken as it is used.
        token: At the beginning of the segment.
    """

    def __init__(self, frame_size: int) -> None:
        """Make a segment for three frames of this many bytes of arrays.

        Raises:
            OSError: If the system has none.
        """
        room = -(-(frame_size + _HEADER_ROOM) // _PAGE) * _PAGE
        self.size = _PAGE + _FRAMES * room
        self.token = secrets.token_bytes(_TOKEN_SIZE)
        self.file = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.file, self.size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, seals)
            self._segment = _Segment(self.file, self.size)
        except BaseException:
            os.close(self.file)
            raise
        self._close_file = weakref.finalize(self, os.close, self.file)
        self._segment.write_text(0, self.token)
        self._lock = threading.Lock()  # guards what follows; not held while a frame is copied
        self._loans: list[_Loan] = []  # by where they begin
        self._numbers = list(range(_MOST_LOANS))
        self._stamp = 0

    def settle(self) -> bool:
        """Close the file; return whether the other end has proved that it has the segment."""
        self._close_file()
        return hmac.compare_digest(self._segment.text(_PROOF), self.token)

    def place(self, parts: Sequence[Buffer], size: int) -> bytes | None:
        """Copy a frame of this size into the segment; return the reference, to be sent.

        Never waits; None if there is no room.
        """
        loan = self._lend(size)
        if loan is None:
            return None
        view = self._segment.view
        start = loan.start
        for part in parts:
            end = start + len(part)
            if len(part) < _LARGE_PART:
                view[start:end] = part
            else:  # other threads may run meanwhile
                np.copyto(np.frombuffer(view[start:end], np.uint8), np.frombuffer(part, np.uint8))
            start = end
        self._segment.words[_WRITTEN + loan.number] = loan.stamp
        return _REFERENCE.pack(loan.stamp, loan.start, size, loan.number)

    def unread(self) -> int:
        """Return how many bytes of frames are in the segment that the other end has not taken."""
        with self._lock:
            taken = self._segment.words[_TAKEN]
            return sum(loan.end - loan.start for loan in self._loans if loan.stamp > taken)

    def _lend(self, size: int) -> _Loan | None:
        with self._lock:
            self._take_back()
            start = self._find(size)
            if start is None or not self._numbers:
                return None
            self._stamp += 1
            loan = _Loan(start, start + size, self._numbers.pop(), self._stamp)
            bisect.insort(self._loans, loan)
            return loan

    def _take_back(self) -> None:
        words = self._segment.words
        kept = [loan for loan in self._loans if words[_GIVEN_BACK + loan.number] != loan.stamp]
        if len(kept) < len(self._loans):
            used = {loan.number for loan in kept}
            self._numbers = [number for number in range(_MOST_LOANS) if number not in used]
            self._loans = kept

    def _find(self, size: int) -> int | None:
        """Return the first gap: pages that were used before cost nothing."""
        start = _PAGE
        for loan in self._loans:
            if start + size <= loan.start:
                return start
            start = -(-loan.end // _PAGE) * _PAGE
        return start if start + size <= self.size else None


class Borrower:
    """The client's end. Not safe from several threads at once."""

    def __init__(self, segment: _Segment, most: int) -> None:
        """Take what ``open`` found; frames have at most so many bytes."""
        self._segment = segment
        self._most = most
        self._held: list[tuple[NDArray[np.uint8], _Loan]] = []
        with _forking:
            _borrowers.add(self)

    @classmethod
    def open(cls, pid: int, file: int, size: int, token: bytes, most: int) -> Borrower:
        """Find the segment of another process of this user, and prove it to that one.

        Args:
            pid: Of the other process.
            file: Its number there.
            size: Of the segment, in bytes.
            token: At its beginning.
            most: The largest frame to accept, in bytes.

        Raises:
            OSError: If it is not there, is another user's, or is not what was said.
        """
        path = f"/proc/{pid}/fd/{file}"
        # Whoever told us may have named any file of ours: first look, as opening may do something.
        if not os.readlink(path).startswith(f"/memfd:{_NAME} "):
            raise OSError(f"{path} is no segment")
        here = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(here)
            if status.st_uid != os.geteuid():  # root could open it
                raise OSError(f"{path} is of user {status.st_uid}")
            seals = fcntl.fcntl(here, fcntl.F_GET_SEALS)
            if status.st_size != size or size <= _PAGE or not seals & fcntl.F_SEAL_SHRINK:
                raise OSError(f"{path} is no sealed segment of {size} bytes")
            segment = _Segment(here, size)
        finally:
            os.close(here)
        if not hmac.compare_digest(segment.text(0), token):
            raise OSError(f"{path} is another segment")
        segment.write_text(_PROOF, token)
        return cls(segment, most)

    def take(self, reference: Buffer) -> memoryview:
        """Return the frame that a reference means, where it lies; writable.

        Raises:
            RemoteProtocolError: If it means none.
        """
        stamp, start, size, number = _REFERENCE.unpack(reference)
        end = start + size
        words = self._segment.words
        if (
            number >= _MOST_LOANS
            or words[_WRITTEN + number] != stamp
            or not _PAGE <= start < end <= self._segment.size
            or start % _PAGE
            or size > self._most
            or any(
                loan.number == number or (loan.start < end and start < loan.end)
                for _, loan in self._held
            )
        ):
            raise RemoteProtocolError(
                f"the peer refers to {size} bytes at {start} of the shared memory, where no frame "
                "may lie"
            )
        block = self._segment.block(start, size)
        with _forking:
            self._held.append((block, _Loan(start, end, number, stamp)))
        words[_TAKEN] = stamp
        return block.data

    def give_back(self) -> None:
        """Give back the places to which nobody refers any more."""
        if not self._held:
            return
        kept = []
        for block, loan in self._held:
            if sys.getrefcount(block) == REFERENCES_WHEN_FREE:
                self._segment.words[_GIVEN_BACK + loan.number] = loan.stamp
            else:
                kept.append((block, loan))
        self._held = kept

    def keep_for_ever(self) -> None:
        """Never give back what is held now."""
        self._held = []


_borrowers: weakref.WeakSet[Borrower] = weakref.WeakSet()
_forking = threading.Lock()  # guards _borrowers, and lets nothing be taken while we fork


def _before_fork() -> None:
    # A child has its parent's arrays, in the very same memory, and the parent does not know when
    # it is done with them: later frames would change them under its hands.
    _forking.acquire()
    for borrower in _borrowers:
        borrower.keep_for_ever()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.Lock()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _forking.release(),
    after_in_child=_after_fork_in_child,
)
