"""What the network asks of the control thread, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from remote_env.errors import RemoteEnvError
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import EndReason
from remote_env_server.buffers import Field
from remote_env_server.robot import Outcome

__all__ = [
    "Captured",
    "HoldRequest",
    "Request",
    "ResetRequest",
    "ResetResult",
    "StepRequest",
    "StepResult",
]


@dataclass(frozen=True, slots=True)
class Captured:
    """An observation, by reference, and when it was taken.

    Attributes:
        observation: What the robot's ``get_obs`` returned.
        fields: The same as arrays by stream name, with their stamps.
        tick: Of the control loop.
        time: The robot's clock, in seconds.
        remote: What goes under ``info["remote"]``.
    """

    observation: Any
    fields: Mapping[str, Field]
    tick: int
    time: float
    remote: dict[str, Value]


@dataclass(frozen=True, slots=True)
class ResetResult:
    """An episode has begun; the answer is held back by ``latency`` seconds."""

    episode: int
    captured: Captured
    info: dict[str, Value]
    latency: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step was executed; the answer is held back by ``latency`` seconds."""

    captured: Captured
    outcome: Outcome
    terminated: bool
    truncated: bool
    end_reason: EndReason | None
    latency: float


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """Begin an episode.

    Attributes:
        seed: As in ``gymnasium.Env.reset``.
        options: As in ``gymnasium.Env.reset``.
        streams: Which must deliver before the reset is done.
        is_wanted: Whether who asked still waits for it.
        finish: Told what came of it, on the control thread; once, or once more with an error
            if that could not be sent.
    """

    seed: int | None
    options: Mapping[str, Value] | None
    streams: tuple[str, ...]
    is_wanted: Callable[[], bool]
    finish: Callable[[ResetResult | RemoteEnvError], None]


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Execute an action that the guard has passed.

    Attributes:
        episode: Which one it belongs to.
        step: Which one it is.
        action: A value of the action space.
        finish: Told what came of it, on the control thread; once, or once more with an error
            if that could not be sent.
    """

    episode: int
    step: int
    action: Any
    finish: Callable[[StepResult | RemoteEnvError], None]


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Nobody commands any more: the episode is over, and in realtime the robot holds."""


Request: TypeAlias = ResetRequest | StepRequest | HoldRequest
