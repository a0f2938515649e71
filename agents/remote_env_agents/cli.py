"""``remote-env train``, ``eval`` and ``demo``. Imports torch only once something runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import tyro
from rich.console import Console

from remote_env.errors import ConfigurationError
from remote_env.tokens import read_token
from remote_env_agents.config import EvalConfig, TrainConfig
from remote_env_agents.config_files import read_config, unchecked
from remote_env_agents.demo import DemoConfig, run_demo
from remote_env_agents.display import Display, percent
from remote_env_agents.episodes import Episode

__all__ = ["run"]


def run(arguments: Sequence[str], *, console: Console, errors: Console) -> int:
    """Run one of the three.

    Args:
        arguments: The command, ``"train"``, ``"eval"`` or ``"demo"``, and its options.
        console: For results.
        errors: For how far it is: what is piped elsewhere is the result.

    Returns:
        The exit code.

    Raises:
        RemoteEnvError: If it did not work out.
        SystemExit: By tyro, for help and wrong usage.
    """
    if arguments[0] == "train":
        return _train(train_config(arguments[1:]), console, errors)
    if arguments[0] == "demo":
        demo = tyro.cli(DemoConfig, prog="remote-env demo", args=arguments[1:])
        _check_installed()
        return run_demo(demo, console=console, errors=errors)
    return _evaluate(
        tyro.cli(EvalConfig, prog="remote-env eval", args=arguments[1:]), console, errors
    )


@dataclass(frozen=True)
class _TrainCommand(TrainConfig):
    __doc__ = f"""{TrainConfig.__doc__}
        config: A TOML file that says any of this; what the command line says counts more. Each
            run's folder has one, config.toml, which repeats the run.
    """

    config: Path | None = None


def train_config(arguments: Sequence[str]) -> TrainConfig:
    """Return what a command line says, and for the rest the files that it names.

    Raises:
        ConfigurationError: If such a file is wrong.
        SystemExit: By tyro, for help and wrong usage.
    """
    values = _from_files(arguments)
    default = {} if values is None else {"default": unchecked(_TrainCommand, values)}
    command = tyro.cli(_TrainCommand, prog="remote-env train", args=arguments, **default)
    return TrainConfig(
        **{field.name: getattr(command, field.name) for field in fields(TrainConfig)}
    )


def _from_files(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return what the files say that are named, which come before the rest can be read."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    finder.add_argument("--resume", type=Path)
    try:
        named, _ = finder.parse_known_args(arguments)
    except argparse.ArgumentError:
        return None  # tyro says it better
    if named.config is not None:
        return read_config(named.config, TrainConfig)
    if named.resume is not None and named.resume.is_dir():
        values = read_config(named.resume / "config.toml", TrainConfig)
        values.pop("hyperparameters", None)  # which stand in the checkpoint
        return values
    return None


def _train(config: TrainConfig, console: Console, errors: Console) -> int:
    _check_installed()
    from remote_env_agents.terminal import print_training
    from remote_env_agents.training import train

    result = train(config, console=errors)
    print_training(console, result, config.urls)
    return 130 if result.ended_by == "interrupt" else 0


def _evaluate(config: EvalConfig, console: Console, errors: Console) -> int:
    if config.policy != "random":
        _check_installed()
    from remote_env_agents.evaluation import evaluate
    from remote_env_agents.policies import load_policy
    from remote_env_agents.robots import look_at
    from remote_env_agents.terminal import print_evaluation

    token = read_token(config.token_file)
    spec = look_at(config.urls, token=token)
    policy = load_policy(config.policy, spec, device=config.device, threads=config.torch_threads)
    if config.video is not None:
        from remote_env_agents.video import check_video

        check_video(config.video, spec, config.cameras)  # before all the episodes, not after
    display = Display(errors, total=config.episodes, unit="episodes", what="evaluating")
    with _Lines(config.json) as lines, display:
        progress = _Progress(display, lines)
        evaluation = evaluate(
            policy,
            config.urls,
            episodes=config.episodes,
            seed=config.seed,
            token=token,
            on_episode=progress.take,
        )
    print_evaluation(console, evaluation, config.policy)
    if config.video is not None:
        _film(config, policy, token, console, errors)
    return 1 if evaluation.missing else 0


def _film(
    config: EvalConfig, policy: object, token: str | None, console: Console, errors: Console
) -> None:
    from remote_env_agents.video import record_episodes

    assert config.video is not None
    with Display(errors, total=config.video_episodes, unit="episodes", what="filming") as display:
        frames = record_episodes(
            config.video,
            policy,
            config.urls[0],
            seeds=range(config.seed, config.seed + config.video_episodes),
            cameras=config.cameras,
            token=token,
            on_step=lambda episode, step: display.update(episode, f"step {step}"),
        )
    console.print(f"video: {config.video}, {frames} frames", highlight=False, soft_wrap=True)


def _check_installed() -> None:
    try:
        import stable_baselines3  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'remote-robot-env[agents]'"
        ) from error


class _Lines:
    """A file of JSON lines, written as they come; or none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", buffering=1)
            except OSError as error:
                raise ConfigurationError(f"cannot write {self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, episode: Episode) -> None:
        if self._file is not None:
            said = {
                key: value if value == value else None for key, value in asdict(episode).items()
            }
            self._file.write(json.dumps(said) + "\n")


class _Progress:
    """Shows and writes episodes as they come."""

    def __init__(self, display: Display, lines: _Lines) -> None:
        self._display = display
        self._lines = lines
        self._counted = 0
        self._successes = 0

    def take(self, episode: Episode) -> None:
        self._lines.add(episode)
        if episode.spoiled:
            return
        self._counted += 1
        notes = ""
        if episode.is_success is not None:
            self._successes += episode.is_success
            notes = f"success {percent(self._successes / self._counted)}"
        self._display.update(self._counted, notes)
