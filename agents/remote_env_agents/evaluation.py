"""Evaluation: a fixed list of episodes, handed to whichever robot is free.

Every seed counts exactly once, whatever happens to the robots. One thread serves each robot;
a robot that has nothing to do is parked, not stepped. A robot that is lost rests, and is tried
again for as long as there is anything to do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np

from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LocalProtocolError,
    RemoteEnvError,
)
from remote_env_agents.config import FIRST_EVALUATION_SEED
from remote_env_agents.episodes import (
    Assignment,
    Episode,
    EpisodeQueue,
    Policy,
    policy_for_episode,
    run_episode,
)
from remote_env_agents.intervals import wilson
from remote_env_agents.policies import as_policy
from remote_env_agents.robots import limit_for, look_at, make_env
from remote_env_agents.wrapping import wrap_for

__all__ = ["Evaluation", "evaluate"]

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 4  # the first, and three more
_FIRST_REST: Final = 0.2  # how long a robot that failed rests; doubled each time, in seconds
_LONGEST_REST: Final = 5.0
_RECONNECT: Final = 2.0  # others wait for the episode that a lost robot has in its hands


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        episodes: Those that count, one for each seed, by seed.
        spoiled: Those that do not, and were run again.
        missing: Seeds that were spoiled each time, and of which nothing is known.
        robots: Urls.
        seconds: It took in all.
    """

    episodes: tuple[Episode, ...]
    spoiled: tuple[Episode, ...]
    missing: tuple[int, ...]
    robots: tuple[str, ...]
    seconds: float

    @property
    def successes(self) -> int | None:
        """How many episodes succeeded; None if the robot says nothing of success."""
        said = [episode.is_success for episode in self.episodes]
        return None if not said or None in said else sum(map(bool, said))

    @property
    def success_rate(self) -> float | None:
        """Of the episodes that count; None if the robot says nothing of success."""
        return None if self.successes is None else self.successes / len(self.episodes)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the success rate, after Wilson."""
        return None if self.successes is None else wilson(self.successes, len(self.episodes))

    @property
    def mean_return(self) -> float:
        """Mean sum of rewards; NaN without episodes."""
        return _mean([episode.episode_return for episode in self.episodes])

    @property
    def std_return(self) -> float:
        """Standard deviation of the sums of rewards between episodes; NaN without episodes."""
        returns = [episode.episode_return for episode in self.episodes]
        return float(np.std(returns)) if returns else float("nan")

    @property
    def mean_length(self) -> float:
        """In steps; NaN without episodes."""
        return _mean([episode.length for episode in self.episodes])

    @property
    def steps(self) -> int:
        """Of all episodes that count."""
        return sum(episode.length for episode in self.episodes)

    @property
    def steps_per_second(self) -> float:
        """Of all robots together."""
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def end_reasons(self) -> dict[str, int]:
        """How many episodes ended why, the most frequent first."""
        return dict(Counter(episode.end_reason for episode in self.episodes).most_common())

    def of_robot(self, url: str) -> Evaluation:
        """Return what this robot did; ``seconds`` are those in which it was busy."""
        own = tuple(episode for episode in self.episodes if episode.robot == url)
        spoiled = tuple(episode for episode in self.spoiled if episode.robot == url)
        busy = sum(episode.seconds for episode in own)
        return Evaluation(own, spoiled, (), (url,), busy)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def evaluate(
    policy: Any,
    urls: Sequence[str],
    *,
    episodes: int = 200,
    seed: int = FIRST_EVALUATION_SEED,
    streams: Sequence[str] | None = None,
    token: str | None = None,
    patience: float = 30.0,
    on_episode: Callable[[Episode], object] = lambda episode: None,
) -> Evaluation:
    """Run a policy on robots of one kind, once for each seed. They move.

    An episode that a fault spoiled (the link was lost, a sensor was stale, somebody stopped the
    robot) does not count and is run again, up to 3 times, by whichever robot is free. On robots
    that set no limit themselves, an episode is truncated after 1000 steps.

    Args:
        policy: A function from observation to action; a model of Stable-Baselines3, or the
            path of one, which act deterministically (a policy file is code: name only one
            that you trust); or ``"random"``. It is called from several threads, but never by
            two at once. If it has ``for_episode(seed)``, the policy that this returns is used
            for one episode.
        urls: Of the robots.
        episodes: How many.
        seed: Of the first one; the next one gets the next number.
        streams: The streams that the policy wants; those that the model was trained with, or
            else the robot's own observation space, if None.
        token: What the robots' servers ask for, if they do.
        patience: For how long all robots together may be lost before it fails, in seconds.
        on_episode: Called for each episode, also a spoiled one, as soon as it is over; never
            by two threads at once.

    Raises:
        ConfigurationError: If the policy does not fit these robots.
        ActionRefusedError: If a robot refuses what the policy wants.
        TransportError: If a robot cannot be reached at the beginning.
        RemoteEnvError: If all robots are lost: what the last one failed with.
    """
    if not urls or episodes < 1:
        raise ConfigurationError(f"{episodes} episodes on {len(urls)} robots are none")
    spec = look_at(urls, token=token)
    acting = as_policy(policy, spec)
    wanted = getattr(acting, "streams", None) if streams is None else streams
    run = _Run(
        policy=acting,
        streams=wanted,
        token=token,
        max_steps=limit_for(spec),
        queue=EpisodeQueue(range(seed, seed + episodes), attempts=_ATTEMPTS),
        on_episode=on_episode,
        patience=patience,
    )
    return run.over(tuple(urls))


class _LostError(Exception):
    """A robot failed with ``__cause__``; another one may do better."""


class _Run:
    """One evaluation while it runs.

    The threads share the queue, and under ``_lock`` the results and who is lost since when.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        streams: Sequence[str] | None,
        token: str | None,
        max_steps: int | None,
        queue: EpisodeQueue,
        on_episode: Callable[[Episode], object],
        patience: float,
    ) -> None:
        self._policy = policy
        self._streams = streams
        self._token = token
        self._max_steps = max_steps
        self._queue = queue
        self._on_episode = on_episode
        self._patience = patience
        self._lock = threading.Lock()
        # Stable-Baselines3's policies keep what they have just computed in attributes.
        self._thinking = threading.Lock()
        self._counted: list[Episode] = []
        self._spoiled: list[Episode] = []
        self._lost: dict[str, tuple[float, BaseException]] = {}

    def over(self, urls: tuple[str, ...]) -> Evaluation:
        started = time.monotonic()
        threads = [
            threading.Thread(target=self._serve, args=(url,), name=f"remote-env evaluation {url}")
            for url in urls
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._queue.wait(0.1):
                self._give_up_without_robots(len(urls))
        except BaseException as error:  # Ctrl-C
            self._queue.stop(error)
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._queue.error is not None:
            raise self._queue.error
        return Evaluation(
            episodes=tuple(sorted(self._counted, key=lambda episode: episode.seed)),
            spoiled=tuple(self._spoiled),
            missing=tuple(self._queue.missing),
            robots=urls,
            seconds=time.monotonic() - started,
        )

    def _give_up_without_robots(self, robots: int) -> None:
        with self._lock:
            lost = list(self._lost.values())
        if len(lost) < robots:
            return
        since, error = max(lost, key=lambda entry: entry[0])
        if time.monotonic() - since > self._patience:
            self._queue.stop(error)

    def _serve(self, url: str) -> None:
        """Do episodes with one robot until there are none; on a thread of its own."""
        rest = _FIRST_REST
        while not self._queue.is_finished:
            try:
                env = self._connect(url)
                try:
                    while self._do_one(env, url):
                        rest = _FIRST_REST
                finally:
                    env.close()
            except _LostError as lost:
                self._note_lost(url, lost.__cause__ or lost)
                self._queue.wait(rest)
                rest = min(2 * rest, _LONGEST_REST)
            except BaseException as error:  # the policy, or a listener: the caller's own
                self._queue.stop(error)

    def _connect(self, url: str) -> gymnasium.Env[Any, Any]:
        try:
            env = make_env(
                url,
                streams=self._streams,
                token=self._token,
                max_steps=self._max_steps,
                reconnect_timeout=_RECONNECT,
            )
        except ConfigurationError:
            raise
        except RemoteEnvError as error:
            raise _LostError from error
        return wrap_for(self._policy, env)

    def _do_one(self, env: gymnasium.Env[Any, Any], url: str) -> bool:
        """Do one episode; returns whether there was any.

        Raises:
            _LostError: If the robot failed.
        """
        assignment = self._queue.take()
        if assignment is None:
            return False
        steps = -1  # not even begun

        def note(step: int) -> None:
            nonlocal steps
            steps = step
            if self._queue.error is not None:
                raise _StoppedError

        try:
            episode = run_episode(
                env,
                self._policy_of(assignment.seed),
                seed=assignment.seed,
                robot=url,
                attempt=assignment.attempt,
                on_step=note,
            )
        except _StoppedError:
            return False
        except (ActionRefusedError, ConfigurationError, LocalProtocolError):
            raise
        except RemoteEnvError as error:
            self._hand_back(assignment, url, steps, error)
            raise _LostError from error
        self._take_in(assignment, episode)
        return True

    def _policy_of(self, seed: int) -> Policy:
        with self._thinking:
            policy = policy_for_episode(self._policy, seed)

        def act(observation: Any) -> Any:
            with self._thinking:
                return policy(observation)

        return act

    def _hand_back(
        self, assignment: Assignment, url: str, steps: int, error: RemoteEnvError
    ) -> None:
        if steps < 0:
            self._queue.not_begun(assignment)
            return
        spoiled = Episode(
            seed=assignment.seed,
            robot=url,
            attempt=assignment.attempt,
            episode_return=float("nan"),
            length=steps,
            is_success=None,
            end_reason="",
            seed_applied=False,
            seconds=float("nan"),
            spoiled=str(error),
        )
        self._take_in(assignment, spoiled)

    def _take_in(self, assignment: Assignment, episode: Episode) -> None:
        with self._lock:
            self._lost.pop(episode.robot, None)
            (self._spoiled if episode.spoiled else self._counted).append(episode)
            self._on_episode(episode)
        if episode.spoiled:
            logger.warning(
                "seed %d on %s is spoiled (%s)", episode.seed, episode.robot, episode.spoiled
            )
            self._queue.spoiled(assignment)
        else:
            self._queue.done()

    def _note_lost(self, url: str, error: BaseException) -> None:
        with self._lock:
            is_news = url not in self._lost
            since, _ = self._lost.get(url, (time.monotonic(), error))
            self._lost[url] = since, error
        logger.log(
            logging.WARNING if is_news else logging.DEBUG, "%s is out for now: %s", url, error
        )


class _StoppedError(Exception):
    """The evaluation was stopped in the middle of an episode."""
