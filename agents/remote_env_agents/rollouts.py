"""Rollouts for PPO from which nothing false is learned.

PPO learns from the action that it sampled; what the robot made of it belongs to the robot. Rows
that are no transition (see ``buffers.is_transition``) come into no minibatch, and the advantage
of what was before them ends there: the last observation before is worth what the network says.
With no such row everything is bit by bit what Stable-Baselines3 does.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from remote_env.errors import LocalProtocolError, TooFewRobotsError
from remote_env_agents.buffers import is_transition

__all__ = [
    "InvalidRows",
    "RobotDictRolloutBuffer",
    "RobotRolloutBuffer",
    "rollout_buffer_class",
]


def rollout_buffer_class(space: spaces.Space[Any]) -> type[RolloutBuffer]:
    """Return which of these buffers is for such observations."""
    return RobotDictRolloutBuffer if isinstance(space, spaces.Dict) else RobotRolloutBuffer


class InvalidRows(BaseCallback):
    """Tells the rollout buffer which rows are no transitions; for ``learn(callback=...)``.

    Stable-Baselines3 gives a rollout buffer no ``info``, but calls its callbacks between the step
    and the buffer. With another buffer than these it does nothing.

    Args:
        time_goes_on: Whether the robots' time goes on while the policy is updated, and they
            hold. The first action after that answers an observation of before, so that row is
            none either, unless an episode begins there.
    """

    def __init__(self, *, time_goes_on: bool = False) -> None:
        super().__init__()
        self._time_goes_on = time_goes_on
        self._have_waited = False

    def _on_rollout_start(self) -> None:
        self._have_waited = self._time_goes_on

    def _on_step(self) -> bool:
        buffer = self.locals.get("rollout_buffer")
        if isinstance(buffer, RobotRolloutBuffer):
            infos = self.locals["infos"]
            invalid = np.array([not is_transition(info) for info in infos], np.bool_)
            if self._have_waited:
                begins: Any = self.model._last_episode_starts
                invalid |= ~np.asarray(begins, np.bool_)
            buffer.mark(invalid)
            self._have_waited = False
        return True


class RobotRolloutBuffer(RolloutBuffer):
    """For observations that are one array; needs the callback ``InvalidRows``.

    Attributes:
        invalid: ``(buffer_size, n_envs)`` bool, which rows are no transitions.
    """

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.invalid = np.zeros((self.buffer_size, self.n_envs), np.bool_)
        self._marked: NDArray[np.bool_] | None = None

    def mark(self, invalid: NDArray[np.bool_]) -> None:
        """Say which robots' rows are no transitions, of those that ``add`` will bring next.

        Args:
            invalid: ``(n_envs,)`` bool.
        """
        self._marked = invalid

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a row of all robots, as ``RolloutBuffer.add``.

        Raises:
            LocalProtocolError: If nothing was said of it to ``mark``.
        """
        if self._marked is None:
            raise LocalProtocolError(
                "nobody said which rows are transitions; call "
                "model.learn(..., callback=[InvalidRows(), ...])"
            )
        self.invalid[self.pos] = self._marked
        self._marked = None
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: NDArray[np.bool_]
    ) -> None:
        """As ``RolloutBuffer.compute_returns_and_advantage``; nothing comes across a hole.

        Args:
            last_values: ``(n_envs,)``, of the observations after the last row.
            dones: ``(n_envs,)`` bool, whether the last row ended an episode.

        Raises:
            TooFewRobotsError: If no row is a transition.
        """
        if self.invalid.all():
            raise TooFewRobotsError(
                f"none of the {self.invalid.size} rows of this rollout is a transition: the robots "
                "failed at each of them, or their sensors were stale; the log says why"
            )
        # With this reward, and nothing after it, the advantage of a row is 0: exactly. So the row
        # before it gets nothing but the value of the observation in between.
        self.rewards[self.invalid] = self.values[self.invalid]
        self.episode_starts[1:][self.invalid[:-1]] = 1.0
        super().compute_returns_and_advantage(last_values, dones | self.invalid[-1])

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield all transitions in minibatches, in random order.

        Args:
            batch_size: Transitions in each, at most; None for all of them in one.
        """
        if not self.invalid.any():
            yield from super().get(batch_size)
            return
        self._flatten()
        chosen = np.random.permutation(np.flatnonzero(self.swap_and_flatten(self.invalid) == 0))
        # As equal as can be: a last batch of one sample would be all noise.
        batches = math.ceil(len(chosen) / (batch_size or len(chosen)))
        for part in np.array_split(chosen, batches):
            yield self._get_samples(part)

    def _flatten(self) -> None:
        """Let Stable-Baselines3 lay out its arrays for sampling, as it does before the first."""
        if not self.generator_ready:
            next(super().get(1))


class RobotDictRolloutBuffer(RobotRolloutBuffer, DictRolloutBuffer):
    """For observations that are a Dict; see ``RobotRolloutBuffer``."""
