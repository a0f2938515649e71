"""The messages, as dataclasses: what may be said, by whom, with which fields.

The wire type of a field stands in its declaration; the codec, ``docs/protocol.md`` and the
tests all read it from there. Fields without one (``id`` and arrays) have their own place
in a frame.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final, TypeAlias

from remote_env.protocol.channel_messages import (
    Hello,
    Observation,
    Observe,
    Observing,
    Progress,
    Reset,
    ResetDone,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    Welcome,
)
from remote_env.protocol.fields import Role
from remote_env.protocol.side_messages import (
    Bye,
    Cancel,
    EmergencyStop,
    EmergencyStopped,
    Error,
    GetStatistics,
    Heartbeat,
    Ping,
    Pong,
    Probe,
    Probed,
    Release,
    Released,
    ReleaseStop,
    Statistics,
    StopReleased,
)
from remote_env.protocol.wiretypes import WireType

__all__ = [
    "MESSAGES",
    "REPLIES",
    "Bye",
    "Cancel",
    "EmergencyStop",
    "EmergencyStopped",
    "Error",
    "GetStatistics",
    "Heartbeat",
    "Hello",
    "Message",
    "Observation",
    "Observe",
    "Observing",
    "Ping",
    "Pong",
    "Probe",
    "Probed",
    "Progress",
    "Release",
    "ReleaseStop",
    "Released",
    "Reset",
    "ResetDone",
    "Role",
    "Statistics",
    "Step",
    "StepDone",
    "StopReleased",
    "Subscribe",
    "Subscribed",
    "Welcome",
    "arrays_field",
    "wire_fields",
]

Message: TypeAlias = (
    Hello | Welcome | Subscribe | Subscribed | Reset | ResetDone | Step | StepDone
    | Release | Released | Ping | Pong | Heartbeat | Error | Bye | Cancel | Progress
    | EmergencyStop | EmergencyStopped | ReleaseStop | StopReleased | GetStatistics | Statistics
    | Observe | Observing | Observation | Probe | Probed
)  # fmt: skip

MESSAGES: Final[dict[int, type[Message]]] = {
    cls.KIND: cls
    for cls in (
        Hello, Welcome, Subscribe, Subscribed, Reset, ResetDone, Step, StepDone,
        Release, Released, Ping, Pong, Heartbeat, Error, Bye, Cancel, Progress,
        EmergencyStop, EmergencyStopped, ReleaseStop, StopReleased, GetStatistics, Statistics,
        Observe, Observing, Observation, Probe, Probed,
    )
}  # fmt: skip

REPLIES: Final[dict[type[Message], type[Message]]] = {
    Hello: Welcome,
    Subscribe: Subscribed,
    Reset: ResetDone,
    Step: StepDone,
    Release: Released,
    Ping: Pong,
    EmergencyStop: EmergencyStopped,
    ReleaseStop: StopReleased,
    GetStatistics: Statistics,
    Probe: Probed,
    Observe: Observing,
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
