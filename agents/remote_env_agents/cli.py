"""``remote-env train``, ``eval`` and ``demo``. Imports torch only once something runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from remote_env.errors import ConfigurationError
from remote_env_agents.config import EvalConfig, TrainConfig
from remote_env_agents.config_files import read_config, unchecked
from remote_env_agents.demo import DemoConfig, run_demo

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
    if config.policy not in ("", "random"):
        _check_installed()
    from remote_env_agents.eval_command import run_evaluation

    return run_evaluation(config, console=console, errors=errors)


def _check_installed() -> None:
    try:
        import stable_baselines3  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'remote-robot-env[agents]'"
        ) from error
