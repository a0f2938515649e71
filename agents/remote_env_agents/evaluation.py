"""Evaluation: a fixed list of episodes, handed to whichever robot is free.

Every episode counts exactly once, whatever happens to the robots or to this process: the list is
fixed before the first one (``keys.py``), who does what is decided at one desk (``dispatch.py``),
and what is done is written down before it counts (``results.py``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remote_env.errors import ConfigurationError, TransportError
from remote_env.joint import check_urls
from remote_env.spec import Mode, RobotSpec
from remote_env.version import __version__
from remote_env_agents.about import About, PolicyIdentity
from remote_env_agents.comparing import Difference, Sample, bootstrap_mean, compare, wilson
from remote_env_agents.config import FIRST_EVALUATION_SEED
from remote_env_agents.dispatch import Desk, EpisodeQueue, RobotEvent
from remote_env_agents.episodes import Episode, Policy
from remote_env_agents.executor import Executor, Job
from remote_env_agents.keys import EpisodeKey, check_different, cross, hash_of_keys
from remote_env_agents.policies import as_policy
from remote_env_agents.results import Recorded, ResultsFile, begun_before, read_results
from remote_env_agents.robot_threads import RobotThreads
from remote_env_agents.robots import limit_for, look_at
from remote_env_agents.step_times import StepTimes

__all__ = ["Evaluation", "complete_results", "evaluate", "list_of_episodes", "look_at_robots"]


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        episodes: Those that count, each once, in the order of the list.
        spoiled: Those that do not, and were run again.
        missing: Of the list, what was not done.
        robots: Urls.
        seconds: It took in all; of all sessions, if it was gone on with.
        about: What was evaluated.
        events: Robots that were lost, and that returned, in this order.
        sessions: How often it was begun or gone on with.
    """

    episodes: tuple[Episode, ...]
    spoiled: tuple[Episode, ...]
    missing: tuple[EpisodeKey, ...]
    robots: tuple[str, ...]
    seconds: float
    about: About
    events: tuple[RobotEvent, ...] = ()
    sessions: int = 1

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
    def returns(self) -> tuple[float, ...]:
        """Sums of rewards, episode by episode."""
        return tuple(episode.episode_return for episode in self.episodes)

    @property
    def mean_return(self) -> float:
        """Mean sum of rewards; NaN without episodes."""
        return _mean(self.returns)

    @property
    def return_interval(self) -> tuple[float, float]:
        """95 % interval of the mean return, by the bootstrap; NaN with less than 2 episodes."""
        return bootstrap_mean(self.returns)

    @property
    def std_return(self) -> float:
        """Standard deviation of the sums of rewards between episodes; NaN without episodes."""
        return float(np.std(self.returns)) if self.returns else float("nan")

    @property
    def median_return(self) -> float:
        """Median sum of rewards; NaN without episodes."""
        return float(np.median(self.returns)) if self.returns else float("nan")

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
    def step_times(self) -> StepTimes:
        """How long steps took, as the client saw it."""
        return StepTimes.together(episode.step_times for episode in self.episodes)

    @property
    def period_errors(self) -> StepTimes:
        """How far periods were from the robot's control period; empty in lockstep."""
        return StepTimes.together(episode.period_errors for episode in self.episodes)

    @property
    def overruns(self) -> int:
        """Control periods that robots missed."""
        return sum(episode.overruns for episode in self.episodes)

    @property
    def end_reasons(self) -> dict[str, int]:
        """How many episodes ended why, the most frequent first."""
        return dict(Counter(episode.end_reason for episode in self.episodes).most_common())

    @property
    def deaths(self) -> int:
        """How often a robot was lost."""
        return sum(event.what == "lost" for event in self.events)

    def of_robot(self, url: str) -> Evaluation:
        """Return what this robot did; ``seconds`` are those in which it was busy."""
        return self._part(lambda episode: episode.robot == url, (url,))

    def with_options(self, text: str) -> Evaluation:
        """Return the episodes with these options, as ``EpisodeKey.text_of_options`` has them."""
        part = self._part(lambda episode: episode.key.text_of_options == text, self.robots)
        return replace(part, events=())  # robots are lost whatever the options

    def _part(self, is_in: Callable[[Episode], bool], robots: tuple[str, ...]) -> Evaluation:
        own = tuple(filter(is_in, self.episodes))
        return Evaluation(
            episodes=own,
            spoiled=tuple(filter(is_in, self.spoiled)),
            missing=(),
            robots=robots,
            seconds=sum(episode.seconds for episode in own),
            about=self.about,
            events=tuple(event for event in self.events if event.robot in robots),
            sessions=self.sessions,
        )

    def differences(self) -> tuple[Difference, ...]:
        """Compare each robot with the rest, in success and in return."""
        each = [self.of_robot(url) for url in self.robots]
        return compare([Sample(own.robots[0], own.returns, own.successes) for own in each])

    @classmethod
    def of_record(cls, found: Recorded) -> Evaluation:
        """Return what stands in a file of results, finished or not."""
        return cls(
            episodes=_sorted(found.episodes, found.keys),
            spoiled=found.spoiled,
            missing=found.missing,
            robots=found.robots,
            seconds=found.seconds,
            about=found.about,
            events=found.events,
            sessions=found.sessions,
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _sorted(episodes: Sequence[Episode], keys: Sequence[EpisodeKey]) -> tuple[Episode, ...]:
    place = {key: number for number, key in enumerate(keys)}
    return tuple(sorted(episodes, key=lambda episode: place[episode.key]))


def evaluate(
    policy: Any,
    urls: Sequence[str],
    *,
    episodes: int | Sequence[EpisodeKey] = 200,
    seed: int = FIRST_EVALUATION_SEED,
    options: Sequence[Mapping[str, Any]] = (),
    streams: Sequence[str] | None = None,
    token: str | None = None,
    results: str | Path | None = None,
    identity: PolicyIdentity | None = None,
    patience: float = 30.0,
    on_episode: Callable[[Episode], object] = lambda episode: None,
    executor: Executor | None = None,
    spec: RobotSpec | None = None,
) -> Evaluation:
    """Run a policy on robots of one kind, once for each episode of a list. They move.

    An episode that a fault spoiled (the link was lost, a sensor was stale, somebody stopped the
    robot) does not count and is run again, up to 3 times, by whichever robot is free. On robots
    that set no limit themselves, an episode is truncated after 1000 steps.

    With ``results``, each episode is on the disk as soon as it is over, and the same call goes
    on where an earlier one was killed: it does only what is missing.

    Args:
        policy: A function from observation to action; a model of Stable-Baselines3, or the
            path of one, which act deterministically (a policy file is code: name only one
            that you trust); or ``"random"``. It is called from several threads, but never by
            two at once. If it has ``for_episode(seed)``, the policy that this returns is used
            for one episode.
        urls: Of the robots.
        episodes: How many seeds; or the list of episodes itself.
        seed: The first one; the next one gets the next number.
        options: Of ``reset``: each seed is run with each of them.
        streams: The streams that the policy wants; those that the model was trained with, or
            else the robot's own observation space, if None.
        token: What the robots' servers ask for, if they do.
        results: A file to write to and to go on from; nothing is written if None.
        identity: What is written down of the policy; made of ``policy`` itself if None. What
            can only be named, such as a function, is not told from another one of that name.
        patience: For how long all robots together may be lost before it fails, in seconds.
        on_episode: Called by this thread for each episode, also a spoiled one, as soon as it is
            over; not for those that ``results`` had already.
        executor: What has the episodes done; threads of this process if None.
        spec: What the robots are, if that is known from before: then those that are away at the
            beginning are waited for like those that are lost later.

    Raises:
        ConfigurationError: If the policy does not fit these robots, or ``results`` is of another
            evaluation, or is being written by another process.
        ActionRefusedError: If a robot refuses what the policy wants.
        UnknownOptionError: If a robot does not know an option.
        TransportError: If a robot cannot be reached at the beginning and ``spec`` is None; of
            an evaluation that goes on with ``results``, if none can.
        RemoteEnvError: If all robots are lost: what the last one failed with.
    """
    keys = list_of_episodes(episodes, seed=seed, options=options)
    check_urls(urls)
    known_as = identity or PolicyIdentity.of(policy)
    complete = None
    if results is not None:
        wanted = getattr(policy, "streams", None) if streams is None else streams
        complete = complete_results(Path(results), known_as, keys, streams=wanted)
    if complete is not None:
        return complete
    if spec is None:
        spec = look_at_robots(urls, token=token, results=results)
    acting = as_policy(policy, spec)
    job = _job(acting, tuple(urls), spec, streams=streams, token=token, patience=patience)
    about = About.now(
        known_as,
        spec,
        streams=None if job.streams is None else tuple(job.streams),
        max_steps=job.max_steps,
        episodes=len(keys),
        keys_hash=hash_of_keys(keys),
    )
    if results is None:
        return _run(job, keys, Recorded(about, keys), None, executor, on_episode)
    with ResultsFile(Path(results), about, keys, urls) as file:
        return _run(job, keys, file.earlier, file, executor, on_episode)


def list_of_episodes(
    episodes: int | Sequence[EpisodeKey], *, seed: int, options: Sequence[Mapping[str, Any]] = ()
) -> tuple[EpisodeKey, ...]:
    """Return the keys of an evaluation; see ``evaluate``.

    Raises:
        ConfigurationError: If there are none, one is there twice, or it is both a list and not.
    """
    if isinstance(episodes, int):
        keys = cross(range(seed, seed + episodes), options)
    else:
        keys = tuple(episodes) if isinstance(episodes, Iterable) else (episodes,)
        if options:
            raise ConfigurationError("a list of episodes has its own options; leave options out")
        if not all(isinstance(key, EpisodeKey) for key in keys):
            raise ConfigurationError(f"episodes is a number, or EpisodeKeys, not {episodes!r:.60}")
    if not keys:
        raise ConfigurationError(f"an evaluation needs one episode at least, not {episodes!r:.40}")
    check_different(keys)
    return keys


def look_at_robots(
    urls: Sequence[str], *, token: str | None, results: str | Path | None
) -> RobotSpec:
    """Return what the robots are. None of them moves.

    All of them must be there at the beginning, for a url may be wrong. Who goes on with results
    needs one: the others may be what it was interrupted by, and are waited for meanwhile.

    Raises:
        ConfigurationError: If they are not all of one kind.
        TransportError: If one cannot be reached; of one that goes on, if none can.
    """
    found = None if results is None else read_results(Path(results))
    if found is None or not found.episodes:
        return look_at(urls, token=token)
    there, failure = [], None
    for url in urls:
        try:
            look_at([url], token=token)
        except TransportError as error:
            failure = error
        else:
            there.append(url)
    if failure is not None and not there:
        raise failure
    return look_at(there, token=token)


def complete_results(
    path: Path,
    policy: PolicyIdentity,
    keys: Sequence[EpisodeKey],
    *,
    streams: Sequence[str] | None = None,
) -> Evaluation | None:
    """Return the evaluation of this policy and these episodes, if nothing of it is missing.

    The robots are not looked at, and need not be there.

    Args:
        path: Of the results.
        policy: Which one.
        keys: The episodes.
        streams: That the policy is to be given; None if that is not known.
    """
    found = read_results(path)
    if found is None or found.missing or found.about.policy.mark != policy.mark:
        return None
    if found.about.version != __version__:
        return None
    if streams is not None and found.about.streams != tuple(streams):
        return None
    return Evaluation.of_record(found) if found.about.keys_hash == hash_of_keys(keys) else None


def _job(
    policy: Policy,
    urls: tuple[str, ...],
    spec: RobotSpec,
    *,
    streams: Sequence[str] | None,
    token: str | None,
    patience: float,
) -> Job:
    return Job(
        policy=policy,
        urls=urls,
        streams=getattr(policy, "streams", None) if streams is None else streams,
        token=token,
        max_steps=limit_for(spec),
        control_period=0.0 if spec.mode is Mode.LOCKSTEP else spec.control_period,
        spec_hash=spec.hash(),
        patience=patience,
    )


def _run(
    job: Job,
    keys: tuple[EpisodeKey, ...],
    earlier: Recorded,
    file: ResultsFile | None,
    executor: Executor | None,
    on_episode: Callable[[Episode], object],
) -> Evaluation:
    queue = EpisodeQueue(
        keys,
        counted=[episode.key for episode in earlier.episodes],
        begun=begun_before(earlier.spoiled),
    )
    desk = Desk(queue, record=file, on_episode=on_episode)
    began_at = time.monotonic()
    if not desk.is_finished:
        (executor or RobotThreads()).run(job, desk)
    took = time.monotonic() - began_at if file is None else file.seconds
    return Evaluation(
        episodes=_sorted([*earlier.episodes, *desk.episodes], keys),
        spoiled=(*earlier.spoiled, *desk.spoiled),
        missing=queue.missing,
        robots=tuple(dict.fromkeys([*earlier.robots, *job.urls])),
        seconds=earlier.seconds + took,
        about=earlier.about,
        events=(*earlier.events, *desk.events),
        sessions=earlier.sessions + 1,
    )
