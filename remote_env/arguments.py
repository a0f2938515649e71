"""Checks of what users pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from remote_env.errors import ConfigurationError
from remote_env.protocol.values import UnsupportedValueError, Value, pack_value
from remote_env.spec import RobotSpec

__all__ = ["check_max_age", "check_options", "check_seed", "check_steps", "check_timeout"]


def check_timeout(name: str, seconds: object) -> None:
    """Refuse what is no time to wait for.

    Raises:
        ConfigurationError: Naming the argument.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds!r}")


def check_steps(count: int | None) -> int | None:
    """Return a limit of steps.

    Raises:
        ConfigurationError: If it is none.
    """
    if count is not None and (not isinstance(count, (int, np.integer)) or count < 1):
        raise ConfigurationError(f"max_steps must be a positive number of steps, not {count!r:.40}")
    return None if count is None else int(count)


def check_max_age(
    asked: float | Mapping[str, float] | None, spec: RobotSpec, observed: Sequence[str]
) -> dict[str, float]:
    """Return how old streams may be where the robot's own word does not count.

    Args:
        asked: In seconds, for all streams or by name; None for what the robot declares.
        spec: Of the robot.
        observed: The names of the streams that are subscribed to.

    Returns:
        By stream name, in seconds; infinity is never.

    Raises:
        ConfigurationError: If a stream is not observed or never goes stale, or an age is none.
    """
    if asked is None:
        return {}
    if isinstance(asked, Mapping):
        unused = sorted(asked.keys() - set(observed))
        if unused:
            raise ConfigurationError(
                f"max_age of {unused[0]!r}, which is not observed; observed are "
                f"{', '.join(observed)}"
            )
        spec.max_ages(asked)
        return {name: float(age) for name, age in asked.items()}
    check_timeout("max_age", asked)
    return {name: asked for name in observed if spec.stream(name).can_age}


def check_seed(seed: int | None) -> int | None:
    """Return a seed.

    Raises:
        ConfigurationError: If it is none.
    """
    if seed is None:
        return None
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ConfigurationError(f"seed must be an integer from 0 to 2**64 - 1, not {seed!r:.80}")
    return int(seed)


def check_options(options: object) -> dict[str, Value] | None:
    """Return a copy of what a reset is given for the robot.

    Raises:
        ConfigurationError: If it is no dict, or has something in it that cannot be sent.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ConfigurationError(
            f"options must be a dict, whose keys are text, and not {options!r:.80}"
        )
    given = dict(options)
    try:
        pack_value(given, [], path="options")
    except UnsupportedValueError as error:
        raise ConfigurationError(f"{error}, which cannot be sent to a robot") from None
    return given
