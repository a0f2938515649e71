"""As much of RFC 6455 as both fast lanes need: where a frame ends, and whether it is a usual one.

A usual frame is a whole binary message. Everything else (the handshake, text, fragments, control
frames, what breaks the standard) is left to the Sans-I/O protocol of the ``websockets`` library,
byte for byte, and so is all that is not said in such a frame.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, Side, State

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was installed without a compiler
    from websockets.utils import apply_mask

from remote_env.errors import RemoteProtocolError
from remote_env.protocol.codec import Buffer
from remote_env.transport.shared_memory import REFERENCE_SIZE

__all__ = [
    "FINAL_BINARY",
    "REFERENCE_HEADER",
    "Header",
    "Library",
    "binary_header",
    "end_of_head",
    "is_available",
    "mask",
    "read_header",
    "rest",
]

FINAL_BINARY: Final = 0x82  # FIN, and the opcode of a binary message; RFC 6455, section 5.2
# With RSV1, which shared_offer.py gives this meaning: the payload says where the message lies.
REFERENCE_HEADER: Final = bytes((FINAL_BINARY | 0x40, REFERENCE_SIZE))
_MASKED: Final = 0x80
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_OF_MESSAGES: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)
_END_OF_HEAD: Final = b"\r\n\r\n"


class Header(NamedTuple):
    """What the first bytes of a frame say.

    Attributes:
        first: The first byte: FIN, reserved bits and opcode.
        is_masked: Whether the last 4 bytes of the header are a key.
        size: Of the header, in bytes.
        length: Of what follows, in bytes.
    """

    first: int
    is_masked: bool
    size: int
    length: int


def is_available() -> bool:
    """Whether there are fast lanes: on POSIX, unless ``REMOTE_ENV_FAST=0`` says no."""
    return os.name == "posix" and os.environ.get("REMOTE_ENV_FAST", "1") != "0"


def read_header(data: Buffer, start: int, end: int) -> Header | None:
    """Read the header of the frame that begins at ``start``; None if it is not all there.

    1.0 us; the generator of the library that does the same takes 17 us.
    """
    if end - start < 2:
        return None
    first, second = data[start], data[start + 1]
    length = second & 0x7F
    size = 2
    if length == _LENGTH_16:
        size = 4
    elif length == _LENGTH_64:
        size = 10
    is_masked = second >= _MASKED
    if end - start < size + 4 * is_masked:
        return None
    if size == 4:
        length = data[start + 2] << 8 | data[start + 3]
    elif size == 10:
        (length,) = struct.unpack_from(">Q", data, start + 2)
    return Header(first, is_masked, size + 4 * is_masked, length)


def binary_header(length: int, *, key: bytes = b"") -> bytes:
    """Return the header of a whole binary message, masked if there is a key."""
    bit = _MASKED if key else 0
    if length < _LENGTH_16:
        return bytes((FINAL_BINARY, bit | length)) + key
    if length < 1 << 16:
        return struct.pack(">BBH", FINAL_BINARY, bit | _LENGTH_16, length) + key
    return struct.pack(">BBQ", FINAL_BINARY, bit | _LENGTH_64, length) + key


def mask(data: Buffer, key: bytes) -> bytes:
    """Mask data, or take its mask off: the same operation (RFC 6455, section 5.3).

    With the library's C code, where it was built: 0.08 ms for 1 MiB, in Python 6 ms.
    """
    return apply_mask(data, key)


def rest(parts: Sequence[Buffer], sent: int) -> list[memoryview]:
    """Return views of what is left of some buffers after their first ``sent`` bytes."""
    left = []
    for part in parts:
        if sent >= len(part):
            sent -= len(part)
        else:
            left.append(memoryview(part)[sent:])
            sent = 0
    return left


def end_of_head(data: Buffer) -> int:
    """Return where the head of an HTTP message ends that begins here; -1 if it is not all here."""
    end = bytes(data).find(_END_OF_HEAD)
    return end if end < 0 else end + len(_END_OF_HEAD)


class Library:
    """The library's protocol for one end of a connection, for all that is not a usual frame.

    Attributes:
        protocol: The library's own.
        is_over: Whether nothing that comes counts any more: the peer closed, or broke the
            standard.
        was_fed: Set by ``feed``, after which the library may have something to send.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.is_over = False
        self.was_fed = True  # what came behind the handshake
        self.protocol = protocol
        self._is_server = protocol.side is Side.SERVER
        assert protocol.max_message_size is not None
        self._most = protocol.max_message_size
        # What came of a message in fragments: one buffer, because there may be very many that
        # are empty.
        self._message = bytearray()
        self._is_fragmented = self._is_text = False

    @property
    def is_open(self) -> bool:
        """Whether messages may be said."""
        return self.protocol.state is State.OPEN

    @property
    def why_closed(self) -> str:
        """Why nothing comes any more, if that was said or is plain; else nothing."""
        received, broken = self.protocol.close_rcvd, self.protocol.parser_exc
        if received is not None:
            return f"{received.reason or 'no reason given'} ({received.code})"
        if broken is not None and not isinstance(broken, EOFError):
            return f"the peer broke the WebSocket protocol: {broken}"
        return ""

    def is_usual(self, header: Header) -> bool:
        """Whether a frame is not the library's."""
        return (
            header.first == FINAL_BINARY
            and header.is_masked is self._is_server  # RFC 6455, section 5.1
            and header.length <= self._most
            and not self._is_fragmented
        )

    def is_reference(self, header: Header) -> bool:
        """Whether a frame says where a message lies in shared memory, if there is any."""
        return (
            header.first == REFERENCE_HEADER[0]
            and header.length == REFERENCE_SIZE
            and not header.is_masked
            and not self._is_fragmented
        )

    def feed(self, data: bytes) -> Request | bytearray | None:
        """Let the library have some bytes, of one frame at most; return what they completed.

        Raises:
            RemoteProtocolError: If that is text.
        """
        self.protocol.receive_data(data)
        self.was_fed = True
        self.is_over = self.protocol.close_rcvd is not None or self.protocol.parser_exc is not None
        completed: Request | bytearray | None = None
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                completed = event
            elif isinstance(event, Frame) and event.opcode in _OF_MESSAGES:
                completed = self._join(event)
        return completed

    def _join(self, frame: Frame) -> bytearray | None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._message += frame.data
        self._is_fragmented = not frame.fin
        if self._is_fragmented:
            return None
        whole, self._message = self._message, bytearray()
        if self._is_text:
            raise RemoteProtocolError("text was sent; frames are binary")
        return whole
