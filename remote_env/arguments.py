"""Checks of what users pass."""

from __future__ import annotations

import math

import numpy as np

from remote_env.errors import ConfigurationError

__all__ = ["check_steps", "check_timeout"]


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
