"""Where requests for the control thread come in, which may fetch the next one itself.

While the control thread waits for a step, it reads the socket of the peer that sent the one before
(``remote_env.transport.lending``), so that nothing is handed from thread to thread. In real time
it has periods to keep, so it takes up one small step at a time, and leaves all else to the network
thread.
"""

from __future__ import annotations

import contextlib
import math
import queue
import select
import socket
import time
from typing import Final

from remote_env.protocol import Buffer, Step
from remote_env.protocol.codec import kind_of
from remote_env.timed_queue import TimedQueue
from remote_env.transport.lending import Loan
from remote_env_server.requests import Request

__all__ = ["LARGEST_STEP", "Mailbox"]

# Of the frame of a step that is taken up in real time, in bytes: 0.1 ms of Python at most.
LARGEST_STEP: Final = 4096
_MOST_FILES: Final = 1024  # FD_SETSIZE: a file with a higher number cannot be selected


class Mailbox:
    """As ``TimedQueue``, of requests and, to look again, of None.

    One thread gets and closes, any thread puts.
    """

    def __init__(self, *, is_realtime: bool = False) -> None:
        """Begin empty.

        Args:
            is_realtime: Whether to take up nothing but one small step at a time.
        """
        self.takes_one = is_realtime
        self._queue: TimedQueue[Request | None] = TimedQueue()
        self._loan: Loan | None = None
        # Whose file is selected, beside one of a pair by which others wake us.
        self._watched: Loan | None = None
        self._files: list[int] = []
        self._pair: tuple[socket.socket, ...] = ()
        self._is_polling = self._is_closed = False
        self._turns = self._turns_seen = 0

    def put(self, request: Request | None) -> None:
        """Add a request; never blocks. Safe from any thread."""
        self._queue.put(request)
        if self._is_polling:
            with contextlib.suppress(OSError):  # full: it will wake
                self._pair[1].send(b"\0")

    def borrow(self, loan: Loan) -> None:
        """See ``Borrower.borrow``."""
        before, self._loan = self._loan, loan
        if before is not None:
            before.give_back()
        if self._is_closed:
            loan.give_back()
        self.put(None)

    def takes(self, frame: Buffer) -> bool:
        """See ``Borrower.takes``."""
        return not self.takes_one or (len(frame) <= LARGEST_STEP and kind_of(frame) == Step.KIND)

    def is_away(self) -> bool:
        """See ``Borrower.is_away``."""
        before, self._turns_seen = self._turns_seen, self._turns
        return before == self._turns and not self._is_polling

    def close(self) -> None:
        """Read nobody's socket any more. Idempotent."""
        self._is_closed = True
        if self._loan is not None:
            self._loan.give_back()
        for sock in self._pair:
            sock.close()

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._queue.empty()

    def get_nowait(self) -> Request | None:
        """Return the next request.

        Raises:
            queue.Empty: If there is none.
        """
        return self._queue.get_nowait()

    def get(self, timeout: float | None = None) -> Request | None:
        """Wait for the next request, at most for some seconds.

        Raises:
            queue.Empty: If none came.
        """
        self._turns += 1
        loan = self._loan
        if loan is None:
            return self._queue.get(timeout=timeout)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                if (left := deadline - time.monotonic()) <= 0:
                    raise
            if loan.is_over:
                return self._queue.get(timeout=None if timeout is None else left)
            self._wait(loan, left)

    def _wait(self, loan: Loan, timeout: float) -> None:
        """Read what the peer sends, or wait until there is another reason to look again."""
        if loan is not self._watched:
            self._watch(loan)
            if loan.is_over:
                return
        self._is_polling = True
        try:
            # Again: who put something just now did not know that we wait.
            if not self._queue.empty():
                return
            # Not poll, whose timeouts are whole milliseconds.
            left = None if timeout == math.inf else timeout
            ready, _, _ = select.select(self._files, (), (), left)
        except (OSError, ValueError):  # the connection ended in this moment
            loan.give_back()
            return
        finally:
            self._is_polling = False
        for file in ready:
            if file == self._files[0]:
                self._pair[0].recv(4096)
            else:
                loan.read()

    def _watch(self, loan: Loan) -> None:
        if not self._pair:
            self._pair = socket.socketpair()
            for sock in self._pair:
                sock.setblocking(False)
        file = loan.fileno()
        self._watched, self._files = loan, [self._pair[0].fileno(), file]
        if not 0 <= file < _MOST_FILES:
            loan.give_back()
