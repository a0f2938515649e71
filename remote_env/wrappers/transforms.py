"""What is made of the observations of one robot, with a memory of its episode.

A transform knows nothing of environments. ``single.py``, ``vector.py`` and ``sb3.py`` have one
transform for each robot and tell it what happened, all three with ``advance``:

* an episode began: the memory starts anew with the observation of the reset;
* a step was done: the memory takes it in;
* nothing happened: the robot was lost, is down, or the observation is not what the action led
  to. Then the memory stays as it is, so that nothing is in it twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec

__all__ = [
    "ROOT",
    "Transform",
    "advance",
    "box_at",
    "join",
    "parts_of",
    "replace_boxes",
    "rows_of",
    "stack",
    "values",
]

# The name of an observation that is no Dict, as everywhere.
ROOT = "observation"


class Transform(Protocol):
    """Makes other observations of those of one robot.

    What it returns is the caller's own where it made it; what it leaves as it is, it hands on.

    Attributes:
        space: What comes out.
        options: With which the same can be made without asking a robot: plain data.
    """

    space: spaces.Space[Any]
    options: dict[str, Any]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        spec: RobotSpec | None,
        **options: Any,
    ) -> None:
        """Prepare.

        Args:
            observation_space: What comes in: a flat Dict, or what has no parts.
            action_space: The robot's.
            spec: What the robot is, where somebody knows it.
            **options: Those of the wrapper of this name.

        Raises:
            ConfigurationError: If this cannot be made of such observations.
        """

    def reset(self, observation: Any) -> Any:
        """Begin an episode with its first observation, of ``observation_space``."""

    def step(self, observation: Any, action: Any, remote: Mapping[str, Any]) -> Any:
        """Take a step in.

        Args:
            observation: What the action led to.
            action: What was asked for.
            remote: What ``info["remote"]`` said; empty for other environments.
        """

    def again(self, observation: Any) -> Any:
        """Return what comes out of an observation that is nothing new; remembers nothing."""


def advance(
    transform: Transform,
    observation: Any,
    action: Any,
    remote: Mapping[str, Any],
    *,
    is_reset: bool = False,
) -> Any:
    """Return what comes out of a step.

    Args:
        transform: Of the robot.
        observation: That the step returned.
        action: That it was given.
        remote: What ``info["remote"]`` said.
        is_reset: Whether an autoreset is due: what is returned is then the first observation of
            an episode, unless the robot is down.
    """
    # One that was executed and led to a stale observation may be invalid too.
    if remote.get("invalid_transition") and "action_executed" not in remote:
        return transform.again(observation)
    # A robot that was down returns with a reset; its first step is number 1.
    if is_reset or remote.get("step", 1) == 0:
        return transform.reset(observation)
    return transform.step(observation, action, remote)


def parts_of(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Return the parts of an observation by name; ``ROOT`` is the name of one without parts.

    Raises:
        ConfigurationError: If the space is nested.
    """
    if not isinstance(space, spaces.Dict):
        if isinstance(space, spaces.Tuple):
            raise ConfigurationError(f"{space} has no names; {_FLATTEN}")
        return {ROOT: space}
    for name, part in space.items():
        if isinstance(part, (spaces.Dict, spaces.Tuple)):
            raise ConfigurationError(f"{name!r} of the observation is nested; {_FLATTEN}")
    return dict(space.spaces)


_FLATTEN = "make the environment with flatten=True, or name the streams, for a flat Dict"


def values(space: spaces.Space[Any], observation: Any) -> dict[str, Any]:
    """Return the parts of an observation by name, in a dictionary of the caller's own."""
    return dict(observation) if isinstance(space, spaces.Dict) else {ROOT: observation}


def join(space: spaces.Space[Any], parts: Mapping[str, Any]) -> Any:
    """Return an observation of its parts."""
    return dict(parts) if isinstance(space, spaces.Dict) else parts[ROOT]


def replace_boxes(
    space: spaces.Space[Any], others: Mapping[str, spaces.Space[Any]]
) -> spaces.Space[Any]:
    """Return the space in which these parts are others, in the same order."""
    if not isinstance(space, spaces.Dict):
        return others.get(ROOT, space)
    return spaces.Dict([(name, others.get(name, part)) for name, part in space.items()])


def box_at(parts: Mapping[str, spaces.Space[Any]], name: str) -> spaces.Box:
    """Return the Box of this name.

    Raises:
        ConfigurationError: If there is none; names those that there are.
    """
    part = parts.get(name)
    if part is None:
        offered = ", ".join(map(repr, parts)) or "nothing"
        raise ConfigurationError(f"the observation has no {name!r}; it has {offered}")
    if not isinstance(part, spaces.Box):
        raise ConfigurationError(f"{name!r} is {part}, and must be a Box")
    return part


def _empty(space: spaces.Space[Any], count: int) -> dict[str, NDArray[Any]]:
    return {
        name: np.empty((count, *(part.shape or ())), part.dtype)
        for name, part in parts_of(space).items()
    }


def stack(space: spaces.Space[Any], rows: Iterable[Any], count: int) -> Any:
    """Return observations as one batch of the caller's own: ``(count, ...)`` of each part."""
    batch = _empty(space, count)
    if isinstance(space, spaces.Dict):
        for index, row in enumerate(rows):
            for name, array in batch.items():
                array[index] = row[name]
        return batch
    for index, row in enumerate(rows):
        batch[ROOT][index] = row
    return batch[ROOT]


def rows_of(space: spaces.Space[Any], batch: Any, count: int) -> list[Any]:
    """Return the rows of a batch; views, do not write."""
    if not isinstance(space, spaces.Dict):
        return [batch[index] for index in range(count)]
    return [{name: batch[name][index] for name in space} for index in range(count)]
