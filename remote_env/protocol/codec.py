"""Messages to bytes and back. ``docs/protocol.md`` says the same in prose, byte for byte.

A frame is a prefix of 24 bytes, a msgpack map (the header), and the raw bytes of arrays (the
payload). Arrays of the agreed layout come first, of which some may be encoded: how many bytes
these have stands in the header under ``"sizes"``. Arrays inside ``info`` and other free-form
values follow, and their dtypes and shapes stand there under ``"arrays"``.

Decoding trusts nothing: sizes are checked before anything is allocated, lengths must fit
exactly, msgpack extensions and duplicate keys are refused, and nothing is ever made of a
type that the peer chose. Damage of any kind raises ``RemoteProtocolError`` and only that.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from remote_env.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError
from remote_env.protocol.arrays import Layout, aligned, place, read_dtype, read_shape
from remote_env.protocol.messages import (
    MESSAGES,
    Message,
    Role,
    Step,
    arrays_field,
    wire_fields,
)
from remote_env.protocol.values import MAX_ITEMS, pack_value, unpack_value
from remote_env.protocol.wiretypes import ARRAYS, ENCODED_ARRAYS, UINTS, WireType

__all__ = [
    "CLIENT_LIMITS",
    "PREFIX_SIZE",
    "SERVER_LIMITS",
    "WIRE_VERSION",
    "Buffer",
    "Layouts",
    "Limits",
    "decode",
    "encode",
    "read_prefix",
]

WIRE_VERSION: Final = 5
Buffer: TypeAlias = bytes | bytearray | memoryview

# magic, wire version, kind, two reserved fields, header size, payload size, request id
_PREFIX: Final = struct.Struct("<3sBBBHIIQ")
PREFIX_SIZE: Final = _PREFIX.size
_MAGIC: Final = b"RRE"
_EXTRA: Final = "arrays"
_SIZES: Final = "sizes"  # of agreed arrays that are encoded
_UNCHANGED: Final = "unchanged"
_TEXT_ONLY: Final = {str}

# Below this an array is cheaper to copy beside its neighbours than to send on its own;
# a system call's share for one more buffer is about 0.3 us, the copy of 16 KiB 0.4 us.
_COPY_BELOW: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver accepts.

    Attributes:
        frame_size: Bytes in all.
        header_size: Bytes of msgpack; small, because parsing it is what costs: 64 KiB
            of empty lists take 6 ms, 1 MiB would take 200.
    """

    frame_size: int
    header_size: int


SERVER_LIMITS: Final = Limits(frame_size=1 << 20, header_size=64 << 10)
CLIENT_LIMITS: Final = Limits(frame_size=256 << 20, header_size=1 << 20)


@dataclass(frozen=True, slots=True)
class Layouts:
    """What both sides agreed on; empty until the ``Welcome``."""

    action: Layout = field(default_factory=Layout)
    observation: Layout = field(default_factory=Layout)


@dataclass(frozen=True, slots=True)
class _Schema:
    message_class: type[Message]
    # Name, wire type, and its ``exact``, which is asked for in every field of every message.
    fields: tuple[tuple[str, WireType, type | None], ...]
    keys: frozenset[str]
    arrays: tuple[str, str] | None
    may_leave_out: bool  # arrays that are unchanged


_SCHEMAS: Final = {
    kind: _Schema(
        message_class,
        tuple((name, wire_type, wire_type.exact) for name, wire_type in wire_fields(message_class)),
        frozenset(name for name, _ in wire_fields(message_class)),
        arrays_field(message_class),
        any(name == _UNCHANGED for name, _ in wire_fields(message_class)),
    )
    for kind, message_class in MESSAGES.items()
}


def encode(message: Message, layouts: Layouts, *, limits: Limits = CLIENT_LIMITS) -> list[Buffer]:
    """Turn a message into a frame.

    Copies arrays under 16 KiB; larger ones go by reference: do not write into them
    until the frame has left.

    Args:
        message: With arrays of exactly the agreed dtypes and shapes. Those that it says are
            unchanged are not written, and may be missing as ``decode`` leaves them out.
        layouts: What was agreed.
        limits: The receiver's.

    Returns:
        The parts of the frame, to be sent one after the other as one message.

    Raises:
        LocalProtocolError: If the message does not fit the agreement or the limits.
    """
    schema = _SCHEMAS[message.KIND]
    extra: list[NDArray[Any]] = []
    try:
        header = _header_of(message, schema, extra)
        layout = _agreed_layout(schema, header, layouts)
        arrays = _agreed_arrays(message, schema, layout, header)
        packed = msgpack.packb(header)
    except LocalProtocolError:
        raise
    except (RemoteProtocolError, OverflowError, ValueError, TypeError) as error:
        raise LocalProtocolError(f"{type(message).__name__} cannot be written: {error}") from error
    if len(packed) > limits.header_size:
        raise LocalProtocolError(
            f"{type(message).__name__} has a header of {len(packed)} bytes, and the limit is "
            f"{limits.header_size}; send large data as numpy arrays, not as lists or text"
        )
    return _assemble(message.KIND, message.id, packed, [*arrays, *extra], limits)


def _header_of(message: Message, schema: _Schema, extra: list[NDArray[Any]]) -> dict[str, object]:
    """Return the header; what the peer would refuse is refused here, by the same checks."""
    header: dict[str, object] = {}
    for name, wire_type, exact in schema.fields:
        value = getattr(message, name)
        if type(value) is not exact:
            if wire_type.is_free:
                value = pack_value(wire_type.check(value), extra, path=name)
            else:
                if wire_type is ARRAYS:
                    value = [spec.to_wire() for spec in value]
                elif wire_type is ENCODED_ARRAYS:
                    value = [[*spec.to_wire(), spec.codec] for spec in value]
                elif isinstance(value, tuple):
                    value = list(value)
                wire_type.check(value)
        header[name] = value
    if extra:
        header[_EXTRA] = [[array.dtype.str, list(array.shape)] for array in extra]
    return header


def _agreed_arrays(
    message: Message, schema: _Schema, layout: Layout, header: dict[str, object]
) -> Sequence[NDArray[Any]]:
    """Return the arrays to write; those that are encoded have their sizes in the header."""
    if schema.arrays is None:
        return ()
    arrays: Sequence[NDArray[Any]] = getattr(message, schema.arrays[0])
    unchanged = getattr(message, _UNCHANGED) if schema.may_leave_out else ()
    if unchanged and len(arrays) == len(layout) + len(unchanged):
        arrays = [array for i, array in enumerate(arrays) if i not in unchanged]
    if len(arrays) != len(layout):
        raise LocalProtocolError(
            f"{type(message).__name__} has {len(arrays)} arrays, and {len(layout)} were agreed"
        )
    if layout.encoded:
        header[_SIZES] = sizes = [arrays[i].nbytes for i in layout.encoded]
        layout = layout.with_sizes(sizes)
    for spec, array in zip(layout, arrays, strict=True):
        if array.dtype is not spec.dtype or array.shape != spec.shape:
            spec.check(array)
    return arrays


def _assemble(
    kind: int, message_id: int, packed: bytes, arrays: Sequence[NDArray[Any]], limits: Limits
) -> list[Buffer]:
    offsets, payload_size = place(array.nbytes for array in arrays)
    start = PREFIX_SIZE + len(packed)
    if payload_size:
        start = aligned(start)
    else:
        arrays, offsets = (), []  # no bytes, hence no place to align
    end = start + payload_size
    if end > limits.frame_size:
        raise LocalProtocolError(f"a frame of {end} bytes; the limit is {limits.frame_size}")
    try:
        prefix = _PREFIX.pack(
            _MAGIC, WIRE_VERSION, kind, 0, 0, len(packed), payload_size, message_id
        )
    except struct.error as error:
        raise LocalProtocolError(
            f"the id {message_id} or the size {end} has no place in a frame"
        ) from error
    parts: list[Buffer] = []
    current = bytearray(prefix)
    current += packed
    position = 0  # in the frame, where `current` begins
    for array, offset in zip(arrays, offsets, strict=True):
        if padding := start + offset - position - len(current):
            current += bytes(padding)
        if array.nbytes < _COPY_BELOW:
            current += array.tobytes()
        else:
            parts += [current, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]
            position = start + offset + array.nbytes
            current = bytearray()
    if current:
        parts.append(current)
    return parts


def read_prefix(frame: Buffer, limits: Limits) -> tuple[int, int, int, int]:
    """Check the first 24 bytes and the size of a frame.

    Returns:
        Kind, request id, offset of the payload, size of the header.

    Raises:
        VersionMismatchError: If the peer speaks another wire version. The first four
            bytes mean the same in all versions.
        RemoteProtocolError: If this is no frame of ours, or too large, or cut.
    """
    if len(frame) < PREFIX_SIZE:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes is shorter than its prefix")
    magic, version, kind, reserved, reserved_too, header_size, payload_size, message_id = (
        _PREFIX.unpack_from(frame)
    )
    if magic != _MAGIC:
        raise RemoteProtocolError(
            f"the peer does not speak remote-robot-env: a frame begins with {bytes(magic)!r}"
        )
    if version != WIRE_VERSION:
        raise VersionMismatchError(
            f"the peer speaks wire version {version} of remote-robot-env and this program "
            f"speaks {WIRE_VERSION}; install the same release on both machines"
        )
    if reserved or reserved_too:
        raise RemoteProtocolError("the reserved bytes of a frame are not zero")
    if header_size > limits.header_size or len(frame) > limits.frame_size:
        raise RemoteProtocolError(
            f"a frame of {len(frame)} bytes with a header of {header_size}; the limits are "
            f"{limits.frame_size} and {limits.header_size}"
        )
    start = PREFIX_SIZE + header_size
    if payload_size:
        start = aligned(start)
    if len(frame) != start + payload_size:
        raise RemoteProtocolError(
            f"a frame of {len(frame)} bytes says that it has {start + payload_size}"
        )
    return kind, message_id, start, header_size


def decode(frame: Buffer, layouts: Layouts, *, limits: Limits) -> Message:
    """Turn a frame into the message that it holds.

    Copies no array: arrays are views into the frame, writable if the frame is. Those that the
    message says are unchanged are missing, and those that are encoded are bytes, (size,) uint8.

    Args:
        frame: All of it.
        layouts: What was agreed.
        limits: Ours.

    Raises:
        RemoteProtocolError: If the frame is not exactly what the protocol allows.
    """
    kind, message_id, start, header_size = read_prefix(frame, limits)
    schema = _SCHEMAS.get(kind)
    if schema is None:
        raise RemoteProtocolError(f"message kind {kind} is not known in version {WIRE_VERSION}")
    view = memoryview(frame)
    header = _unpack_header(view[PREFIX_SIZE : PREFIX_SIZE + header_size])
    raw_extra, raw_sizes = header.pop(_EXTRA, []), header.pop(_SIZES, None)
    if header.keys() != schema.keys:
        wrong = ", ".join(sorted(map(repr, header.keys() ^ schema.keys)))
        raise RemoteProtocolError(
            f"{schema.message_class.__name__} misses or does not know the fields {wrong:.200}"
        )
    layout = _agreed_layout(schema, header, layouts)
    if layout.encoded or raw_sizes is not None:
        layout = layout.with_sizes(raw_sizes)
    arrays = _read_arrays(view[start:], layout, raw_extra)
    extra = arrays[len(layout) :]
    fields: dict[str, Any] = {"id": message_id}
    for name, wire_type, exact in schema.fields:
        raw = header[name]
        if type(raw) is not exact:
            raw = wire_type.check(unpack_value(raw, extra) if wire_type.is_free else raw)
        fields[name] = raw
    if schema.arrays is not None:
        fields[schema.arrays[0]] = tuple(arrays[: len(layout)])
    return schema.message_class(**fields)


def _agreed_layout(schema: _Schema, header: dict[str, object], layouts: Layouts) -> Layout:
    if schema.arrays is None:
        return Layout()
    layout: Layout = getattr(layouts, schema.arrays[1])
    if schema.may_leave_out and (unchanged := header[_UNCHANGED]):
        return layout.without(UINTS.check(unchanged))
    dtypes = header["dtypes"] if schema.message_class is Step else None
    if not dtypes:
        return layout
    if not isinstance(dtypes, list) or len(dtypes) != len(layout):
        raise RemoteProtocolError("dtypes must name one dtype for each array of the action")
    return layout.with_dtypes([read_dtype(dtype) for dtype in dtypes])


def _read_arrays(payload: memoryview, layout: Layout, raw_extra: object) -> list[NDArray[Any]]:
    places, end = list(layout.places), layout.nbytes
    if not isinstance(raw_extra, list):
        raise RemoteProtocolError("arrays must be a list of [dtype, shape]")
    for entry in raw_extra:
        if not isinstance(entry, list) or len(entry) != 2:
            raise RemoteProtocolError("an array must be described as [dtype, shape]")
        dtype, shape = read_dtype(entry[0]), read_shape(entry[1])
        places.append((dtype, shape, math.prod(shape) * dtype.itemsize, aligned(end)))
        end = aligned(end) + places[-1][2]
    if end != len(payload):
        raise RemoteProtocolError(
            f"the payload has {len(payload)} bytes, and the agreed arrays take {end}"
        )
    return [
        np.ndarray(shape, dtype, payload, offset) if nbytes else np.empty(shape, dtype)
        for dtype, shape, nbytes, offset in places
    ]


def _unique_keys(pairs: list[tuple[object, object]]) -> dict[object, object]:
    if not pairs:
        return {}
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in a map")
    if set(map(type, result)) != _TEXT_ONLY:
        raise ValueError("map keys must be text")
    return result


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"msgpack extension {code} is not part of this protocol")


def _unpack_header(packed: memoryview) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(
            packed,
            raw=False,
            use_list=True,
            object_pairs_hook=_unique_keys,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    # UnpackException is not a ValueError in every version of msgpack.
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(
            f"the header is no msgpack that we accept: {error!r:.200}"
        ) from error
    if not isinstance(header, dict):
        raise RemoteProtocolError("the header is not a map")
    return header


def limits_for(role: Role) -> Limits:
    """Return what the receiver in this role accepts unless told otherwise."""
    return SERVER_LIMITS if role is Role.SERVER else CLIENT_LIMITS
