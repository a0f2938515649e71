"""What goals are worth in a Gymnasium environment: guessed from its attributes, then proven.

A description that is wrong would teach a learner the wrong task without any error, so one that
is not proven is not given. Everything is tried on a copy that is thrown away: the environment
that is served keeps its state and its random numbers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike, NDArray

from remote_env.errors import ConfigurationError
from remote_env.goals import ACHIEVED, DESIRED, GoalReward, check_goals

__all__ = ["prove_goal_reward"]

logger = logging.getLogger(__name__)

_NEAR: Final = 200  # pairs of goals whose distance is about the threshold
_FAR: Final = 50
_STEPS: Final = 20


def prove_goal_reward(
    env: gymnasium.Env[Any, Any], make_copy: Callable[[], gymnasium.Env[Any, Any]]
) -> GoalReward | None:
    """Return what goals are worth in an environment; None if it has none, or has no proof.

    An environment with goals but without a proof is named in the log, with the reason.

    Args:
        env: Only looked at.
        make_copy: Makes another one like it, which is stepped, and closed in the end.
    """
    if not _has_goals(env):
        return None
    try:
        reward = _guess(env)
        with contextlib.closing(make_copy()) as copy:
            _check_pairs(reward, copy)
            _check_steps(reward, copy)
    except Exception as error:  # of the environment's own code, too
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        logger.warning(
            "%s has goals, but learners cannot use HER, because its reward is not known: %s",
            name,
            error,
        )
        return None
    return reward


def _has_goals(env: gymnasium.Env[Any, Any]) -> bool:
    space = env.observation_space
    return (
        isinstance(space, spaces.Dict)
        and {ACHIEVED, DESIRED} <= set(space.spaces)
        and callable(getattr(env.unwrapped, "compute_reward", None))
    )


def _guess(env: gymnasium.Env[Any, Any]) -> GoalReward:
    for name in ("reward_type", "distance_threshold"):
        if not hasattr(env.unwrapped, name):
            raise ConfigurationError(f"it has no {name}")
    own: Any = env.unwrapped
    reward = GoalReward(own.reward_type, own.distance_threshold)
    check_goals(reward, env.observation_space, ())
    return reward


def _check_pairs(reward: GoalReward, env: gymnasium.Env[Any, Any]) -> None:
    """Compare with the environment's own function: many pairs at once, and one by one."""
    goals: Any = env.observation_space
    own: Any = env.unwrapped
    achieved, desired = _pairs(reward.threshold, goals[ACHIEVED].shape[0])
    achieved = achieved.astype(goals[ACHIEVED].dtype)
    desired = desired.astype(goals[DESIRED].dtype)
    infos: list[dict[str, Any]] = [{} for _ in achieved]
    _check_same(reward.compute(achieved, desired), own.compute_reward(achieved, desired, infos))
    for one, other in zip(achieved, desired, strict=True):
        _check_same(reward.compute(one, other), own.compute_reward(one, other, {}))


def _pairs(threshold: float, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return achieved and desired goals, ``(count, size)`` float64 each."""
    rng = np.random.default_rng(0)
    desired = rng.normal(size=(_NEAR + _FAR, size))
    offset = rng.normal(size=desired.shape)
    offset /= np.linalg.norm(offset, axis=-1, keepdims=True)
    offset[:_NEAR] *= threshold * rng.normal(1.0, 0.1, (_NEAR, 1))
    offset[_NEAR:] *= threshold * rng.exponential(10.0, (_FAR, 1))
    exact = np.concatenate([length * np.eye(size) for length in _lengths(threshold)])
    achieved = np.concatenate([desired + offset, exact])
    return achieved, np.concatenate([desired, np.zeros_like(exact)])


def _lengths(threshold: float) -> list[float]:
    """Return distances at which ``>`` differs from ``>=``, in each precision, and no distance."""
    lengths = [0.0]
    kinds: tuple[DTypeLike, ...] = (np.float32, np.float64)
    for kind in kinds:
        at = np.asarray(threshold, kind)
        lengths += [float(at), float(np.nextafter(at, 0.0)), float(np.nextafter(at, np.inf))]
    return lengths


def _check_same(ours: NDArray[Any], own: Any) -> None:
    own = np.asarray(own)
    if (own.dtype, own.shape) != (ours.dtype, ours.shape):
        raise ConfigurationError(
            f"its compute_reward returns {own.dtype} of the shape {own.shape}, not {ours.dtype} "
            f"of the shape {ours.shape}"
        )
    for theirs, mine in zip(own.ravel(), ours.ravel(), strict=True):
        if theirs.tobytes() != mine.tobytes():
            raise ConfigurationError(
                f"its compute_reward returns {theirs} where the distance makes it {mine}"
            )


def _check_steps(reward: GoalReward, env: gymnasium.Env[Any, Any]) -> None:
    """Compare with what steps really give: wrappers may change rewards and observations."""
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(_STEPS):
        observation, own, terminated, truncated, _ = env.step(env.action_space.sample())
        ours = reward.compute(observation[ACHIEVED], observation[DESIRED])
        if float(own) != float(ours):
            raise ConfigurationError(f"a step gave the reward {own} where its goals make it {ours}")
        if terminated or truncated:
            env.reset()
