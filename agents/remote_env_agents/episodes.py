"""One episode of an evaluation, and the list of those that are still to be done."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium

from remote_env.protocol.wiretypes import EndReason

__all__ = ["Assignment", "Episode", "EpisodeQueue", "Policy", "policy_for_episode", "run_episode"]

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
        seed: It was begun with.
        robot: Url.
        attempt: Which one for this seed, from 1.
        episode_return: Sum of rewards.
        length: In steps.
        is_success: What the robot said at the last step; None if it says nothing.
        end_reason: Why it ended, as in ``EndReason``.
        seed_applied: Whether the robot used the seed.
        seconds: It took.
        spoiled: Why it does not count; "" if it does.
    """

    seed: int
    robot: str
    attempt: int
    episode_return: float
    length: int
    is_success: bool | None
    end_reason: str
    seed_applied: bool
    seconds: float
    spoiled: str = ""


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
    seed: int,
    robot: str = "",
    attempt: int = 1,
    on_step: Callable[[int], object] = lambda step: None,
) -> Episode:
    """Run one episode to its end.

    Args:
        env: A remote robot.
        policy: For this episode; see ``policy_for_episode``.
        seed: To begin with.
        robot: The robot's url, to be noted.
        attempt: Which one it is, to be noted.
        on_step: Called after the reset with 0, and after each step with its number; what it
            raises ends the episode.

    Raises:
        RemoteEnvError: If the robot, the link or the action failed.
    """
    started = time.monotonic()
    observation, info = env.reset(seed=seed)
    seed_applied = bool(info["remote"].get("seed_applied", False))
    on_step(0)
    total, length, is_over, spoiled = 0.0, 0, False, ""
    while not is_over:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        total, length, is_over = total + float(reward), length + 1, terminated or truncated
        if info["remote"].get("invalid_transition") or info["remote"].get("stale"):
            spoiled = info["remote"].get("end_reason") or EndReason.STALE_SENSOR.value
        on_step(length)
    success = info.get("is_success")
    reason = str(info["remote"].get("end_reason", ""))
    return Episode(
        seed=seed,
        robot=robot,
        attempt=attempt,
        episode_return=total,
        length=length,
        is_success=None if success is None else bool(success),
        end_reason=reason,
        seed_applied=seed_applied,
        seconds=time.monotonic() - started,
        spoiled=reason if reason in _SPOILING else spoiled,
    )


@dataclass(frozen=True, slots=True)
class Assignment:
    """An episode that somebody is to do: the key by which it is counted.

    Attributes:
        seed: To begin with.
        attempt: Which one, from 1.
    """

    seed: int
    attempt: int


class EpisodeQueue:
    """Hands out episodes, each until it was done once. Safe to call from any thread.

    Whoever takes an assignment hands it back, in one of three ways: done, spoiled or not begun.

    Args:
        seeds: One for each episode.
        attempts: How often an episode is begun at most.
    """

    def __init__(self, seeds: Sequence[int], *, attempts: int) -> None:
        self._attempts = attempts
        self._waiting = deque(Assignment(seed, 1) for seed in seeds)
        self._in_flight = 0
        self._missing: list[int] = []
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to do any more, or it was stopped."""
        with self._changed:
            return self._is_finished()

    def _is_finished(self) -> bool:
        return self._error is not None or (not self._waiting and not self._in_flight)

    def _is_news(self) -> bool:
        return bool(self._waiting) or self._is_finished()

    @property
    def error(self) -> BaseException | None:
        """What stopped everything, if anything did."""
        with self._changed:
            return self._error

    @property
    def missing(self) -> list[int]:
        """Seeds that were given up, or that nobody did."""
        with self._changed:
            return sorted([*self._missing, *(waiting.seed for waiting in self._waiting)])

    def take(self) -> Assignment | None:
        """Return what to do next, or None when everything is finished.

        Blocks while all that is left is in other hands: it may come back.
        """
        with self._changed:
            while not self._changed.wait_for(self._is_news, timeout=1.0):
                pass
            if self._is_finished():
                return None
            self._in_flight += 1
            return self._waiting.popleft()

    def done(self) -> None:
        """Note that an assignment was done and counts."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def spoiled(self, assignment: Assignment) -> None:
        """Note that an episode does not count; it will be begun again, unless too often."""
        with self._changed:
            self._in_flight -= 1
            if assignment.attempt < self._attempts:
                self._waiting.append(Assignment(assignment.seed, assignment.attempt + 1))
            else:
                self._missing.append(assignment.seed)
            self._changed.notify_all()

    def not_begun(self, assignment: Assignment) -> None:
        """Return an assignment as it was."""
        with self._changed:
            self._in_flight -= 1
            self._waiting.appendleft(assignment)
            self._changed.notify_all()

    def stop(self, error: BaseException) -> None:
        """Hand out nothing any more; the first reason is kept."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until everything is finished; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(self._is_finished, timeout)
