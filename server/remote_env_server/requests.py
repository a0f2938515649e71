"""What the network asks of the control thread, and what it gets back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from remote_env.errors import LeaseError, RemoteEnvError, ResetCancelledError
from remote_env.protocol.records import record
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import EndReason, OnStale
from remote_env.spec import RobotSpec
from remote_env_server.buffers import Field
from remote_env_server.robot import Outcome
from remote_env_server.views import View

__all__ = [
    "Breakdown",
    "Captured",
    "HoldRequest",
    "PendingStep",
    "Request",
    "ResetRequest",
    "ResetResult",
    "StepRequest",
    "StepResult",
    "Watch",
]


@record(frozen=True, slots=True)
class Captured:
    """An observation, by reference, and when it was taken.

    Attributes:
        observation: What the robot's ``get_obs`` returned.
        fields: The same as arrays by stream name, with their stamps.
        tick: Of the control loop.
        time: The robot's clock, in seconds.
        taken_at: The monotonic clock, in seconds.
        remote: What goes under ``info["remote"]``.
    """

    observation: Any
    fields: Mapping[str, Field]
    tick: int
    time: float
    taken_at: float
    remote: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Watch:
    """What a learner observes.

    Attributes:
        streams: By name.
        max_ages: By stream, where it is not what the robot declares, in seconds.
        on_stale: What a step does that finds an older one.
        view: What is sent of them; of the control thread alone.
    """

    streams: tuple[str, ...] = ()
    max_ages: Mapping[str, float] = field(default_factory=dict)
    on_stale: OnStale = OnStale.TRUNCATE
    view: View = field(default_factory=lambda: View(()))

    @classmethod
    def of(
        cls,
        streams: Sequence[str],
        spec: RobotSpec | None = None,
        *,
        max_ages: Mapping[str, float] | None = None,
        on_stale: OnStale = OnStale.TRUNCATE,
    ) -> Watch:
        """Return what a learner observes of a robot that is as it ``requested`` it, if it did."""
        return cls(tuple(streams), max_ages or {}, on_stale, View(streams, spec))


@record(frozen=True, slots=True)
class Breakdown:
    """Where the time of a request went on the control thread, in seconds.

    Attributes:
        queued: Until the control thread took it up.
        worked: In the robot's own code.
        waited: For the end of the control period.
    """

    queued: float = 0.0
    worked: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class ResetResult:
    """An episode has begun; the answer is held back by ``latency`` seconds."""

    episode: int
    captured: Captured
    info: dict[str, Value]
    latency: float
    durations: Breakdown


@record(frozen=True, slots=True)
class StepResult:
    """A step was executed; the answer is held back by ``latency`` seconds.

    Attributes:
        executed: The action, if a limit on the control thread moved it; else None.
    """

    captured: Captured
    outcome: Outcome
    terminated: bool
    truncated: bool
    end_reason: EndReason | None
    latency: float
    durations: Breakdown
    executed: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class ResetRequest:
    """Begin an episode.

    Attributes:
        seed: As in ``gymnasium.Env.reset``.
        options: As in ``gymnasium.Env.reset``.
        max_steps: The learner's own limit of steps, or None.
        watch: Which streams must deliver before the reset is done, and how old they may be.
        received_at: When it came, on the monotonic clock, in seconds.
        is_wanted: Whether who asked still waits for it.
        tell: Told how far the reset is: a fraction, or NaN, and a text.
        cancelled: Set when nobody wants it any more.
        finish: Told what came of it, on the control thread; once, or once more with an error
            if that could not be sent.
    """

    seed: int | None
    options: Mapping[str, Value] | None
    max_steps: int | None
    watch: Watch
    received_at: float
    is_wanted: Callable[[], bool]
    tell: Callable[[float, str], None]
    finish: Callable[[ResetResult | RemoteEnvError], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check_wanted(self) -> None:
        """Refuse to go on for nobody.

        Raises:
            ResetCancelledError: If the learner gave it up.
            LeaseError: If somebody else has the lease now.
        """
        if self.cancelled.is_set():
            raise ResetCancelledError("the reset was cancelled")
        if not self.is_wanted():
            raise LeaseError(
                "the robot was released or taken over during this reset; call env.reset()",
                code="robot.lease.lost",
            )


@record(frozen=True, slots=True, eq=False)
class StepRequest:
    """Execute an action that the guard has passed.

    Attributes:
        episode: Which one it belongs to.
        step: Which one it is.
        action: A value of the action space.
        received_at: When it came, on the monotonic clock, in seconds.
        finish: Told what came of it, on the control thread; once, or once more with an error
            if that could not be sent.
    """

    episode: int
    step: int
    action: Any
    received_at: float
    finish: Callable[[StepResult | RemoteEnvError], None]


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Nobody commands now: in realtime the robot holds.

    Attributes:
        reason: Why the episode is over; None if it may go on.
    """

    reason: EndReason | None


Request: TypeAlias = ResetRequest | StepRequest | HoldRequest


@dataclass(slots=True)
class PendingStep:
    """A step that is answered at the end of its control period.

    Attributes:
        request: Who asked.
        taken_at: When the control thread took it up.
        due: When it is answered; ``tick`` is its number.
        applied_at: When the robot got the action.
        held: For how long it had held before.
        executed: The action, if a limit moved it.
        worked: Seconds in the robot's code so far.
    """

    request: StepRequest
    taken_at: float
    due: float
    tick: int
    applied_at: float = 0.0
    held: float = 0.0
    executed: Any = None
    worked: float = 0.0
