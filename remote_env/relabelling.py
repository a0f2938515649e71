"""What a learner's HER asks an environment for: the reward of steps with other goals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from remote_env.goals import ACHIEVED, DESIRED
from remote_env.spec import RobotSpec

__all__ = ["ComputeReward", "Relabelling"]

# As HER calls it: with achieved goals, desired goals, and infos.
ComputeReward: TypeAlias = Callable[[ArrayLike, ArrayLike, object], NDArray[Any]]


class Relabelling:
    """Gives an environment ``compute_reward``, if its robot describes what goals are worth."""

    observation_space: spaces.Space[Any]
    _spec: RobotSpec

    @property
    def compute_reward(self) -> ComputeReward:
        """Compute rewards for any goals, here and at once: ``(achieved, desired, info)``.

        There only if the robot describes its ``goal_reward``, and both goals are observed:
        learners ask ``hasattr``. The goals are ``(..., n)`` in the robot's unit, the reward is
        ``(...)``, see ``GoalReward.compute``; ``info`` is not used.

        Raises:
            AttributeError: If it is not there; says why, and what to do.
        """
        reward = self._spec.goal_reward
        if reward is None:
            raise AttributeError(
                f"{self._spec.name} does not describe a goal reward, so there is no "
                "compute_reward and HER cannot be used; its author declares one with "
                "goal_reward = GoalReward(...)"
            )
        space = self.observation_space
        if not isinstance(space, spaces.Dict) or not {ACHIEVED, DESIRED} <= set(space.spaces):
            raise AttributeError(
                f"there is no compute_reward, because {ACHIEVED!r} and {DESIRED!r} are not both "
                "observed; add them to streams=[...]"
            )

        def compute_reward(
            achieved_goal: ArrayLike, desired_goal: ArrayLike, info: object
        ) -> NDArray[Any]:
            return reward.compute(achieved_goal, desired_goal)

        return compute_reward
