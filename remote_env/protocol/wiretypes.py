"""The types of fields in a message's header: what each may hold, and how that is checked.

Sender and receiver use the same checks: what the peer would refuse is not sent.
"""

from __future__ import annotations

import enum
import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from remote_env.errors import RemoteProtocolError
from remote_env.protocol.arrays import ArraySpec

__all__ = [
    "ARRAYS",
    "BOOL",
    "ENCODED_ARRAYS",
    "END_REASON",
    "FLOAT",
    "FLOATS",
    "MAP",
    "NAMED",
    "NUMBER",
    "ON_STALE",
    "ROLE",
    "TEXT",
    "TEXTS",
    "UINT",
    "UINTS",
    "VALUE",
    "EndReason",
    "OnStale",
    "WireType",
    "optional",
]


class EndReason(enum.StrEnum):
    """Why an episode ended. Only ``TASK`` may mean ``terminated``."""

    TASK = "task"
    TIME_LIMIT = "time_limit"
    ROBOT = "robot"
    OPERATOR = "operator"
    EMERGENCY_STOP = "emergency_stop"
    STALE_SENSOR = "stale_sensor"
    LINK_LOST = "link_lost"
    SERVER_SHUTDOWN = "server_shutdown"


class OnStale(enum.StrEnum):
    """What a step does that finds a stream older than it may be."""

    FLAG = "flag"
    TRUNCATE = "truncate"
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class WireType:
    """How a field stands in the msgpack header.

    Attributes:
        name: As ``docs/protocol.md`` says it.
        check: Returns the value, or raises ``RemoteProtocolError``.
        is_free: Whether it holds a free-form value, which may hold arrays.
        exact: A type of which every value is right as it is, if there is one: to ask for it
            takes a tenth of the time of ``check``.
    """

    name: str
    check: Callable[[object], Any]
    is_free: bool = False
    exact: type | None = None


def _checked(
    name: str,
    is_right: Callable[[Any], bool],
    *,
    is_free: bool = False,
    exact: type | None = None,
) -> WireType:
    def check(raw: object) -> Any:
        if not is_right(raw):
            # Not repr: what a peer nests a thousand times overflows the stack.
            raise RemoteProtocolError(f"expected {name}, got {reprlib.repr(raw)}")
        return raw

    return WireType(name, check, is_free, exact)


def _list_of(
    item: WireType, *, most: int, are_right: Callable[[Sequence[Any]], bool] = lambda raw: False
) -> WireType:
    """Return the type of a list; ``are_right`` may say at once that all items are, as they are."""

    def check(raw: object) -> tuple[Any, ...]:
        # A list as msgpack reads it, a tuple as our own messages have it.
        if not isinstance(raw, (list, tuple)) or len(raw) > most:
            raise RemoteProtocolError(f"expected a list of at most {most} of {item.name}")
        if not raw or are_right(raw):
            return tuple(raw)
        return tuple(map(item.check, raw))

    return WireType(f"list of {item.name}", check)


def optional(item: WireType) -> WireType:
    """Return the type that may be nil as well."""
    return WireType(
        f"{item.name} or nil",
        lambda raw: None if raw is None else item.check(raw),
        item.is_free,
        exact=type(None),
    )


def _check_uint(raw: object) -> int:
    # By itself, and not by _checked: four fields of every answer are of this type.
    if type(raw) is int and raw >= 0:
        return raw
    raise RemoteProtocolError(f"expected uint, got {reprlib.repr(raw)}")


UINT: Final = WireType("uint", _check_uint)
FLOAT: Final = _checked("float", lambda raw: isinstance(raw, float), exact=float)
BOOL: Final = _checked("bool", lambda raw: type(raw) is bool, exact=bool)
TEXT: Final = _checked("text", lambda raw: isinstance(raw, str) and len(raw) <= 4096)
TEXTS: Final = _list_of(TEXT, most=1024)
BYTES: Final = _checked("bytes", lambda raw: isinstance(raw, bytes))
# Stamps and sequences stand in every answer: a fifth of the time that one by one takes.
UINTS: Final = _list_of(
    UINT, most=1024, are_right=lambda raw: set(map(type, raw)) == {int} and min(raw) >= 0
)
FLOATS: Final = _list_of(FLOAT, most=1024, are_right=lambda raw: set(map(type, raw)) == {float})
ARRAYS: Final = _list_of(WireType("[name, dtype, shape]", ArraySpec.from_wire), most=1024)
ENCODED_ARRAYS: Final = _list_of(
    WireType("[name, dtype, shape, codec]", ArraySpec.with_codec_from_wire), most=1024
)
ROLE: Final = _checked('"control" or "observe"', lambda raw: raw in ("control", "observe"))
# Some languages have one kind of number, and some clients in them write 30 for 30.0.
NUMBER: Final = _checked(
    "number",
    lambda raw: (type(raw) is int or isinstance(raw, float)) and math.isfinite(raw),
)


def _one_of(choices: type[enum.StrEnum], name: str) -> WireType:
    values = {choice.value: choice for choice in choices}

    def check(raw: object) -> enum.StrEnum:
        if not isinstance(raw, str) or raw not in values:
            raise RemoteProtocolError(f"{reprlib.repr(raw)} is not an {name}")
        return values[raw]

    return WireType(name, check)


END_REASON: Final = _one_of(EndReason, "end reason")
ON_STALE: Final = _one_of(OnStale, "on-stale policy")
VALUE: Final = _checked("value", lambda raw: True, is_free=True, exact=float)
MAP: Final = _checked("map", lambda raw: isinstance(raw, dict), is_free=True)
# What decides what a robot does has names, which can be compared and sorted.
NAMED: Final = _checked(
    "map with text keys",
    lambda raw: isinstance(raw, dict) and all(isinstance(key, str) for key in raw),
    is_free=True,
)
