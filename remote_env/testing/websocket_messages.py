"""Finds whole WebSocket messages in a stream of bytes (RFC 6455), to send them twice."""

from __future__ import annotations

from typing import Final, TypeAlias

__all__ = ["MessageRepeater"]

Piece: TypeAlias = memoryview | bytearray

_OPENINGS: Final = (b"GET ", b"HTTP/1.1 101")
_LONGEST_HANDSHAKE: Final = 1 << 16
_CONTINUATION: Final = 0x0
_FIRST_CONTROL: Final = 0x8


class MessageRepeater:
    """Follows one direction of a connection from its first byte on.

    Bytes that are no WebSocket, TLS for one, are handed on as they are.
    """

    def __init__(self) -> None:
        self._handshake: bytearray | None = bytearray()
        self._is_websocket = True
        self._header = bytearray()
        self._left: int | None = None  # of the payload; None within a header
        self._copy: bytearray | None = None

    def feed(self, data: memoryview, *, is_repeating: bool) -> list[Piece]:
        """Return what to send for these bytes: themselves, with copies of messages that end.

        The copy of a message has all its data frames, as they were, and none of the control
        frames between them. Only a message that begins and ends while repeating is copied.

        Args:
            data: As it was read; frames may begin and end anywhere.
            is_repeating: Whether messages are sent twice now.

        Returns:
            Views of ``data``, and copies.
        """
        pieces: list[Piece] = []
        sent = 0
        at = self._pass_handshake(data)
        while at < len(data):
            if self._left is None:
                at = self._read_header(data, at, is_repeating)
                if self._left is None:
                    break
            end = at + min(self._left, len(data) - at)
            if self._copy is not None and self._is_data:
                self._copy += data[at:end]
            self._left -= end - at
            at = end
            if self._left == 0 and (copy := self._end_frame()) is not None and is_repeating:
                pieces += [data[sent:at], copy]
                sent = at
        if sent < len(data):
            pieces.append(data[sent:])
        return pieces

    def _pass_handshake(self, data: memoryview) -> int:
        """Return where the frames begin in ``data``."""
        if not self._is_websocket:
            return len(data)
        if self._handshake is None:
            return 0
        before = len(self._handshake)
        self._handshake += data
        start = bytes(self._handshake[:12])
        is_possible = any(start[: len(o)] == o[: len(start)] for o in _OPENINGS)
        end = self._handshake.find(b"\r\n\r\n", max(0, before - 3))
        if not is_possible or (end < 0 and len(self._handshake) > _LONGEST_HANDSHAKE):
            self._is_websocket = False
        if end < 0 or not is_possible:
            return len(data)
        self._handshake = None
        return end + 4 - before

    @property
    def _is_data(self) -> bool:
        return self._header[0] & 0x0F < _FIRST_CONTROL

    def _read_header(self, data: memoryview, at: int, is_repeating: bool) -> int:
        while (missing := _header_size(self._header) - len(self._header)) > 0:
            if at == len(data):
                return at
            self._header += data[at : at + missing]
            at = min(at + missing, len(data))
        self._left = _payload_size(self._header)
        is_first = self._is_data and self._header[0] & 0x0F != _CONTINUATION
        if is_first:
            self._copy = bytearray() if is_repeating else None
        if self._copy is not None and self._is_data:
            self._copy += self._header
        return at

    def _end_frame(self) -> bytearray | None:
        """Return the copy of the message, if this was its last frame and it was copied."""
        is_end = self._is_data and bool(self._header[0] & 0x80)
        self._left = None
        self._header.clear()
        if not is_end:
            return None
        copy, self._copy = self._copy, None
        return copy


def _header_size(header: bytearray) -> int:
    if len(header) < 2:
        return 2
    extended = {126: 2, 127: 8}.get(header[1] & 0x7F, 0)
    return 2 + extended + (4 if header[1] & 0x80 else 0)


def _payload_size(header: bytearray) -> int:
    match header[1] & 0x7F:
        case 126:
            return int.from_bytes(header[2:4], "big")
        case 127:
            return int.from_bytes(header[2:10], "big")
        case size:
            return size
