"""How each message is written: which values, in which order, and what each must be."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from remote_env.protocol.messages import (
    MESSAGES,
    Message,
    Step,
    arrays_field,
    wire_fields,
)
from remote_env.protocol.values import is_plain_map
from remote_env.protocol.wiretypes import FLOATS, MAP, NAMED, TEXTS, UINT, UINTS, WireType

__all__ = ["SCHEMAS", "Schema", "Usual"]

_INTEGERS: Final = {int}
_NUMBERS: Final = {float}
_MOST: Final = 1024  # items of all lists together; the limit of each one


@dataclass(frozen=True, slots=True)
class Schema:
    """How a message is written.

    Attributes:
        name: Of the message, for people.
        make: Makes one, of the values of all fields in order.
        values_of: Returns the values of its header's fields.
        fields: Name, wire type, and its ``exact``, which is asked for in every field.
        usual: Checks all of them at once; None if there is not much to gain.
        arrays: The name of the field that holds the agreed arrays, and of their layout.
        dtypes: Where the dtypes of arrays stand that are not those agreed; -1 is nowhere.
        unchanged: The same for the arrays that are left out.
        has_id_last: Whether its id is its last field, not its first.
    """

    name: str
    make: Callable[..., Message]
    values_of: Callable[[Message], tuple[Any, ...]]
    fields: tuple[tuple[str, WireType, type | None], ...]
    usual: Usual | None
    arrays: tuple[str, str] | None
    dtypes: int
    unchanged: int
    has_id_last: bool


class Usual:
    """Says of the values of a header, all at once, that they are right and plain.

    A few calls in C, in place of one in Python for each field: 2 us of the 5 us that the fields
    of a ``StepDone`` take otherwise. It says so of those values only that the checks of the wire
    types would pass on as they are; of others it says nothing, and these checks decide.
    """

    def __init__(self, types: Sequence[WireType]) -> None:
        """Prepare for the fields of a message, some of them of type uint."""
        self._read = tuple(_usual_type(wire_type, list) for wire_type in types)
        self._written = tuple(_usual_type(wire_type, tuple) for wire_type in types)
        self._uints = [i for i, wire_type in enumerate(types) if wire_type is UINT]
        self._lists_of_uints = [i for i, wire_type in enumerate(types) if wire_type is UINTS]
        self._lists_of_floats = [i for i, wire_type in enumerate(types) if wire_type is FLOATS]
        self._lists = [i for i, kind in enumerate(self._read) if kind is list]
        self._maps = [i for i, wire_type in enumerate(types) if wire_type in (MAP, NAMED)]
        self._texts = [i for i, wire_type in enumerate(types) if wire_type is TEXTS]

    def are_written(self, values: Sequence[Any]) -> bool:
        """Whether these values of a message may be written as they are."""
        return tuple(map(type, values)) == self._written and self._are_right(values)

    def read(self, values: list[Any]) -> list[Any] | None:
        """Return what a header says, if that is usual; changes ``values`` then."""
        if tuple(map(type, values)) != self._read or not self._are_right(values):
            return None
        for i in self._lists:
            values[i] = tuple(values[i])
        return values

    def _are_right(self, values: Sequence[Any]) -> bool:
        for i in self._texts:
            if values[i]:
                return False
        for i in self._maps:
            if values[i] and not is_plain_map(values[i]):
                return False
        integers, numbers = [values[i] for i in self._uints], []
        for i in self._lists_of_uints:
            integers += values[i]
        for i in self._lists_of_floats:
            numbers += values[i]
        return (
            len(integers) + len(numbers) <= _MOST
            and set(map(type, integers)) == _INTEGERS
            and min(integers) >= 0
            and set(map(type, numbers)) <= _NUMBERS
        )


def _usual_type(wire_type: WireType, kind_of_list: type) -> type | None:
    if wire_type.exact is not None:
        return wire_type.exact
    if wire_type is UINT:
        return int
    return dict if wire_type in (MAP, NAMED) else kind_of_list


def _schema_of(message_class: type[Message]) -> Schema:
    fields = wire_fields(message_class)
    names = [name for name, _ in fields]
    agreed = arrays_field(message_class)
    in_order = [f.name for f in dataclasses.fields(message_class)]
    has_id_last = in_order[-1] == "id" and len(in_order) > 1
    # As decode calls it.
    arrays = [] if agreed is None else [agreed[0]]
    assert in_order == [*["id"][has_id_last:], *names, *arrays, *["id"][:has_id_last]]
    return Schema(
        message_class.__name__,
        message_class,
        _getter(names),
        tuple((name, wire_type, wire_type.exact) for name, wire_type in fields),
        None if agreed is None else Usual([wire_type for _, wire_type in fields]),
        agreed,
        names.index("dtypes") if message_class is Step else -1,
        names.index("unchanged") if "unchanged" in names else -1,
        has_id_last,
    )


def _getter(names: Sequence[str]) -> Callable[[Message], tuple[Any, ...]]:
    """Return what gets the values of fields; one call in C, where there are several."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


SCHEMAS: Final = {kind: _schema_of(message_class) for kind, message_class in MESSAGES.items()}
