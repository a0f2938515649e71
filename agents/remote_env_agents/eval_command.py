"""``remote-env eval``: what it does from its options to the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.terminal import plain
from remote_env.tokens import read_token
from remote_env_agents.about import PolicyIdentity
from remote_env_agents.config import EvalConfig
from remote_env_agents.display import Display, percent
from remote_env_agents.episodes import Episode
from remote_env_agents.evaluation import (
    Evaluation,
    complete_results,
    evaluate,
    list_of_episodes,
    look_at_robots,
)
from remote_env_agents.films import note_film, read_films
from remote_env_agents.keys import EpisodeKey, read_options
from remote_env_agents.policies import load_policy
from remote_env_agents.report import EvaluationFolder, write_report
from remote_env_agents.results import read_results
from remote_env_agents.terminal import print_evaluation
from remote_env_agents.video import check_video, record_episodes

__all__ = ["run_evaluation"]


def run_evaluation(config: EvalConfig, *, console: Console, errors: Console) -> int:
    """Run it; return the exit code: 1 if an episode is missing.

    Args:
        config: What to do.
        console: For results.
        errors: For how far it is.

    Raises:
        RemoteEnvError: If it did not work out; says what is kept, and how to go on.
    """
    if config.only_shows:
        return _show(config, console)
    keys = list_of_episodes(
        config.episodes,
        seed=config.seed,
        options=() if config.options is None else read_options(config.options),
    )
    identity = PolicyIdentity.of(config.policy)
    if config.folder is not None:
        folder = EvaluationFolder(config.folder)
        complete = complete_results(folder.results, identity, keys)
        if complete is not None and not config.video_of:
            text = f"{plain(str(folder.path))} is complete: nothing is run"
            console.print(text, highlight=False, soft_wrap=True)
            return _report(folder, complete, console)
    return _Command(config, keys, identity, console, errors).run()


def _show(config: EvalConfig, console: Console) -> int:
    assert config.folder is not None
    folder = EvaluationFolder(config.folder)
    found = read_results(folder.results)
    if found is None:
        raise ConfigurationError(
            f"there is no evaluation in {folder.path}; give robots and a policy to begin one"
        )
    return _report(folder, Evaluation.of_record(found), console)


def _report(folder: EvaluationFolder, evaluation: Evaluation, console: Console) -> int:
    print_evaluation(console, evaluation, evaluation.about.policy.name)
    path = write_report(folder.path, evaluation, films=read_films(folder))
    console.print(f"report: {plain(str(path))}", highlight=False, soft_wrap=True)
    return 1 if evaluation.missing else 0


class _Command:
    """One run of it, with robots."""

    def __init__(
        self,
        config: EvalConfig,
        keys: tuple[EpisodeKey, ...],
        identity: PolicyIdentity,
        console: Console,
        errors: Console,
    ) -> None:
        self._config = config
        self._keys = keys
        self._identity = identity
        self._console = console
        self._errors = errors
        self._token = read_token(config.token_file)

    def run(self) -> int:
        config = self._config
        going_on = None if config.folder is None else EvaluationFolder(config.folder).results
        spec = look_at_robots(config.urls, token=self._token, results=going_on)
        policy = load_policy(
            config.policy, spec, device=config.device, threads=config.torch_threads
        )
        folder = EvaluationFolder.choose(config.folder, robot=spec.name, policy=config.policy)
        if config.video_of:  # before all the episodes, not after
            check_video(folder.video("check"), spec, config.cameras)
        self._announce(folder)
        try:
            evaluation = self._evaluate(policy, folder)
        except RemoteEnvError as error:
            if folder.results.exists():
                error.args = (f"{error}; what was done until then is in {folder.path}",)
            raise
        except KeyboardInterrupt:
            if (found := read_results(folder.results)) is not None:
                _report(folder, Evaluation.of_record(found), self._console)
            raise
        code = _report(folder, evaluation, self._console)
        if config.video_of:
            try:
                self._film(policy, evaluation, folder)
            finally:  # those that were finished, if not all were
                write_report(folder.path, evaluation, films=read_films(folder))
        return code

    def _announce(self, folder: EvaluationFolder) -> None:
        self._errors.print(
            f"everything goes to {plain(str(folder.path))}; if this is interrupted, the same "
            f"command with --folder {plain(str(folder.path))} goes on",
            highlight=False,
            soft_wrap=True,
        )

    def _evaluate(self, policy: Any, folder: EvaluationFolder) -> Evaluation:
        found = read_results(folder.results)
        display = Display(self._errors, total=len(self._keys), unit="episodes", what="evaluating")
        with display:
            return evaluate(
                policy,
                self._config.urls,
                episodes=self._keys,
                token=self._token,
                results=folder.results,
                identity=self._identity,
                patience=self._config.patience,
                on_episode=_Progress(display, () if found is None else found.episodes).take,
            )

    def _film(self, policy: Any, evaluation: Evaluation, folder: EvaluationFolder) -> None:
        chosen = episodes_to_film(self._config, self._keys, evaluation)
        with Display(self._errors, total=len(chosen), unit="episodes", what="filming") as display:
            for number, key in enumerate(chosen):
                display.update(number, f"seed {key.name}")
                film = record_episodes(
                    folder.video(f"seed-{key.name}"),
                    policy,
                    self._config.urls[0],
                    seeds=[key],
                    cameras=self._config.cameras,
                    token=self._token,
                )
                note_film(folder, film)
                text = f"video: {film.path}, {film.frames} frames"
                self._console.print(plain(text), highlight=False, soft_wrap=True)


def episodes_to_film(
    config: EvalConfig, keys: Sequence[EpisodeKey], evaluation: Evaluation
) -> list[EpisodeKey]:
    """Return which episodes to film.

    Raises:
        ConfigurationError: If a seed is named that is not in the list.
    """
    if config.is_seeds_filmed:
        seeds = {int(word) for word in config.video_of}
        chosen = [key for key in keys if key.seed in seeds]
        if unknown := sorted(seeds - {key.seed for key in chosen}):
            raise ConfigurationError(
                f"the seed {unknown[0]} to film is not in this evaluation; its first is "
                f"{keys[0].seed}"
            )
        return chosen
    episodes = list(evaluation.episodes)
    if config.video_of == ("failures",):
        episodes = [episode for episode in episodes if episode.is_success is False]
    elif config.video_of == ("worst",):
        # NaN is the worst: where a reward is no number, something went wrong that must be seen.
        episodes.sort(key=lambda one: (not math.isnan(one.episode_return), one.episode_return))
    return [episode.key for episode in episodes[: config.videos]]


class _Progress:
    """Shows episodes as they come.

    Args:
        display: Where.
        earlier: Those that count already.
    """

    def __init__(self, display: Display, earlier: Sequence[Episode]) -> None:
        self._display = display
        self._counted = len(earlier)
        self._successes = sum(episode.is_success is True for episode in earlier)

    def take(self, episode: Episode) -> None:
        """Take one more."""
        if episode.spoiled:
            return
        self._counted += 1
        notes = ""
        if episode.is_success is not None:
            self._successes += episode.is_success
            notes = f"success {percent(self._successes / self._counted)}"
        self._display.update(self._counted, notes)
