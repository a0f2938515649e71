"""Messages to bytes and back. ``docs/protocol.md`` says the same in prose, byte for byte.

A frame is a prefix of 24 bytes, a msgpack array (the header), and the raw bytes of arrays (the
payload). The header is the values of the message's fields, in order: names in every message took
a quarter of a step's bytes and time (``docs/decisions/0001-the-frame.md``). Arrays of the agreed
layout come first, of which some may be encoded: how many bytes these have stands behind the
fields. Arrays inside ``info`` and other free-form values follow, and their dtypes and shapes stand
last in the header.

Decoding trusts nothing: sizes are checked before anything is allocated, lengths must fit
exactly, msgpack extensions and duplicate keys are refused, and nothing is ever made of a
type that the peer chose. Damage of any kind raises ``RemoteProtocolError`` and only that.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from remote_env.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError
from remote_env.protocol.arrays import (
    COPY_BELOW,
    NO_ARRAYS,
    ArraySpec,
    Layout,
    aligned,
    read_dtype,
    read_shape,
)
from remote_env.protocol.messages import Message, Role
from remote_env.protocol.schema import SCHEMAS, Schema
from remote_env.protocol.values import MAX_ITEMS, pack_value, unpack_value
from remote_env.protocol.wiretypes import ARRAYS, ENCODED_ARRAYS, UINTS

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
    "kind_of",
    "read_prefix",
]

WIRE_VERSION: Final = 5
Buffer: TypeAlias = bytes | bytearray | memoryview

# magic, wire version, kind, two reserved fields, header size, payload size, request id
_PREFIX: Final = struct.Struct("<3sBBBHIIQ")
PREFIX_SIZE: Final = _PREFIX.size
_KIND_AT: Final = 4
_MAGIC: Final = b"RRE"
_UNCHANGED: Final = "unchanged"
_TEXT_ONLY: Final = {str}


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
    schema = SCHEMAS[message.KIND]
    extra: list[NDArray[Any]] = []
    try:
        header = _header_of(message, schema, extra)
        layout = _agreed_layout(schema, header, layouts)
        layout, arrays = _agreed_arrays(message, schema, layout)
        if layout.sizes or extra:
            described = [[array.dtype.str, list(array.shape)] for array in extra]
            header = [*header, *(more for more in (layout.sizes, described) if more)]
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
    if extra:
        layout = Layout([*layout, *(ArraySpec("", a.dtype, a.shape) for a in extra)])
        arrays = [*arrays, *extra]
    return _assemble(message.KIND, message.id, packed, arrays, layout, limits)


def _header_of(message: Message, schema: Schema, extra: list[NDArray[Any]]) -> Sequence[Any]:
    """Return the fields; what the peer would refuse is refused here, by the same checks."""
    values = schema.values_of(message)
    if schema.usual is not None and schema.usual.are_written(values):
        return values
    header = []
    for value, (name, wire_type, exact) in zip(values, schema.fields, strict=True):
        if type(value) is not exact:
            if wire_type.is_free:
                value = pack_value(wire_type.check(value), extra, path=name)
            elif wire_type is ARRAYS:
                value = [spec.to_wire() for spec in value]
                wire_type.check(value)
            elif wire_type is ENCODED_ARRAYS:
                value = [[*spec.to_wire(), spec.codec] for spec in value]
                wire_type.check(value)
            else:
                wire_type.check(value)
        header.append(value)
    return header


def _agreed_arrays(
    message: Message, schema: Schema, layout: Layout
) -> tuple[Layout, Sequence[NDArray[Any]]]:
    """Return the arrays to write and their layout, in which encoded ones have their sizes."""
    if schema.arrays is None:
        return layout, ()
    arrays: Sequence[NDArray[Any]] = getattr(message, schema.arrays[0])
    agreed = len(layout.places)
    if len(arrays) != agreed:
        unchanged = getattr(message, _UNCHANGED, ())
        if len(arrays) != agreed + len(unchanged):
            raise LocalProtocolError(
                f"{type(message).__name__} has {len(arrays)} arrays, and {agreed} were agreed"
            )
        arrays = [array for i, array in enumerate(arrays) if i not in unchanged]
    if layout.encoded:
        layout = layout.with_sizes([arrays[i].nbytes for i in layout.encoded])
    for spec, array in zip(layout.specs, arrays, strict=True):
        if array.dtype is not spec.dtype or array.shape != spec.shape:
            spec.check(array)
    return layout, arrays


def _assemble(
    kind: int,
    message_id: int,
    packed: bytes,
    arrays: Sequence[NDArray[Any]],
    layout: Layout,
    limits: Limits,
) -> list[Buffer]:
    payload_size = layout.nbytes
    start = PREFIX_SIZE + len(packed)
    if payload_size:
        start = aligned(start)
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
    head = prefix + packed
    if not payload_size:  # no bytes, hence no place to align
        return [head]
    head += bytes(start - len(head))
    if layout.small is not None:
        return [head + layout.small.pack(*[array.tobytes() for array in arrays])]
    return _place_large(head, arrays, layout)


def _place_large(head: bytes, arrays: Sequence[NDArray[Any]], layout: Layout) -> list[Buffer]:
    """Return the parts of a frame in which there is an array that is not copied."""
    start = len(head)
    parts: list[Buffer] = []
    current = bytearray(head)
    position = 0  # in the frame, where `current` begins
    for array, (_, _, size, offset) in zip(arrays, layout.places, strict=True):
        if padding := start + offset - position - len(current):
            current += bytes(padding)
        if size < COPY_BELOW:
            current += array.tobytes()
        else:
            parts += [current, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]
            position = start + offset + size
            current = bytearray()
    if current:
        parts.append(current)
    return parts


def kind_of(frame: Buffer) -> int:
    """Return what kind of message a frame says that it holds; nothing of it is checked."""
    return frame[_KIND_AT] if len(frame) > _KIND_AT else -1


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
    schema = SCHEMAS.get(kind)
    if schema is None:
        raise RemoteProtocolError(f"message kind {kind} is not known in version {WIRE_VERSION}")
    view = memoryview(frame)
    header = _unpack_header(view[PREFIX_SIZE : PREFIX_SIZE + header_size])
    surplus = [] if len(header) == len(schema.fields) else _take_surplus(header, schema)
    layout = _agreed_layout(schema, header, layouts)
    if layout.encoded:
        layout = layout.with_sizes(surplus.pop(0) if surplus else None)
    arrays = _read_arrays(view[start:], layout, _described(surplus, schema) if surplus else ())
    count = len(layout.places)
    extra = arrays[count:]
    if schema.usual is None or (values := schema.usual.read(header)) is None:
        values = [
            raw if type(raw) is exact else wire_type.check(
                unpack_value(raw, extra) if wire_type.is_free else raw
            )
            for raw, (_, wire_type, exact) in zip(header, schema.fields, strict=True)
        ]  # fmt: skip
    if schema.arrays is not None:
        values.append(tuple(arrays[:count]))
    if schema.has_id_last:
        return schema.make(*values, message_id)
    return schema.make(message_id, *values)


def _take_surplus(header: list[Any], schema: Schema) -> list[Any]:
    """Take off a header what stands behind the fields."""
    count = len(schema.fields)
    if not count < len(header) <= count + 2:
        raise RemoteProtocolError(f"a {schema.name} has {count} fields, not {len(header)}")
    surplus = header[count:]
    del header[count:]
    return surplus


def _described(surplus: Sequence[Any], schema: Schema) -> Sequence[object]:
    """Check what stands last in a header: what the free arrays are."""
    if len(surplus) != 1 or not isinstance(surplus[0], list) or not surplus[0]:
        raise RemoteProtocolError(
            f"after its {len(schema.fields)} fields a {schema.name} may have a list of "
            f"[dtype, shape] that is not empty, not {reprlib.repr(surplus)}"
        )
    return surplus[0]


def _agreed_layout(schema: Schema, header: Sequence[Any], layouts: Layouts) -> Layout:
    if schema.arrays is None:
        return NO_ARRAYS
    layout: Layout = getattr(layouts, schema.arrays[1])
    if schema.unchanged >= 0:
        unchanged = header[schema.unchanged]
        return layout.without(UINTS.check(unchanged)) if unchanged else layout
    dtypes = header[schema.dtypes] if schema.dtypes >= 0 else None
    if not dtypes:
        return layout
    if not isinstance(dtypes, (list, tuple)) or len(dtypes) != len(layout):
        raise RemoteProtocolError("dtypes must name one dtype for each array of the action")
    return layout.with_dtypes([read_dtype(dtype) for dtype in dtypes])


def _read_arrays(
    payload: memoryview, layout: Layout, described: Sequence[object]
) -> list[NDArray[Any]]:
    places, end = layout.places, layout.nbytes
    if described:
        places, end = _with_free(described, layout)
    if end != len(payload):
        raise RemoteProtocolError(
            f"the payload has {len(payload)} bytes, and the agreed arrays take {end}"
        )
    return [
        np.ndarray(shape, dtype, payload, offset) if nbytes else np.empty(shape, dtype)
        for dtype, shape, nbytes, offset in places
    ]


def _with_free(described: Sequence[object], layout: Layout) -> tuple[Any, int]:
    """Return where arrays lie, and where the last one ends, if there are free ones too."""
    places, end = list(layout.places), layout.nbytes
    for entry in described:
        if not isinstance(entry, list) or len(entry) != 2:
            raise RemoteProtocolError("an array must be described as [dtype, shape]")
        dtype, shape = read_dtype(entry[0]), read_shape(entry[1])
        places.append((dtype, shape, math.prod(shape) * dtype.itemsize, aligned(end)))
        end = aligned(end) + places[-1][2]
    return places, end


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


def _unpack_header(packed: memoryview) -> list[Any]:
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
    if not isinstance(header, list):
        raise RemoteProtocolError("the header is not an array")
    return header


def limits_for(role: Role) -> Limits:
    """Return what the receiver in this role accepts unless told otherwise."""
    return SERVER_LIMITS if role is Role.SERVER else CLIENT_LIMITS
