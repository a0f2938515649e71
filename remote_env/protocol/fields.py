"""What fields of messages are declared with; see ``messages.py``."""

from __future__ import annotations

import enum
from dataclasses import field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from remote_env.protocol.wiretypes import WireType

__all__ = ["Arrays", "Role", "arrays", "wire"]


class Role(enum.Enum):
    """Which end of a connection one is."""

    CLIENT = "client"
    SERVER = "server"


Arrays: TypeAlias = tuple[NDArray[Any], ...]


def wire(wire_type: WireType, **options: Any) -> Any:
    """Return a field that stands in the header; options are those of ``dataclasses.field``."""
    return field(metadata={"wire": wire_type}, **options)


def arrays(layout: str) -> Any:
    """Return the field of the agreed arrays, whose layout has this name in ``Layouts``."""
    return field(metadata={"arrays": layout}, default=())
