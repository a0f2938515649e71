"""Free-form values (``info``, ``options``, metadata) as plain msgpack and back, exactly.

What msgpack has, goes as it is: None, bool, 64-bit int, float, str, bytes, list, and maps
with string keys. What it has not, goes as a map with one reserved key:

=============================  ========================================================
``{"$t": [...]}``              a tuple
``{"$n": [dtype, bytes]}``     a numpy scalar
``{"$a": index}``              a numpy array; dtype and shape stand in the frame's header
``{"$m": [[key, value]...]}``  a map with integer keys, or with keys that begin with ``$``
=============================  ========================================================

Nothing else can be said, so nothing else can be made: decoding walks this tree and never
calls anything that the peer named.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol.arrays import DTYPES, is_shape, read_dtype

__all__ = [
    "MAX_ITEMS",
    "UnsupportedValueError",
    "Value",
    "drop_unsupported",
    "is_plain_map",
    "pack_value",
    "unpack_value",
]

Value: TypeAlias = (
    None | bool | int | float | str | bytes | list[Any] | tuple[Any, ...] | dict[Any, Any] | Any
)
MAX_DEPTH: Final = 16
# What msgpack writes as it is, whatever its value.
_PLAIN: Final = frozenset({float, bool, bytes, type(None)})
_TEXT: Final = {str}
_LEAST_INTEGER: Final = -(1 << 63)
_LARGEST_INTEGER: Final = (1 << 64) - 1
# Of one list or map. Longer ones are refused before they are read: a 64 KiB header can hold
# that many empty lists, and each costs a Python object.
MAX_ITEMS: Final = 1024


class UnsupportedValueError(LocalProtocolError, TypeError):
    """A value that the wire cannot carry."""


def pack_value(value: Value, arrays: list[NDArray[Any]], *, path: str = "value") -> object:
    """Turn a value into what msgpack can write.

    Args:
        value: None, bool, int of 64 bits, float, str, bytes, numpy scalars and arrays of the
            dtypes in ``DTYPES``, and lists, tuples and maps of those.
        arrays: Arrays found on the way are appended here, contiguous and by reference.
        path: Where in the message we are, for the error.

    Raises:
        UnsupportedValueError: Naming the path and the type.
    """
    if type(value) is dict and not value:  # as most infos are
        return value
    return _pack(value, arrays, path, 0)


def _pack(value: Value, arrays: list[NDArray[Any]], path: str, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise UnsupportedValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, np.generic):
        if value.dtype.str not in DTYPES:
            raise UnsupportedValueError(f"{path} is a numpy scalar of dtype {value.dtype}")
        return {"$n": [value.dtype.str, value.tobytes()]}
    if value is None or isinstance(value, (bool, float, bytes)):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UnsupportedValueError(f"{path} is text that is not Unicode: {error}") from error
        return value
    if isinstance(value, int):
        if not _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
            raise UnsupportedValueError(f"{path} is an integer of more than 64 bits")
        return int(value)
    if isinstance(value, np.ndarray):
        if value.dtype.str not in DTYPES:
            raise UnsupportedValueError(f"{path} is an array of dtype {value.dtype}")
        if not is_shape(value.shape):
            raise UnsupportedValueError(f"{path} is an array of shape {value.shape}")
        if len(arrays) == MAX_ITEMS:
            raise UnsupportedValueError(f"{path} is one array more than the {MAX_ITEMS} allowed")
        # Not ascontiguousarray: it turns a 0-dimensional array into a 1-dimensional one.
        arrays.append(np.asarray(value, order="C"))
        return {"$a": len(arrays) - 1}
    if isinstance(value, (tuple, list, Mapping)) and len(value) > MAX_ITEMS:
        raise UnsupportedValueError(
            f"{path} has {len(value)} items and the limit is {MAX_ITEMS}; use a numpy array"
        )
    if isinstance(value, tuple):
        return {"$t": [_pack(v, arrays, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [_pack(v, arrays, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return _pack_map(value, arrays, path, depth)
    raise UnsupportedValueError(f"{path} is a {type(value).__module__}.{type(value).__qualname__}")


def _pack_map(
    value: Mapping[Any, Any], arrays: list[NDArray[Any]], path: str, depth: int
) -> dict[str, object]:
    packed: dict[Any, object] = {}
    is_plain, may_hold = True, depth < MAX_DEPTH
    for key, item in value.items():
        if may_hold and type(key) is str and type(item) in _PLAIN and key.isascii():
            is_plain = is_plain and not key.startswith("$")
            packed[key] = item  # what most of info is; to write its path takes longer than this
            continue
        if not isinstance(key, (str, int)) or isinstance(key, (bool, np.generic)):
            raise UnsupportedValueError(f"{path} has the key {key!r:.40}; keys are str or int")
        is_plain = is_plain and isinstance(key, str) and not key.startswith("$")
        where = f"{path}[{key!r:.40}]"
        packed[_pack(key, arrays, where, depth)] = _pack(item, arrays, where, depth + 1)
    return packed if is_plain else {"$m": [[key, item] for key, item in packed.items()]}


def is_plain_map(value: dict[Any, Any]) -> bool:
    """Whether a map stands in msgpack as it is: numbers and ASCII text by names in ASCII.

    What real time tells of a step is such a map. A few calls in C, in place of one for each value.
    """
    if len(value) > MAX_ITEMS or set(map(type, value)) != _TEXT:
        return False
    names = "".join(value)
    if not names.isascii() or "$" in names:
        return False
    items = value.values()
    kinds = set(map(type, items))
    if int in kinds:
        kinds.discard(int)
        whole = [item for item in items if type(item) is int]
        if not (min(whole) >= _LEAST_INTEGER and max(whole) <= _LARGEST_INTEGER):
            return False
    if str in kinds:
        kinds.discard(str)
        if not all([item.isascii() for item in items if type(item) is str]):
            return False
    return kinds <= _PLAIN


def unpack_value(raw: object, arrays: Sequence[NDArray[Any]]) -> Value:
    """Turn what msgpack read back into the value, with its exact types.

    Args:
        raw: What the msgpack unpacker returned: plain types only.
        arrays: The frame's free arrays, in the order of their indices.

    Raises:
        RemoteProtocolError: If a reserved map is malformed or the nesting is too deep.
    """
    if not raw and type(raw) is dict:
        return raw
    return _unpack(raw, arrays, 0)


def _unpack(raw: object, arrays: Sequence[NDArray[Any]], depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise RemoteProtocolError(f"a value is nested deeper than {MAX_DEPTH} levels")
    if isinstance(raw, list):
        return [_unpack(item, arrays, depth + 1) for item in raw]
    if not isinstance(raw, dict):
        return raw
    if len(raw) == 1:
        ((key, body),) = raw.items()
        if key.startswith("$"):
            return _unpack_reserved(key, body, arrays, depth)
    if any(key.startswith("$") for key in raw):
        raise RemoteProtocolError("a map with a reserved key has other keys beside it")
    return {key: _unpack(item, arrays, depth + 1) for key, item in raw.items()}


def _unpack_reserved(key: str, body: object, arrays: Sequence[NDArray[Any]], depth: int) -> Value:
    if key == "$a":
        if type(body) is not int or not 0 <= body < len(arrays):
            raise RemoteProtocolError(
                f"array index {reprlib.repr(body)} is not one of {len(arrays)}"
            )
        return arrays[body]
    if not isinstance(body, list):
        raise RemoteProtocolError(f"the body of {key!r:.20} is not a list")
    if key == "$t":
        return tuple(_unpack(item, arrays, depth + 1) for item in body)
    if key == "$n":
        if len(body) != 2 or not isinstance(body[1], bytes):
            raise RemoteProtocolError("a numpy scalar must be [dtype, bytes]")
        dtype = read_dtype(body[0])
        if len(body[1]) != dtype.itemsize:
            raise RemoteProtocolError(f"a {dtype} scalar has {len(body[1])} bytes")
        return np.frombuffer(body[1], dtype)[0]
    if key == "$m":
        return dict(_unpack_pairs(body, arrays, depth))
    raise RemoteProtocolError(f"{key!r:.20} is not a reserved key of this protocol")


def _unpack_pairs(
    body: list[object], arrays: Sequence[NDArray[Any]], depth: int
) -> Iterator[tuple[str | int, Value]]:
    seen = set()
    for pair in body:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise RemoteProtocolError("a map entry must be [key, value]; keys are str or int")
        if pair[0] in seen:
            raise RemoteProtocolError(f"the key {pair[0]!r:.40} stands twice in a map")
        seen.add(pair[0])
        yield pair[0], _unpack(pair[1], arrays, depth + 1)


def drop_unsupported(value: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, str]]:
    """Return the entries that the wire can carry, and why the others cannot.

    Entries are kept or dropped whole, nested maps entry by entry.

    Returns:
        What can be carried; and for each dropped entry its path and the reason.
    """
    dropped: dict[str, str] = {}
    return _keep_supported(value, dropped, "", 0), dropped


def _keep_supported(
    value: Mapping[str, Value], dropped: dict[str, str], path: str, depth: int
) -> dict[str, Value]:
    kept: dict[str, Value] = {}
    for key, item in value.items():
        try:
            _pack({key: item}, [], "info", depth)
        except UnsupportedValueError as error:
            can_look_inside = isinstance(key, str) and depth < MAX_DEPTH  # it may hold itself
            if can_look_inside and isinstance(item, dict) and len(item) <= MAX_ITEMS:
                kept[key] = _keep_supported(item, dropped, f"{path}{key}/", depth + 1)
            else:
                dropped[f"{path}{key}"] = str(error)
        else:
            kept[key] = item
    return kept
