"""Which episode is to be done next, and which are done: without robots, threads and clocks.

Whoever has episodes done, an ``Executor`` (``executor.py``), takes assignments from the ``Desk``
and hands each back exactly once. Each assignment has a ticket, so what is handed in twice, or by
somebody who was given up, counts for nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from remote_env_agents.episodes import Episode
from remote_env_agents.keys import EpisodeKey, check_different

__all__ = ["Assignment", "Desk", "EpisodeQueue", "Record", "RobotEvent"]

ATTEMPTS: Final = 4  # the first, and three more
_RESETS: Final = 20  # that may fail before the first step, of one episode


@dataclass(frozen=True, slots=True)
class Assignment:
    """An episode that somebody is to do.

    Attributes:
        key: What to begin with.
        attempt: Which one of this key, from 1.
        ticket: Of this assignment alone.
    """

    key: EpisodeKey
    attempt: int
    ticket: int


class EpisodeQueue:
    """Hands out episodes, each until it was done once. For one thread.

    Whoever takes an assignment hands it back, in one of three ways: done, spoiled or not begun.
    These return whether it was open: an assignment that was handed back before changes nothing.

    Args:
        keys: Of the episodes, all different; handed out in this order.
        attempts: How often an episode is begun at most, from now on.
        counted: Those that were done before.
        begun: How often others were begun before: attempts are counted on from there.

    Raises:
        ConfigurationError: If two keys are the same.
    """

    def __init__(
        self,
        keys: Sequence[EpisodeKey],
        *,
        attempts: int = ATTEMPTS,
        counted: Collection[EpisodeKey] = (),
        begun: Mapping[EpisodeKey, int] | None = None,
    ) -> None:
        check_different(keys)
        self._keys = tuple(keys)
        self._counted = set(counted) & set(keys)
        self._begun = Counter(begun or {})
        self._tries_left = dict.fromkeys(keys, attempts)
        self._resets_left = dict.fromkeys(keys, _RESETS)
        self._waiting = deque(key for key in keys if key not in self._counted)
        self._open: dict[int, Assignment] = {}
        self._tickets = 0

    @property
    def counted(self) -> int:
        """How many episodes were done."""
        return len(self._counted)

    @property
    def waiting(self) -> int:
        """How many can be taken now."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many were taken and not handed back."""
        return len(self._open)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to do any more."""
        return not self._waiting and not self._open

    @property
    def missing(self) -> tuple[EpisodeKey, ...]:
        """What was not done, in the order of the keys."""
        return tuple(key for key in self._keys if key not in self._counted)

    def take(self) -> Assignment | None:
        """Return what to do next; None if all that is left, if anything, is in other hands."""
        if not self._waiting:
            return None
        key = self._waiting.popleft()
        self._tickets += 1
        assignment = Assignment(key, self._begun[key] + 1, self._tickets)
        self._open[assignment.ticket] = assignment
        return assignment

    def is_open(self, assignment: Assignment) -> bool:
        """Whether this was taken and not handed back."""
        return self._open.get(assignment.ticket) == assignment

    def done(self, assignment: Assignment) -> bool:
        """Note that an episode was done and counts."""
        if not self._close(assignment):
            return False
        self._counted.add(assignment.key)
        return True

    def spoiled(self, assignment: Assignment) -> bool:
        """Note that an episode does not count; it will be begun again, unless too often."""
        if not self._close(assignment):
            return False
        self._begun[assignment.key] += 1
        self._queue_again(assignment.key, self._tries_left)
        return True

    def not_begun(self, assignment: Assignment) -> bool:
        """Note that the reset failed; this is no attempt, but it is not tried for ever either."""
        if not self._close(assignment):
            return False
        self._queue_again(assignment.key, self._resets_left)
        return True

    def _close(self, assignment: Assignment) -> bool:
        if not self.is_open(assignment):
            return False
        del self._open[assignment.ticket]
        return True

    def _queue_again(self, key: EpisodeKey, left: dict[EpisodeKey, int]) -> None:
        """Put it at the end: what hinders one episode does not hold up the others."""
        left[key] -= 1
        if left[key] > 0:
            self._waiting.append(key)


@dataclass(frozen=True, slots=True)
class RobotEvent:
    """A robot was lost, or returned.

    Attributes:
        robot: Url.
        what: Which of them.
        why: What it failed with; "" if it returned.
    """

    robot: str
    what: Literal["lost", "returned"]
    why: str = ""


class Record(Protocol):
    """Where an evaluation is written down, so that nothing is lost with this process."""

    def add(self, episode: Episode) -> None:
        """Write down an episode; it is safe when this returns."""

    def note(self, event: RobotEvent) -> None:
        """Write down what happened to a robot."""


class Desk:
    """Where episodes are taken and handed in. For one thread.

    An episode is written down before it is counted, and counted before anybody is told.

    Attributes:
        episodes: That count.
        spoiled: That do not.
        events: What happened to robots.

    Args:
        queue: What is to be done.
        record: Where it is written down; None for nowhere.
        on_episode: Told of each episode, also of a spoiled one.
    """

    def __init__(
        self,
        queue: EpisodeQueue,
        *,
        record: Record | None = None,
        on_episode: Callable[[Episode], object] = lambda episode: None,
    ) -> None:
        self.episodes: list[Episode] = []
        self.spoiled: list[Episode] = []
        self.events: list[RobotEvent] = []
        self._queue = queue
        self._record = record
        self._on_episode = on_episode

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to do any more."""
        return self._queue.is_finished

    @property
    def waiting(self) -> int:
        """How many episodes can be taken now."""
        return self._queue.waiting

    def take(self) -> Assignment | None:
        """Return what to do next; None if all that is left, if anything, is in other hands."""
        return self._queue.take()

    def hand_in(self, assignment: Assignment, episode: Episode) -> bool:
        """Take in an episode that was done or spoiled.

        Returns:
            Whether it was taken in: False if this assignment was handed back before.
        """
        if not self._queue.is_open(assignment):
            return False
        if self._record is not None:
            self._record.add(episode)
        if episode.spoiled:
            self.spoiled.append(episode)
            self._queue.spoiled(assignment)
        else:
            self.episodes.append(episode)
            self._queue.done(assignment)
        self._on_episode(episode)
        return True

    def hand_back(self, assignment: Assignment) -> bool:
        """Take back an episode whose reset failed; returns as ``hand_in`` does."""
        return self._queue.not_begun(assignment)

    def note(self, event: RobotEvent) -> None:
        """Note that a robot was lost, or returned."""
        if self._record is not None:
            self._record.note(event)
        self.events.append(event)
