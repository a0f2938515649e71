"""The server's fast lane: one WebSocket on a plain socket.

Whoever has an answer sends it at once, from its own thread, with one ``sendmsg`` that never
waits: no hand-over to the network thread (115 us) and no copy of what is published (1 ms for
4.9 MB). What the system does not take then leaves when there is room, by reference, from the
network thread. Everything that is sent to a peer goes through one queue, so a pong never lands
inside a frame. To a peer on this machine a large frame goes through memory that both share, if
that was agreed (``shared_memory.py``): one copy, and a short reference in its place.

What comes in: usual frames (``fast_frames.py``) are cut out; everything else is fed to the
Sans-I/O protocol of the ``websockets`` library, which shakes hands, answers pings, joins
fragments, and closes. ``fast_listener.py`` drives it, on the network thread; while it waits for
a step, the control thread reads what its learner sends (``lending.py``).
"""

from __future__ import annotations

import logging
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from remote_env.errors import RemoteProtocolError
from remote_env.protocol.codec import Buffer
from remote_env.transport import fast_frames
from remote_env.transport.base import Accept, Frame, FrameHandler
from remote_env.transport.connecting import SUBPROTOCOL
from remote_env.transport.incoming import Incoming
from remote_env.transport.kernel import cut_off, unsent
from remote_env.transport.lending import Borrower, LendsItself
from remote_env.transport.listening import CLOSE_TIMEOUT, OPEN_TIMEOUT, PING_EVERY, PONG_WITHIN
from remote_env.transport.outbox import Outbox
from remote_env.transport.shared_memory import LEAST, Lender
from remote_env.transport.shared_offer import ServerOffer, may_share

if TYPE_CHECKING:
    from remote_env.transport.fast_listener import FastListener

__all__ = ["FastConnection"]

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger("remote_env.websockets")

_NEVER: Final = float("inf")


class FastConnection(LendsItself):
    """One peer: see ``FrameSink``, which any thread may use. The rest is the network thread's."""

    def __init__(
        self, sock: socket.socket, name: str, network: FastListener, accept: Accept
    ) -> None:
        """Take a connection whose peer has not spoken yet."""
        super().__init__(network)
        self.sock = sock
        self.peer_name = name
        self._network = network
        self._accept = accept
        self._offer = ServerOffer(sock, network.max_reply_size) if may_share(sock) else None
        self._lender: Lender | None = None
        self._protocol = ServerProtocol(
            subprotocols=[SUBPROTOCOL],
            extensions=[self._offer] if self._offer else None,
            max_size=network.max_frame_size,
            logger=_library_logger,
        )
        self._library = fast_frames.Library(self._protocol)
        self._handler: FrameHandler | None = None
        self._incoming = Incoming(sock, self._library)
        self._outbox = Outbox(sock)
        self._is_closing = self._is_over = False
        now = time.monotonic()
        self._deadline, self._over_at = now + OPEN_TIMEOUT, _NEVER
        self._ping_at, self._heard_at = now + PING_EVERY, now

    @property
    def is_open(self) -> bool:
        """Whether hands were shaken, and there was no end yet."""
        return self._handler is not None and not self._is_over

    def send(self, frame: Frame) -> None:
        """See ``FrameSink.send``. Copies of what is read-only nothing; of the rest what waits.

        Into shared memory it copies all.
        """
        size, lender = sum(map(len, frame)), self._lender
        parts: list[Buffer] = []
        if lender is not None and size >= LEAST and (reference := lender.place(frame, size)):
            parts = [fast_frames.REFERENCE_HEADER, reference]
        if self._outbox.put(parts or [fast_frames.binary_header(size), *frame]):
            self._network.call(self.flush)

    def backlog(self) -> int:
        """See ``FrameSink.backlog``."""
        lender = self._lender
        shared = lender.unread() if lender is not None else 0
        return self._outbox.size + unsent(self.sock) + shared

    def close(self, code: int, reason: str) -> None:
        """See ``FrameSink.close``."""
        short = reason.encode()[:120].decode("utf-8", "ignore")
        self._network.call(partial(self.say_close, code, short))

    def flush(self) -> None:
        """Send what waits, as far as the system takes it."""
        if self._is_over:
            return
        self._network.watch(self, is_writing=self._outbox.flush())
        if self._outbox.footprint > self._network.max_unread:
            logger.warning("%s left %d bytes unread and is cut off", self.peer_name, self.backlog())
            cut_off(self.sock)
            self.end()

    def read(self, scratch: bytearray) -> None:
        """Take what came into memory."""
        try:
            size = self._incoming.read(scratch)
        except BlockingIOError:
            return
        self._heard_at = time.monotonic()
        if not size:
            self._protocol.receive_eof()
            self._obey_library()
            self.end()

    def take_next(self) -> bool:
        """Take up one frame; return whether there may be another one in memory."""
        if (frame := self._incoming.cut()) is not None:
            self._hand_over(frame)
        elif part := self._incoming.cut_for_library():
            self._feed(part)
        else:
            return False
        return bool(self._incoming) and not self._is_over

    def read_lent(self, scratch: bytearray, borrower: Borrower) -> bool:
        """See ``LendsItself.read_lent``."""
        try:
            size = self._incoming.read(scratch)
        except BlockingIOError:
            return True
        self._heard_at = time.monotonic()
        while (frame := self._incoming.cut()) is not None:
            if not borrower.takes(frame):
                self._incoming.put_back(frame)
                return False
            self._hand_over(frame)
            if borrower.takes_one and self._incoming:
                return False
        return size > 0 and not self._incoming.is_for_library

    @property
    def _may_lend(self) -> bool:
        return self.is_open and self._library.is_open and not self._incoming

    def _feed(self, data: bytes) -> None:
        try:
            completed = self._library.feed(data)
        except RemoteProtocolError:
            self.say_close(1003, "frames are binary")
            return
        self._obey_library()
        if isinstance(completed, Request):
            self._answer(completed)
        elif completed is not None and self._library.is_open:
            self._hand_over(completed)

    def _hand_over(self, frame: bytearray) -> None:
        assert self._handler is not None
        self._deadline = self._over_at
        if self._offer is not None:
            # Who has found the memory has proved it before saying anything.
            self._lender, self._offer = self._offer.take(), None
        self._handler.on_frame(frame)

    def _obey_library(self) -> None:
        """Send what the library wants to be sent."""
        out = self._protocol.data_to_send()
        is_last = self._protocol.state is State.CLOSING or b"" in out
        if self._outbox.put([data for data in out if data], is_last=is_last, shuts=b"" in out):
            self.flush()
        if self._protocol.close_expected() and not self._is_closing:
            self._is_closing = True
            self._deadline = time.monotonic() + CLOSE_TIMEOUT

    def _answer(self, request: Request) -> None:
        """Shake hands, or say why not."""
        verdict = self._network.judge(request)
        if isinstance(verdict, tuple):
            response = self._protocol.reject(*verdict)
        else:
            response = self._protocol.accept(request)
        self._protocol.send_response(response)
        self._obey_library()
        if self._library.is_open and not isinstance(verdict, tuple):
            now = time.monotonic()
            self._over_at = now + verdict
            self._deadline = min(now + self._network.hello_timeout, self._over_at)
            self._handler = self._accept(self)

    def say_close(self, code: int, reason: str) -> None:
        """Close after what was sent so far."""
        self.take_back()
        if self._library.is_open and not self._is_over:
            self._protocol.send_close(code, reason)
            self._obey_library()

    def look_at_clock(self, now: float) -> None:
        """Ping, and end what takes too long."""
        is_open = self._library.is_open
        if now >= self._deadline and is_open:
            hello = self._network.hello_timeout
            self.say_close(1008, f"no hello within {hello:g} s, or no brief visit")
        elif now >= self._deadline:
            self.end()
        elif is_open and now - self._heard_at > PING_EVERY + PONG_WITHIN:
            self.say_close(1011, "no pong")
        elif is_open and now >= self._ping_at:
            self._ping_at = now + PING_EVERY
            self._protocol.send_ping(b"")
            self._obey_library()

    def end(self) -> None:
        """End it at once. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        self.end_loan()
        if self._offer is not None:
            self._offer.take()
        self._lender = self._offer = None
        self._network.forget(self)
        self._outbox.close()
        if self._handler is not None:
            try:
                self._handler.on_close(self._library.why_closed or "the peer vanished")
            except Exception:  # a bug of ours, which the other peers need not feel
                logger.exception("the end of the connection of %s was not handled", self.peer_name)
