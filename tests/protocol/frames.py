"""Frames made by hand, so that they can be wrong in every way."""

import struct

import msgpack

from remote_env.protocol import MESSAGES, Layouts, Message, Reset, decode, encode
from remote_env.protocol.codec import CLIENT_LIMITS, WIRE_VERSION
from remote_env.protocol.messages import wire_fields
from tests.golden.expected import LAYOUTS

__all__ = [
    "RESET_HEADER",
    "VALID",
    "frame_of",
    "in_order",
    "packed_frame",
    "read",
    "reset_frame",
    "valid_header",
]


def in_order(kind: int, fields: dict[str, object]) -> list[object]:
    """Return the values of the fields of a message as its header has them, free arrays last.

    Args:
        kind: Of the message.
        fields: All of them by name, in any order, and ``arrays`` if it is to have free ones.
    """
    names = [name for name, _ in wire_fields(MESSAGES[kind])] if kind in MESSAGES else []
    assert fields.keys() - {"arrays"} == set(names)
    return [fields[name] for name in (*names, "arrays") if name in fields]


def valid_header(kind: int) -> dict[str, object]:
    """Return the fields of a message by name, each with a value that it may have."""
    return {name: VALID[wire.name] for name, wire in wire_fields(MESSAGES[kind])}


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
    """Return a frame with these parts.

    A header is taken as it is if it is bytes; written in order if it is fields by name; and
    else becomes msgpack, whatever it is.
    """
    if isinstance(header, dict):
        header = in_order(kind, header)
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
