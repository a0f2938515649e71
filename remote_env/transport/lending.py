"""The socket of a peer, lent to the thread that does what the peer asks.

A request that comes in on the network thread and is done on another one costs the wake-up of a
second thread, and all that both do finds cold caches: of a step without pictures 70 of 510 us
(``docs/decisions/0026-who-waits-reads.md``). So a thread that waits for the next request
may read it itself. The network thread takes the socket back when that thread is busy, or when
something comes that is not a usual frame; it does everything else all the time.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from remote_env.protocol.codec import Buffer

__all__ = ["Borrower", "LendsItself", "Loan"]

logger = logging.getLogger(__name__)

_READ_SIZE: Final = 64 << 10


class Borrower(Protocol):
    """Who waits for what a peer sends.

    Attributes:
        takes_one: Whether it takes up no more than one frame in a turn; if there are more, the
            network thread goes on.
    """

    takes_one: bool

    def borrow(self, loan: Loan) -> None:
        """Take a loan, in place of any before; never blocks. Called by the network thread."""

    def takes(self, frame: Buffer) -> bool:
        """Whether it takes up a frame; with one that it does not, the network thread goes on."""

    def is_away(self) -> bool:
        """Whether it has read nothing and has not waited since this was asked last."""


class Network(Protocol):
    """The network thread, as far as loans go."""

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on it, soon. Safe from any thread."""

    def read_again(self, connection: Any) -> None:
        """Take up what is in memory already."""


class Loan:
    """The right to read one peer's socket, until it is given or taken back.

    Attributes:
        borrower: Who has it.
    """

    def __init__(self, connection: LendsItself, borrower: Borrower, network: Network) -> None:
        """Lend a connection to somebody."""
        self.borrower = borrower
        self._connection = connection
        self._network = network
        self._lock = threading.Lock()  # whoever has it reads
        self._scratch = bytearray(_READ_SIZE)
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether somebody else reads."""
        return self._is_over

    def fileno(self) -> int:
        """Return what the borrower waits for; -1 when the connection is gone."""
        return self._connection.sock.fileno()

    def read(self) -> None:
        """Take up what came, and hand it to whoever handles it; on the borrower's thread."""
        with self._lock:
            if self._is_over:
                return
            try:
                goes_on = self._connection.read_lent(self._scratch, self.borrower)
            except Exception:  # a bug of ours: as on the network thread
                logger.exception("the connection of %s failed", self._connection.peer_name)
                self._network.call(self._connection.end)
                return
        if not goes_on:
            self.give_back()

    def give_back(self) -> None:
        """Let the network thread read again, soon. Idempotent; safe from any thread."""
        with self._lock:
            is_news, self._is_over = not self._is_over, True
        if is_news:
            self._network.call(self._connection.take_back)

    def end(self) -> None:
        """Nobody reads by this loan any more, once it returns; on the network thread."""
        with self._lock:
            self._is_over = True


class LendsItself:
    """A connection that its network thread may lend."""

    sock: socket.socket
    peer_name: str

    def __init__(self, network: Network) -> None:
        """Begin unlent."""
        self.__network = network
        self._loan: Loan | None = None

    @property
    def is_lent(self) -> bool:
        """Whether another thread reads."""
        return self._loan is not None

    def lend(self, borrower: Borrower) -> None:
        """See ``FrameSink.lend``."""
        if self._loan is None:
            self.__network.call(lambda: self._begin_loan(borrower))

    def _begin_loan(self, borrower: Borrower) -> None:
        if self._loan is None and self._may_lend:
            borrower.is_away()  # asked from now on
            self._loan = loan = Loan(self, borrower, self.__network)
            self.flush()  # the network thread looks for room only; it may find the end
            borrower.borrow(loan)

    def take_back(self) -> None:
        """Read again; on the network thread. Does nothing unless it is lent."""
        if self._loan is not None:
            self.end_loan()
            self.__network.read_again(self)
            self.flush()

    def take_back_if_away(self) -> None:
        """Read again what the borrower does not; on the network thread."""
        if self._loan is not None and self._loan.borrower.is_away():
            self.take_back()

    def end_loan(self) -> None:
        """Let nobody else read, once this returns; on the network thread."""
        loan, self._loan = self._loan, None
        if loan is not None:
            loan.end()

    # Of the connection

    @property
    def _may_lend(self) -> bool:
        """Whether there is nothing that only the network thread may take up."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what waits, and tell the network thread what to look for."""
        raise NotImplementedError

    def read_lent(self, scratch: bytearray, borrower: Borrower) -> bool:
        """Take up what came, and the borrower takes; return whether it may go on reading."""
        raise NotImplementedError

    def end(self) -> None:
        """End the connection at once. Idempotent."""
        raise NotImplementedError
