"""What a step is worth for any goal, as a robot describes it in its metadata.

A learner that puts the goals it reached in place of those it missed (hindsight experience
replay, HER) needs the reward of steps that never happened. The robot is not asked for that:
its description is enough to compute it on the learner's side, for thousands of pairs at once.

The arithmetic is that of the Fetch environments of gymnasium-robotics, bit by bit.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from remote_env.errors import ConfigurationError

__all__ = ["ACHIEVED", "DESIRED", "GoalReward", "RewardKind", "check_goals", "distance_between"]

RewardKind = Literal["dense", "sparse"]

# The names that SB3 and gymnasium-robotics have for goals.
ACHIEVED: Final = "achieved_goal"
DESIRED: Final = "desired_goal"


@dataclass(frozen=True, slots=True)
class GoalReward:
    """The reward of a robot whose task is to bring something to a goal.

    Its observation space is then a Dict in which ``achieved_goal`` is where that something is,
    and ``desired_goal`` where it should be. The reward of a step must be ``compute`` of the
    two in the observation that the step returns, and nothing else.

    Attributes:
        kind: ``"dense"``: minus the distance. ``"sparse"``: 0 within the threshold, else -1.
        threshold: Up to which distance the goal counts as reached, in the unit of the goals.
        derived: Names of streams that are computed from the desired goal, such as
            ``"goal_difference"``. With another goal in its place they would be wrong: who uses
            HER leaves them out.
    """

    kind: RewardKind
    threshold: float
    derived: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without the robot.

        Raises:
            ConfigurationError: Saying what to declare.
        """
        if not isinstance(self.kind, str) or self.kind not in get_args(RewardKind):
            raise ConfigurationError(
                f"the kind of a GoalReward must be 'dense' or 'sparse', not {self.kind!r:.40}"
            )
        is_number = isinstance(self.threshold, numbers.Real) and not isinstance(
            self.threshold, bool
        )
        if not is_number or not 0 < self.threshold < math.inf:
            raise ConfigurationError(
                f"the threshold of a GoalReward must be a positive distance, not "
                f"{self.threshold!r:.40}"
            )
        is_list = isinstance(self.derived, (list, tuple))
        if not is_list or not all(isinstance(name, str) for name in self.derived):
            raise ConfigurationError(
                "derived must list the names of the streams that are computed from the desired "
                f'goal, such as derived=("goal_difference",), not {self.derived!r:.60}'
            )
        object.__setattr__(self, "threshold", float(self.threshold))
        object.__setattr__(self, "derived", tuple(self.derived))

    def compute(self, achieved_goal: ArrayLike, desired_goal: ArrayLike) -> NDArray[Any]:
        """Return what steps are worth that achieved one goal and desired another.

        Args:
            achieved_goal: ``(..., n)``, in the unit of the goals; an array of its own dtype.
            desired_goal: The same shape and unit.

        Returns:
            ``(...)``; a numpy scalar for one pair of goals. Dense: minus the distance over the
            last axis, in the dtype of the goals, at most -0.0. Sparse: float32, -1.0 beyond
            the threshold, else -0.0.

        Raises:
            ConfigurationError: If the shapes differ, or there is no axis.
        """
        return self.at(distance_between(achieved_goal, desired_goal))

    def at(self, distance: NDArray[Any]) -> NDArray[Any]:
        """Return what steps are worth that end at these distances from the goal.

        Args:
            distance: ``(...)``, as ``distance_between`` returns it.

        Returns:
            As ``compute``.
        """
        if self.kind == "dense":
            return -distance
        return -(distance > self.threshold).astype(np.float32)

    def is_success(self, achieved_goal: ArrayLike, desired_goal: ArrayLike) -> NDArray[np.float32]:
        """Return whether goals are reached, which needs less than the threshold.

        At exactly the threshold the sparse reward is 0 already and this is not yet 1: so it
        is in the Fetch environments.

        Args:
            achieved_goal: ``(..., n)``, in the unit of the goals; an array of its own dtype.
            desired_goal: The same shape and unit.

        Returns:
            ``(...)`` float32, 1.0 or 0.0; a numpy scalar for one pair of goals.

        Raises:
            ConfigurationError: If the shapes differ, or there is no axis.
        """
        distance = distance_between(achieved_goal, desired_goal)
        return (distance < self.threshold).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Return this as the metadata say it; ``GoalReward(**...)`` is the way back."""
        return {"kind": self.kind, "threshold": self.threshold, "derived": list(self.derived)}


def distance_between(achieved_goal: ArrayLike, desired_goal: ArrayLike) -> NDArray[Any]:
    """Return the euclidean distance over the last axis.

    Args:
        achieved_goal: ``(..., n)``, in the unit of the goals; an array of its own dtype.
        desired_goal: The same shape and unit.

    Raises:
        ConfigurationError: If the shapes differ, or there is no axis.
    """
    achieved, desired = np.asarray(achieved_goal), np.asarray(desired_goal)
    if achieved.shape != desired.shape or not achieved.ndim:
        raise ConfigurationError(
            f"achieved goals of the shape {achieved.shape} and desired goals of the shape "
            f"{desired.shape}; both must have the same shape, (..., n)"
        )
    distance: NDArray[Any] = np.linalg.norm(achieved - desired, axis=-1)
    return distance


def check_goals(
    reward: GoalReward, observation_space: spaces.Space[Any], streams: Collection[str]
) -> None:
    """Check that a robot has the goals that its reward is about.

    Args:
        reward: As it declares it.
        observation_space: Of the robot.
        streams: The names of all that can be subscribed to.

    Raises:
        ConfigurationError: Saying what to declare.
    """
    declare = "goal_reward needs an observation space that is a Dict with"
    found = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    achieved, desired = _goal(found, ACHIEVED), _goal(found, DESIRED)
    if achieved is None or desired is None:
        missing = ACHIEVED if achieved is None else DESIRED
        raise ConfigurationError(
            f"{declare} {ACHIEVED!r} and {DESIRED!r}, each a Box of floats of the shape (n,); "
            f"{missing!r} is {found.get(missing, 'not there')}"
        )
    if achieved.shape != desired.shape:
        raise ConfigurationError(
            f"{declare} goals of one shape; {ACHIEVED!r} has {achieved.shape} and {DESIRED!r} has "
            f"{desired.shape}"
        )
    for name in reward.derived:
        if name not in streams or name in (ACHIEVED, DESIRED):
            others = sorted(set(streams) - {ACHIEVED, DESIRED})
            raise ConfigurationError(
                f"goal_reward.derived has {name!r}; name streams that are computed from the "
                f"desired goal, out of {', '.join(map(repr, others)) or 'none'}"
            )


def _goal(found: Mapping[str, spaces.Space[Any]], name: str) -> spaces.Box | None:
    space = found.get(name)
    if not isinstance(space, spaces.Box) or np.dtype(space.dtype).kind != "f":
        return None
    return space if len(space.shape) == 1 else None
