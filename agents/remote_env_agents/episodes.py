"""One episode of an evaluation: what it is, and how it is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import gymnasium

from remote_env.protocol.wiretypes import EndReason
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.step_times import StepTimes

__all__ = ["Episode", "Policy", "policy_for_episode", "run_episode"]

# A policy: takes an observation and returns an action. If what it does depends on chance or on
# what it saw before, it has a method ``for_episode(seed)`` that returns a fresh one. If it wants
# to see something else than robots show, it has a method ``wrap(env)``.
Policy = Callable[[Any], Any]

# An episode that ended so says nothing about the policy.
_SPOILING: Final = frozenset(
    {
        EndReason.OPERATOR.value,
        EndReason.EMERGENCY_STOP.value,
        EndReason.STALE_SENSOR.value,
        EndReason.LINK_LOST.value,
        EndReason.SERVER_SHUTDOWN.value,
    }
)


@dataclass(frozen=True, slots=True)
class Episode:
    """What came of one episode.

    Attributes:
        key: The seed and the options that it was begun with.
        robot: Url.
        attempt: Which one for this key, from 1.
        episode_return: Sum of rewards; NaN if it does not count.
        length: In steps.
        is_success: What the robot said at the last step; None if it says nothing.
        end_reason: Why it ended, as in ``EndReason``.
        seed_applied: Whether the robot used the seed.
        seconds: It took; NaN if it does not count.
        step_times: From the call of each step to its answer.
        period_errors: By how much each period, from one answered step to the next, was longer or
            shorter than the robot's control period; empty in lockstep.
        overruns: Control periods that the robot missed.
        spoiled: Why it does not count; "" if it does.
    """

    key: EpisodeKey
    robot: str
    attempt: int
    episode_return: float
    length: int
    is_success: bool | None
    end_reason: str
    seed_applied: bool
    seconds: float
    step_times: StepTimes = field(default_factory=StepTimes)
    period_errors: StepTimes = field(default_factory=StepTimes)
    overruns: int = 0
    spoiled: str = ""

    @property
    def seed(self) -> int:
        """It was begun with."""
        return self.key.seed


def policy_for_episode(policy: Policy, seed: int) -> Policy:
    """Return the policy for one episode: a fresh one, if it has a memory or chance of its own."""
    fresh = getattr(policy, "for_episode", None)
    if fresh is None:
        return policy
    made: Policy = fresh(seed)
    return made


def run_episode(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    *,
    key: EpisodeKey,
    robot: str = "",
    attempt: int = 1,
    control_period: float = 0.0,
    on_step: Callable[[int], object] = lambda step: None,
) -> Episode:
    """Run one episode to its end.

    Args:
        env: A remote robot.
        policy: For this episode; see ``policy_for_episode``.
        key: What to begin with.
        robot: The robot's url, to be noted.
        attempt: Which one it is, to be noted.
        control_period: What periods should be, in seconds; 0 in lockstep.
        on_step: Called after the reset with 0, and after each step with its number; what it
            raises ends the episode.

    Raises:
        RemoteEnvError: If the robot, the link or the action failed.
    """
    began_at = time.monotonic()
    observation, info = env.reset(seed=key.seed, options=dict(key.options) or None)
    remote = info["remote"]
    seed_applied, missed = bool(remote.get("seed_applied", False)), remote.get("overruns", 0)
    on_step(0)
    total, length, is_over = 0.0, 0, False
    spoiled = EndReason.STALE_SENSOR.value if remote.get("stale") else ""
    took: list[float] = []
    off: list[float] = []
    while not is_over:
        action = policy(observation)
        asked_at = time.perf_counter()
        observation, reward, terminated, truncated, info = env.step(action)
        took.append(time.perf_counter() - asked_at)
        total, length, is_over = total + float(reward), length + 1, terminated or truncated
        remote = info["remote"]
        if control_period and "period" in remote.get("timing", ()):
            off.append(abs(remote["timing"]["period"] - control_period))
        if remote.get("invalid_transition") or remote.get("stale"):
            spoiled = EndReason.STALE_SENSOR.value  # unless another fault ends it
        on_step(length)
    success = info.get("is_success")
    reason = str(remote.get("end_reason", ""))
    return Episode(
        key=key,
        robot=robot,
        attempt=attempt,
        episode_return=total,
        length=length,
        is_success=None if success is None else bool(success),
        end_reason=reason,
        seed_applied=seed_applied,
        seconds=time.monotonic() - began_at,
        step_times=StepTimes.of(took),
        period_errors=StepTimes.of(off),
        overruns=max(0, remote.get("overruns", 0) - missed),
        spoiled=reason if reason in _SPOILING else spoiled,
    )
