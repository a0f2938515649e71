"""What may be said next: one table for both ends, so neither can excuse itself.

The table governs the episode channel. ``OUT_OF_BAND`` messages are legal in every state
after the hello, because a stop, a heartbeat or an error cannot wait for its turn. What
ends the connection, a ``Bye`` or an ``Error`` with the id 0, is legal also before it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from remote_env.protocol.messages import (
    Bye,
    Cancel,
    EmergencyStop,
    EmergencyStopped,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Message,
    Observation,
    Observe,
    Observing,
    Ping,
    Pong,
    Probe,
    Probed,
    Progress,
    Release,
    Released,
    ReleaseStop,
    Reset,
    ResetDone,
    Role,
    Statistics,
    Step,
    StepDone,
    StopReleased,
    Subscribe,
    Subscribed,
    Welcome,
)

__all__ = ["OUT_OF_BAND", "TRANSITIONS", "State", "diagram"]


class State(enum.Enum):
    """Where a connection stands."""

    # In C. That of Enum is a function in Python, and each message looks states up four times.
    __hash__ = object.__hash__

    OPENING = "opening"
    GREETED = "greeted"
    READY = "ready"
    SUBSCRIBING = "subscribing"
    RESETTING = "resetting"
    RUNNING = "running"
    STEPPING = "stepping"
    ATTACHING = "attaching"
    OBSERVING = "observing"
    CLOSED = "closed"


# An Error here is one whose id is that of the pending request. A Welcome that resumes leads
# to where the lost connection stood, and not to READY.
TRANSITIONS: Final[Mapping[State, Mapping[type[Message], tuple[Role, State]]]] = {
    State.OPENING: {Hello: (Role.CLIENT, State.GREETED)},
    State.GREETED: {
        Welcome: (Role.SERVER, State.READY),
        Error: (Role.SERVER, State.CLOSED),
    },
    State.READY: {
        Subscribe: (Role.CLIENT, State.SUBSCRIBING),
        Reset: (Role.CLIENT, State.RESETTING),
        Observe: (Role.CLIENT, State.ATTACHING),
    },
    State.SUBSCRIBING: {
        Subscribed: (Role.SERVER, State.READY),
        Error: (Role.SERVER, State.READY),
    },
    State.RESETTING: {
        Progress: (Role.SERVER, State.RESETTING),
        ResetDone: (Role.SERVER, State.RUNNING),
        Error: (Role.SERVER, State.READY),
    },
    State.RUNNING: {
        Step: (Role.CLIENT, State.STEPPING),
        Reset: (Role.CLIENT, State.RESETTING),
    },
    State.STEPPING: {
        StepDone: (Role.SERVER, State.RUNNING),
        Error: (Role.SERVER, State.RUNNING),
    },
    State.ATTACHING: {
        Observing: (Role.SERVER, State.OBSERVING),
        Error: (Role.SERVER, State.READY),
    },
    State.OBSERVING: {Observation: (Role.SERVER, State.OBSERVING)},
    State.CLOSED: {},
}

OUT_OF_BAND: Final[Mapping[type[Message], Role | None]] = {
    Ping: Role.CLIENT,
    Pong: Role.SERVER,
    Heartbeat: Role.CLIENT,
    Release: Role.CLIENT,
    Released: Role.SERVER,
    EmergencyStop: Role.CLIENT,
    EmergencyStopped: Role.SERVER,
    ReleaseStop: Role.CLIENT,
    StopReleased: Role.SERVER,
    GetStatistics: Role.CLIENT,
    Statistics: Role.SERVER,
    Probe: Role.CLIENT,
    Probed: Role.SERVER,
    Cancel: Role.CLIENT,
    Error: Role.SERVER,
    Bye: None,
}


def diagram() -> str:
    """Return the table as a Mermaid state diagram, for ``docs/protocol.md``."""
    arrows = {Role.CLIENT: "client", Role.SERVER: "server"}
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {State.OPENING.value}"]
    for state, row in TRANSITIONS.items():
        for message_class, (sender, following) in row.items():
            label = f"{message_class.__name__} ({arrows[sender]})"
            lines.append(f"    {state.value} --> {following.value}: {label}")
    lines.append(f"    {State.CLOSED.value} --> [*]")
    return "\n".join(lines)
