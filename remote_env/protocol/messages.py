"""The messages, as frozen dataclasses: what may be said, by whom, with which fields.

The wire type of a field stands in its declaration; the codec, ``docs/protocol.md`` and the
tests all read it from there. Fields without one (``id`` and arrays) have their own place
in a frame.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, TypeAlias

from numpy.typing import NDArray

from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import (
    ARRAYS,
    BOOL,
    END_REASON,
    FLOAT,
    FLOATS,
    MAP,
    NAMED,
    ROLE,
    TEXT,
    TEXTS,
    UINT,
    UINTS,
    VALUE,
    EndReason,
    WireType,
    optional,
)

__all__ = [
    "MESSAGES",
    "REPLIES",
    "Bye",
    "Error",
    "Heartbeat",
    "Hello",
    "Message",
    "Ping",
    "Pong",
    "Release",
    "Released",
    "Reset",
    "ResetDone",
    "Role",
    "Step",
    "StepDone",
    "Subscribe",
    "Subscribed",
    "Welcome",
    "arrays_field",
    "wire_fields",
]


class Role(enum.Enum):
    """Which end of a connection one is."""

    CLIENT = "client"
    SERVER = "server"


def _wire(wire_type: WireType, **options: Any) -> Any:
    return field(metadata={"wire": wire_type}, **options)


def _arrays(layout: str) -> Any:
    return field(metadata={"arrays": layout}, default=())


Arrays: TypeAlias = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: who connects, and what for.

    Attributes:
        id: Of the request; ids of a connection only grow.
        role: ``"control"`` or ``"observe"``.
        token: What the server asks for, if it asks.
        owner: The name shown to whoever is refused because this client commands.
        process: Unique to the client's process; a process may take over from itself.
        client: Program and version, for logs.
    """

    KIND: ClassVar[int] = 1
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    role: str = _wire(ROLE)
    token: str | None = _wire(optional(TEXT), repr=False)
    owner: str = _wire(TEXT)
    process: str = _wire(TEXT)
    client: str = _wire(TEXT)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Everything about the robot that does not change.

    Attributes:
        id: Of the ``Hello``.
        session: Names this connection's session.
        server: Program and version, for logs.
        spec_hash: Of everything that a policy depends on: spaces and arrays.
        capabilities: What the server can do beyond this version's minimum.
        max_frame_size: The largest frame that the server accepts, in bytes.
        streams: All arrays that can be subscribed to.
        subscribed: Names of those that are sent unless the client subscribes otherwise.
        action: The arrays of an action.
        metadata: Name, mode, rates, spaces, units; see ``docs/protocol.md``.
    """

    KIND: ClassVar[int] = 2
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    session: str = _wire(TEXT)
    server: str = _wire(TEXT)
    spec_hash: str = _wire(TEXT)
    capabilities: tuple[str, ...] = _wire(TEXTS)
    max_frame_size: int = _wire(UINT)
    streams: tuple[ArraySpec, ...] = _wire(ARRAYS)
    subscribed: tuple[str, ...] = _wire(TEXTS)
    action: tuple[ArraySpec, ...] = _wire(ARRAYS)
    metadata: dict[str, Value] = _wire(NAMED)


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Choose the arrays of every later observation, and their order.

    Attributes:
        id: Of the request.
        streams: Names out of ``Welcome.streams``.
    """

    KIND: ClassVar[int] = 3
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    streams: tuple[str, ...] = _wire(TEXTS)


@dataclass(frozen=True, slots=True)
class Subscribed:
    """From now on observations hold these arrays, in this order."""

    KIND: ClassVar[int] = 4
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    streams: tuple[str, ...] = _wire(TEXTS)


@dataclass(frozen=True, slots=True)
class Reset:
    """Begin an episode; takes the lease.

    Attributes:
        id: Of the request.
        seed: For the robot's random numbers, or None.
        options: As in ``gymnasium.Env.reset``.
        take: Whether to take the lease from another owner.
    """

    KIND: ClassVar[int] = 5
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    seed: int | None = _wire(optional(UINT))
    options: dict[str, Value] | None = _wire(optional(NAMED))
    take: bool = _wire(BOOL)


@dataclass(frozen=True, slots=True)
class ResetDone:
    """The first observation of an episode.

    Attributes:
        id: Of the ``Reset``.
        episode: Names the episode in later steps.
        tick: Of the observation; the next step names it.
        time: The robot's clock when the observation was taken, in seconds.
        sequences: Per subscribed array, how often it was published; or empty.
        stamps: Per subscribed array, the robot's clock when it was measured, in seconds;
            or empty.
        info: The robot's own.
        remote: Ours: what goes under ``info["remote"]``.
        observation: The subscribed arrays.
    """

    KIND: ClassVar[int] = 6
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    episode: int = _wire(UINT)
    tick: int = _wire(UINT)
    time: float = _wire(FLOAT)
    sequences: tuple[int, ...] = _wire(UINTS)
    stamps: tuple[float, ...] = _wire(FLOATS)
    info: dict[str, Value] = _wire(MAP)
    remote: dict[str, Value] = _wire(NAMED)
    observation: Arrays = _arrays("observation")


@dataclass(frozen=True, slots=True)
class Step:
    """Execute one action.

    Attributes:
        id: Of the request.
        episode: From ``ResetDone``.
        step: 1 for the first step of the episode.
        tick: Of the observation that this action answers.
        dtypes: Of the action's arrays where they differ from the agreed ones, one for
            each; else empty.
        action: The arrays of the action.
    """

    KIND: ClassVar[int] = 7
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    episode: int = _wire(UINT)
    step: int = _wire(UINT)
    tick: int = _wire(UINT)
    dtypes: tuple[str, ...] = _wire(TEXTS)
    action: Arrays = _arrays("action")


@dataclass(frozen=True, slots=True)
class StepDone:
    """What came of the action; fields as in ``ResetDone``.

    Attributes:
        id: Of the ``Step``.
        episode: As in the ``Step``.
        step: As in the ``Step``.
        tick: Of the observation; the next step names it.
        time: The robot's clock when the observation was taken, in seconds.
        reward: Of the type that the robot gave: float, int or a numpy scalar.
        terminated: Whether the task's own end was reached.
        truncated: Whether the episode was cut short.
        end_reason: Set if and only if the episode ended.
        sequences: See ``ResetDone``.
        stamps: See ``ResetDone``.
        info: The robot's own.
        remote: Ours.
        observation: The subscribed arrays.
    """

    KIND: ClassVar[int] = 8
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    episode: int = _wire(UINT)
    step: int = _wire(UINT)
    tick: int = _wire(UINT)
    time: float = _wire(FLOAT)
    reward: Any = _wire(VALUE)
    terminated: bool = _wire(BOOL)
    truncated: bool = _wire(BOOL)
    end_reason: EndReason | None = _wire(optional(END_REASON))
    sequences: tuple[int, ...] = _wire(UINTS)
    stamps: tuple[float, ...] = _wire(FLOATS)
    info: dict[str, Value] = _wire(MAP)
    remote: dict[str, Value] = _wire(NAMED)
    observation: Arrays = _arrays("observation")


@dataclass(frozen=True, slots=True)
class Release:
    """Give the lease back; the robot holds."""

    KIND: ClassVar[int] = 9
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@dataclass(frozen=True, slots=True)
class Released:
    """The lease is free."""

    KIND: ClassVar[int] = 10
    SENDER: ClassVar[Role] = Role.SERVER
    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a ``Pong`` from the server's network thread, past all queues."""

    KIND: ClassVar[int] = 11
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer, with the robot's monotonic clock, in seconds."""

    KIND: ClassVar[int] = 12
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    time: float = _wire(FLOAT)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life between calls; has no reply, and ``id`` 0."""

    KIND: ClassVar[int] = 13
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int = 0


@dataclass(frozen=True, slots=True)
class Error:
    """The request with this id failed; with ``id`` 0, the connection did.

    Attributes:
        id: Of the request, or 0: then nothing more is said on this connection.
        code: See ``remote_env.errors``.
        message: What happened and what to do. Never a traceback.
        retryable: Whether the same request may succeed later.
    """

    KIND: ClassVar[int] = 14
    SENDER: ClassVar[Role | None] = Role.SERVER
    id: int
    code: str = _wire(TEXT)
    message: str = _wire(TEXT)
    retryable: bool = _wire(BOOL)


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender closes the connection on purpose; has no reply, and ``id`` 0."""

    KIND: ClassVar[int] = 15
    SENDER: ClassVar[Role | None] = None
    reason: str = _wire(TEXT)
    id: int = 0


Message: TypeAlias = (
    Hello | Welcome | Subscribe | Subscribed | Reset | ResetDone | Step | StepDone
    | Release | Released | Ping | Pong | Heartbeat | Error | Bye
)  # fmt: skip

MESSAGES: Final[dict[int, type[Message]]] = {
    cls.KIND: cls
    for cls in (
        Hello, Welcome, Subscribe, Subscribed, Reset, ResetDone, Step, StepDone,
        Release, Released, Ping, Pong, Heartbeat, Error, Bye,
    )
}  # fmt: skip

REPLIES: Final[dict[type[Message], type[Message]]] = {
    Hello: Welcome,
    Subscribe: Subscribed,
    Reset: ResetDone,
    Step: StepDone,
    Release: Released,
    Ping: Pong,
}


def wire_fields(message_class: type[Message]) -> tuple[tuple[str, WireType], ...]:
    """Return the header fields of a message, in the order in which they are written."""
    return tuple(
        (f.name, f.metadata["wire"]) for f in fields(message_class) if "wire" in f.metadata
    )


def arrays_field(message_class: type[Message]) -> tuple[str, str] | None:
    """Return the name of the field that holds arrays and of their layout, if there is one."""
    for f in fields(message_class):
        if "arrays" in f.metadata:
            return f.name, f.metadata["arrays"]
    return None
