"""The messages of the episode channel, one request at a time; see ``messages.py``."""

from __future__ import annotations

from typing import Any, ClassVar

from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.fields import Arrays, Role, arrays, wire
from remote_env.protocol.records import record
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import (
    ARRAYS,
    BOOL,
    ENCODED_ARRAYS,
    END_REASON,
    FLOAT,
    FLOATS,
    MAP,
    NAMED,
    NUMBER,
    ON_STALE,
    ROLE,
    TEXT,
    TEXTS,
    UINT,
    UINTS,
    VALUE,
    EndReason,
    OnStale,
    optional,
)

__all__ = [
    "Hello",
    "Observation",
    "Observe",
    "Observing",
    "Progress",
    "Reset",
    "ResetDone",
    "Step",
    "StepDone",
    "Subscribe",
    "Subscribed",
    "Welcome",
]


@record(frozen=True, slots=True)
class Hello:
    """The first message: who connects, and what for.

    Attributes:
        id: Of the request; ids of a connection only grow.
        role: ``"control"`` or ``"observe"``.
        token: What the server asks for, if it asks.
        owner: The name shown to whoever is refused because this client commands.
        process: Unique to the client's process; a process may take over from itself.
        client: Program and version, for logs.
        resume: ``Welcome.session`` of a connection that was lost, to go on where it ended;
            else None.
        asking: The id of the request on the episode channel that had no answer when it was
            lost, and that will be sent again; else 0.
    """

    KIND: ClassVar[int] = 1
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    role: str = wire(ROLE)
    token: str | None = wire(optional(TEXT), repr=False)
    owner: str = wire(TEXT)
    process: str = wire(TEXT)
    client: str = wire(TEXT)
    resume: str | None = wire(optional(TEXT), repr=False)
    asking: int = wire(UINT)


@record(frozen=True, slots=True)
class Welcome:
    """Everything about the robot that does not change.

    Attributes:
        id: Of the ``Hello``.
        session: What to show to resume after a lost connection. A secret.
        resumed: Whether everything is as it was when the connection was lost: state, ids,
            subscription, lease, episode.
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
    session: str = wire(TEXT, repr=False)
    resumed: bool = wire(BOOL)
    server: str = wire(TEXT)
    spec_hash: str = wire(TEXT)
    capabilities: tuple[str, ...] = wire(TEXTS)
    max_frame_size: int = wire(UINT)
    streams: tuple[ArraySpec, ...] = wire(ARRAYS)
    subscribed: tuple[str, ...] = wire(TEXTS)
    action: tuple[ArraySpec, ...] = wire(ARRAYS)
    metadata: dict[str, Value] = wire(NAMED)


@record(frozen=True, slots=True)
class Subscribe:
    """Choose the arrays of every later observation, and their order.

    Attributes:
        id: Of the request.
        streams: Names out of ``Welcome.streams``.
        max_ages: By stream, from which age on it is stale, in seconds, where that is not
            what the metadata say.
        on_stale: What a step does that finds a stale stream, in realtime.
        kept: Those of ``streams`` of which this client keeps the newest array, so that it need
            not be sent again.
        requests: By stream, what it should be in place of what the robot has, and how often; see
            ``docs/protocol.md``.
    """

    KIND: ClassVar[int] = 3
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    streams: tuple[str, ...] = wire(TEXTS)
    max_ages: dict[str, Value] = wire(NAMED)
    on_stale: OnStale = wire(ON_STALE)
    kept: tuple[str, ...] = wire(TEXTS, default=())
    requests: dict[str, Value] = wire(NAMED, default_factory=dict)


@record(frozen=True, slots=True)
class Subscribed:
    """From now on observations hold these arrays, in this order.

    Attributes:
        id: Of the request.
        streams: As in the ``Subscribe``.
        derived: Those of them that are not as ``Welcome.streams`` says.
    """

    KIND: ClassVar[int] = 4
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    streams: tuple[str, ...] = wire(TEXTS)
    derived: tuple[ArraySpec, ...] = wire(ENCODED_ARRAYS, default=())


@record(frozen=True, slots=True)
class Reset:
    """Begin an episode; takes the lease.

    Attributes:
        id: Of the request.
        seed: For the robot's random numbers, or None.
        options: As in ``gymnasium.Env.reset``.
        take: Whether to take the lease from another owner.
        max_steps: The learner's own limit of steps, beside the robot's, or None.
    """

    KIND: ClassVar[int] = 5
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    seed: int | None = wire(optional(UINT))
    options: dict[str, Value] | None = wire(optional(NAMED))
    take: bool = wire(BOOL)
    max_steps: int | None = wire(optional(UINT))


@record(frozen=True, slots=True)
class Progress:
    """How far a reset is, while it lasts; any number of them before its answer.

    Attributes:
        id: Of the ``Reset``.
        fraction: From 0 to 1; NaN if the robot cannot tell.
        text: What the robot does, for people.
    """

    KIND: ClassVar[int] = 17
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    fraction: float = wire(FLOAT)
    text: str = wire(TEXT)


@record(frozen=True, slots=True)
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
        received: The server's monotonic clock when the request came, in seconds.
        sent: The same when this answer was written.
        durations: Seconds of that spent in the control thread's queue, in the robot's code,
            and in waiting for the end of the control period; fourth, since the observation
            was taken.
        info: The robot's own.
        remote: Ours: what goes under ``info["remote"]``.
        observation: The subscribed arrays.
    """

    KIND: ClassVar[int] = 6
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    episode: int = wire(UINT)
    tick: int = wire(UINT)
    time: float = wire(FLOAT)
    sequences: tuple[int, ...] = wire(UINTS)
    stamps: tuple[float, ...] = wire(FLOATS)
    received: float = wire(FLOAT)
    sent: float = wire(FLOAT)
    durations: tuple[float, ...] = wire(FLOATS)
    info: dict[str, Value] = wire(MAP)
    remote: dict[str, Value] = wire(NAMED)
    observation: Arrays = arrays("observation")


@record(frozen=True, slots=True)
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
    episode: int = wire(UINT)
    step: int = wire(UINT)
    tick: int = wire(UINT)
    dtypes: tuple[str, ...] = wire(TEXTS)
    action: Arrays = arrays("action")


@record(frozen=True, slots=True)
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
        received: See ``ResetDone``.
        sent: See ``ResetDone``.
        durations: See ``ResetDone``.
        info: The robot's own.
        remote: Ours.
        unchanged: Which of the subscribed arrays, by index and ascending, are those of the
            answer before and have no bytes in this frame.
        observation: The subscribed arrays. As ``decode`` returns them those that are unchanged
            are missing; ``Connection.receive`` puts them in.
    """

    KIND: ClassVar[int] = 8
    SENDER: ClassVar[Role] = Role.SERVER
    id: int
    episode: int = wire(UINT)
    step: int = wire(UINT)
    tick: int = wire(UINT)
    time: float = wire(FLOAT)
    reward: Any = wire(VALUE)
    terminated: bool = wire(BOOL)
    truncated: bool = wire(BOOL)
    end_reason: EndReason | None = wire(optional(END_REASON))
    sequences: tuple[int, ...] = wire(UINTS)
    stamps: tuple[float, ...] = wire(FLOATS)
    received: float = wire(FLOAT)
    sent: float = wire(FLOAT)
    durations: tuple[float, ...] = wire(FLOATS)
    info: dict[str, Value] = wire(MAP)
    remote: dict[str, Value] = wire(NAMED)
    unchanged: tuple[int, ...] = wire(UINTS, default=())
    observation: Arrays = arrays("observation")


@record(frozen=True, slots=True)
class Observe:
    """Watch: from now on the server sends an ``Observation`` whenever there is a new one.

    Attributes:
        id: Of the request.
        hz: At most so many a second.
    """

    KIND: ClassVar[int] = 24
    SENDER: ClassVar[Role] = Role.CLIENT
    id: int
    hz: float = wire(NUMBER)


@record(frozen=True, slots=True)
class Observing:
    """Observations follow, the first at once if there is one."""

    KIND: ClassVar[int] = 25
    SENDER: ClassVar[Role] = Role.SERVER
    id: int


@record(frozen=True, slots=True)
class Observation:
    """The newest of every subscribed stream, for an observer; has ``id`` 0.

    Attributes:
        episode: Which one the robot is in; 0 before the first.
        step: Steps executed in it.
        time: The robot's clock when the observation was taken, in seconds.
        sent: The server's monotonic clock when this was written, in seconds.
        dropped: Observations that were due and not sent because this client had not read the
            one before, since the ``Observe``.
        sequences: See ``ResetDone``; 0 for a stream that has not delivered.
        stamps: See ``ResetDone``.
        remote: Ours: who commands, whether the robot is stopped.
        unchanged: See ``StepDone``; those of the ``Observation`` before.
        observation: See ``StepDone``.
    """

    KIND: ClassVar[int] = 26
    SENDER: ClassVar[Role] = Role.SERVER
    episode: int = wire(UINT)
    step: int = wire(UINT)
    time: float = wire(FLOAT)
    sent: float = wire(FLOAT)
    dropped: int = wire(UINT)
    sequences: tuple[int, ...] = wire(UINTS)
    stamps: tuple[float, ...] = wire(FLOATS)
    remote: dict[str, Value] = wire(NAMED)
    unchanged: tuple[int, ...] = wire(UINTS, default=())
    observation: Arrays = arrays("observation")
    id: int = 0
