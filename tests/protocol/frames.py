"""Frames made by hand, so that they can be wrong in every way."""

import struct

import msgpack

from remote_env.protocol import Layouts, Message, Reset, decode, encode
from remote_env.protocol.codec import CLIENT_LIMITS, WIRE_VERSION
from tests.golden.expected import LAYOUTS

__all__ = ["RESET_HEADER", "VALID", "frame_of", "packed_frame", "read", "reset_frame"]


def packed_frame(
    kind: int,
    header: object,
    payload: bytes = b"",
    *,
    message_id: int = 1,
    magic: bytes = b"RRE",
    version: int = WIRE_VERSION,
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


# Headers in which one thing can be changed: a whole Reset, and one value of each wire type.
RESET_HEADER = {"seed": None, "options": None, "take": False, "max_steps": None}
VALID = {
    "uint": 1,
    "float": 1.0,
    "number": 1,
    "bool": True,
    "text": "",
    "text or nil": None,
    "uint or nil": None,
    "list of text": [],
    "list of uint": [],
    "list of float": [],
    "list of [name, dtype, shape]": [],
    "list of [name, dtype, shape, codec]": [],
    '"control" or "observe"': "observe",
    "end reason or nil": None,
    "on-stale policy": "raise",
    "bytes": b"abc",
    "value": 0,
    "map": {},
    "map with text keys": {},
    "map with text keys or nil": None,
}


def reset_frame(arrays, payload=b"", options=None):
    """Make a Reset with free arrays as described, right or wrong."""
    header = {**RESET_HEADER, "options": options, "arrays": arrays}
    return packed_frame(Reset.KIND, header, payload)
