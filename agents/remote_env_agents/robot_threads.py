"""Episodes are done by threads of this process: one for each robot.

The threads do nothing but episodes. What they say goes through one queue to the thread that
called, which alone speaks with the desk, so neither locks nor listeners run beside each other.
A robot that has nothing to do is parked: it holds, and is not stepped. One that fails rests, each
time twice as long, and is tried again for as long as there is anything to do.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gymnasium

from remote_env.errors import ConnectionLostError
from remote_env.protocol.wiretypes import EndReason
from remote_env.timed_queue import TimedQueue
from remote_env_agents.dispatch import Assignment, Desk, RobotEvent
from remote_env_agents.episodes import Episode, Policy, policy_for_episode
from remote_env_agents.executor import Job, LostError

__all__ = ["RobotThreads"]

logger = logging.getLogger(__name__)

_FIRST_REST: Final = 0.2  # how long a robot that failed rests; doubled each time, in seconds
_LONGEST_REST: Final = 5.0
_LOOK: Final = 0.1  # how often it is looked whether all robots are lost, in seconds
_GONE: Final = (EndReason.LINK_LOST.value, EndReason.SERVER_SHUTDOWN.value)


@dataclass(frozen=True, slots=True)
class _Ready:
    """The robot waits for an episode."""

    robot: str


@dataclass(frozen=True, slots=True)
class _Moving:
    """The robot was reset: whatever it was lost for is over."""

    robot: str


@dataclass(frozen=True, slots=True)
class _Over:
    """An episode was done or spoiled; None if it was not even begun."""

    robot: str
    assignment: Assignment
    episode: Episode | None


@dataclass(frozen=True, slots=True)
class _Lost:
    """The robot failed."""

    robot: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Broke:
    """Something failed that no robot is to blame for, such as the policy."""

    error: BaseException


_News = _Ready | _Moving | _Over | _Lost | _Broke


class _StoppedError(Exception):
    """The evaluation was stopped in the middle of an episode."""


class RobotThreads:
    """An ``Executor`` with one thread for each robot."""

    def run(self, job: Job, desk: Desk) -> None:
        """Have everything done.

        Raises:
            RemoteEnvError: What the last robot failed with, if all were lost for longer than
                the patience of the job; or what any robot would refuse.
        """
        _Run(job, desk).run()


class _Run:
    """One run. Everything here is done by the thread that called; ``_Worker`` has the others."""

    def __init__(self, job: Job, desk: Desk) -> None:
        self._job = job
        self._desk = desk
        self._news: TimedQueue[_News] = TimedQueue()
        self._idle: deque[str] = deque()
        # Robots that were lost and not reset since: since when, and why.
        self._away: dict[str, tuple[float, BaseException]] = {}
        self._missed: set[str] = set()  # that were lost, and have done no episode since
        stopping, thinking = threading.Event(), threading.Lock()
        self._stopping = stopping
        self._workers = {
            url: _Worker(job, url, self._news.put, stopping=stopping, thinking=thinking)
            for url in job.urls
        }

    def run(self) -> None:
        for worker in self._workers.values():
            worker.start()
        try:
            while not self._desk.is_finished:
                with contextlib.suppress(queue.Empty):
                    self._take_in(self._news.get(timeout=_LOOK))
                self._give_up_without_robots()
                self._hand_out()
        finally:
            self._stopping.set()
            for worker in self._workers.values():
                worker.stop()
            for worker in self._workers.values():
                worker.join()

    def _hand_out(self) -> None:
        while self._idle and (assignment := self._desk.take()) is not None:
            self._workers[self._idle.popleft()].tell(assignment)

    def _take_in(self, news: _News) -> None:
        if isinstance(news, _Ready):
            self._idle.append(news.robot)
        elif isinstance(news, _Moving):
            self._away.pop(news.robot, None)
        elif isinstance(news, _Lost):
            self._note_lost(news.robot, news.error)
        elif isinstance(news, _Broke):
            raise news.error
        elif news.episode is None:
            self._desk.hand_back(news.assignment)
        else:
            self._take_in_episode(news.assignment, news.episode)

    def _take_in_episode(self, assignment: Assignment, episode: Episode) -> None:
        if not episode.spoiled and episode.robot in self._missed:
            self._missed.remove(episode.robot)
            logger.warning("%s is back", episode.robot)
            self._desk.note(RobotEvent(episode.robot, "returned"))
        elif episode.spoiled in _GONE:
            self._note_lost(episode.robot, ConnectionLostError(episode.spoiled))
        self._desk.hand_in(assignment, episode)
        if episode.spoiled:
            name, why = episode.key.name, episode.spoiled
            logger.warning("seed %s on %s is spoiled (%s)", name, episode.robot, why)

    def _note_lost(self, robot: str, error: BaseException) -> None:
        is_news = robot not in self._missed
        since, _ = self._away.get(robot, (time.monotonic(), error))
        self._away[robot] = since, error
        self._missed.add(robot)
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(level, "%s is out for now: %s", robot, error)
        if is_news:
            self._desk.note(RobotEvent(robot, "lost", str(error)))

    def _give_up_without_robots(self) -> None:
        if len(self._away) < len(self._workers):
            return
        since, error = max(self._away.values(), key=lambda entry: entry[0])
        if time.monotonic() - since > self._job.patience:
            raise error


class _Worker:
    """Does episodes with one robot, on a thread of its own."""

    def __init__(
        self,
        job: Job,
        url: str,
        say: Callable[[_News], object],
        *,
        stopping: threading.Event,
        thinking: threading.Lock,
    ) -> None:
        self._job = job
        self._url = url
        self._say = say
        self._stopping = stopping
        # Stable-Baselines3's policies keep what they have just computed in attributes.
        self._thinking = thinking
        self._inbox: TimedQueue[Assignment | None] = TimedQueue()
        self._rest = _FIRST_REST
        self._env: Any = None
        self._thread = threading.Thread(target=self._work, name=f"remote-env evaluation {url}")

    def start(self) -> None:
        self._thread.start()

    def tell(self, assignment: Assignment) -> None:
        """Give it an episode to do."""
        self._inbox.put(assignment)

    def stop(self) -> None:
        """Let it end, once ``stopping`` is set."""
        self._inbox.put(None)
        self._cancel_reset()

    def join(self) -> None:
        """Wait for its end."""
        while self._thread.is_alive():
            self._cancel_reset()  # again: it may have begun one since
            self._thread.join(_LOOK)

    def _cancel_reset(self) -> None:
        if (env := self._env) is not None:
            env.cancel_reset()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._serve()
                except LostError as lost:
                    self._say(_Lost(self._url, lost.__cause__ or lost))
                    self._take_a_rest()
        except _StoppedError:
            return
        except BaseException as error:  # the policy's, or the caller's own
            self._say(_Broke(error))

    def _serve(self) -> None:
        """Connect, and do episodes until there are none.

        Raises:
            LostError: If the robot failed.
        """
        env = self._job.connect(self._url)
        self._env = env.unwrapped
        try:
            self._say(_Ready(self._url))
            while (assignment := self._next()) is not None:
                episode = self._do(env, assignment)
                self._say(_Over(self._url, assignment, episode))
                if episode.spoiled:
                    self._take_a_rest()
                else:
                    self._rest = _FIRST_REST
                self._say(_Ready(self._url))
        finally:
            self._env = None
            env.close()

    def _next(self) -> Assignment | None:
        while not self._stopping.is_set():
            try:
                return self._inbox.get(timeout=1.0)
            except queue.Empty:
                continue  # parked
        return None

    def _do(self, env: gymnasium.Env[Any, Any], assignment: Assignment) -> Episode:
        def note(step: int) -> None:
            if self._stopping.is_set():
                raise _StoppedError
            if step == 0:
                self._say(_Moving(self._url))

        policy = self._policy_of(assignment.key.seed)
        try:
            return self._job.do(env, assignment, robot=self._url, policy=policy, on_step=note)
        except LostError as lost:
            self._say(_Over(self._url, assignment, lost.spoiled))
            raise

    def _policy_of(self, seed: int) -> Policy:
        with self._thinking:
            policy = policy_for_episode(self._job.policy, seed)

        def act(observation: Any) -> Any:
            with self._thinking:
                return policy(observation)

        return act

    def _take_a_rest(self) -> None:
        self._stopping.wait(self._rest)
        self._rest = min(2 * self._rest, _LONGEST_REST)
