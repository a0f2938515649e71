"""Frames made by hand, so that they can be wrong in every way."""

import struct

import msgpack

from remote_env.protocol import Layouts, Message, decode, encode
from remote_env.protocol.codec import CLIENT_LIMITS
from tests.golden.expected import LAYOUTS

__all__ = ["frame_of", "packed_frame", "read"]


def packed_frame(
    kind: int,
    header: object,
    payload: bytes = b"",
    *,
    message_id: int = 1,
    magic: bytes = b"RRE",
    version: int = 1,
    reserved: int = 0,
    reserved_too: int = 0,
) -> bytearray:
    """Return a frame with these parts; a header of bytes is taken as it is."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    frame = bytearray(
        struct.pack(
            "<3sBBBHIIQ",
            magic,
            version,
            kind,
            reserved,
            reserved_too,
            len(packed),
            len(payload),
            message_id,
        )
    )
    frame += packed
    if payload:
        frame += bytes(-len(frame) % 64) + payload
    return frame


def frame_of(message: Message, layouts: Layouts = LAYOUTS) -> bytearray:
    """Return the frame of a message, in one piece."""
    return bytearray(b"".join(encode(message, layouts)))


def read(frame: bytes | bytearray, layouts: Layouts = LAYOUTS) -> Message:
    """Decode with the limits of a client."""
    return decode(frame, layouts, limits=CLIENT_LIMITS)
