"""The messages beside the episode channel, which wait for nobody; see ``messages.py``."""

from __future__ import annotations

from typing import ClassVar

from remote_env.protocol.fields import Role, wire
from remote_env.protocol.records import record
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import (
    BOOL,
    BYTES,
    FLOAT,
    NAMED,
    TEXT,
    UINT,
)

__all__ = [
    "Bye",
    "Cancel",
    "EmergencyStop",
    "EmergencyStopped",
    "Error",
    "GetStatistics",
    "Heartbeat",
    "Ping",
    "Pong",
    "Probe",
    "Probed",
    "Release",
    "ReleaseStop",
    "Released",
    "Statistics",
    "StopReleased",
]


@record(frozen=True, slots=True)
class Release:
    """Give the lease back; the robot holds."""

    KIND: ClassVar[int] = 9
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@record(frozen=True, slots=True)
class Released:
    """The lease is free."""

    KIND: ClassVar[int] = 10
    SENDER: ClassVar[Role] = Role.SERVER
    id: int


@record(frozen=True, slots=True)
class Ping:
    """Ask for a ``Pong`` from the server's network thread, past all queues."""

    KIND: ClassVar[int] = 11
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@record(frozen=True, slots=True)
class Pong:
    """The answer, with the robot's monotonic clock, in seconds."""

    KIND: ClassVar[int] = 12
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    time: float = wire(FLOAT)


@record(frozen=True, slots=True)
class Heartbeat:
    """A sign of life between calls; has no reply, and ``id`` 0."""

    KIND: ClassVar[int] = 13
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int = 0


@record(frozen=True, slots=True)
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
    code: str = wire(TEXT)
    message: str = wire(TEXT)
    retryable: bool = wire(BOOL)


@record(frozen=True, slots=True)
class Bye:
    """The sender closes the connection on purpose; has no reply, and ``id`` 0."""

    KIND: ClassVar[int] = 15
    SENDER: ClassVar[Role | None] = None
    reason: str = wire(TEXT)
    id: int = 0


@record(frozen=True, slots=True)
class Cancel:
    """Ask that a reset be given up; has no reply of its own, and ``id`` 0.

    The reset is answered all the same: with an ``Error`` if the robot could give it up.

    Attributes:
        request: The id of the ``Reset``.
    """

    KIND: ClassVar[int] = 16
    SENDER: ClassVar[Role] = Role.CLIENT
    request: int = wire(UINT)
    id: int = 0


@record(frozen=True, slots=True)
class EmergencyStop:
    """Stop the robot, now and until a ``ReleaseStop``; any client may, with or without lease.

    Attributes:
        id: Of the request.
        reason: For people.
    """

    KIND: ClassVar[int] = 18
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    reason: str = wire(TEXT)


@record(frozen=True, slots=True)
class EmergencyStopped:
    """The emergency stop is latched. ``Statistics`` tell whether the robot's code has obeyed."""

    KIND: ClassVar[int] = 19
    SENDER: ClassVar[Role] = Role.SERVER
    id: int


@record(frozen=True, slots=True)
class ReleaseStop:
    """Release the emergency stop. Nothing moves by that: it takes a reset and an action."""

    KIND: ClassVar[int] = 20
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@record(frozen=True, slots=True)
class StopReleased:
    """The emergency stop is released.

    Attributes:
        id: Of the request.
        was_pressed: Whether it had been latched.
    """

    KIND: ClassVar[int] = 21
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    was_pressed: bool = wire(BOOL)


@record(frozen=True, slots=True)
class GetStatistics:
    """Ask how the robot is doing: rates, lateness, lease, emergency stop, observers."""

    KIND: ClassVar[int] = 22
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int


@record(frozen=True, slots=True)
class Statistics:
    """The answer; see ``docs/protocol.md`` for what it may hold.

    Attributes:
        id: Of the request.
        values: By name.
    """

    KIND: ClassVar[int] = 23
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    values: dict[str, Value] = wire(NAMED)


@record(frozen=True, slots=True)
class Probe:
    """Ask for so many bytes, to measure how quickly they come.

    Attributes:
        id: Of the request.
        size: At most 262144.
    """

    KIND: ClassVar[int] = 27
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    size: int = wire(UINT)


@record(frozen=True, slots=True)
class Probed:
    """Here they are.

    Attributes:
        id: Of the request.
        padding: Zeros, as many as were asked for.
    """

    KIND: ClassVar[int] = 28
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    padding: bytes = wire(BYTES, repr=False)
