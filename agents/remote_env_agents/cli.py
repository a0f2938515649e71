"""``remote-env train``, ``eval`` and ``demo``. Imports torch only once something runs."""

from __future__ import annotations

from collections.abc import Sequence

import tyro
from rich.console import Console

from remote_env.errors import ConfigurationError
from remote_env_agents.config import EvalConfig, TrainConfig
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
        config = tyro.cli(TrainConfig, prog="remote-env train", args=arguments[1:])
        return _train(config, console, errors)
    if arguments[0] == "demo":
        demo = tyro.cli(DemoConfig, prog="remote-env demo", args=arguments[1:])
        _check_installed()
        return run_demo(demo, console=console, errors=errors)
    return _evaluate(
        tyro.cli(EvalConfig, prog="remote-env eval", args=arguments[1:]), console, errors
    )


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
