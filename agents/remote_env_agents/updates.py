"""When the policy is updated, and who saves it.

Three ways for off-policy algorithms: after each step (Stable-Baselines3's own), between episodes
(``BetweenEpisodes``), or in the background (``background.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from remote_env_agents.checkpoints import save_checkpoint, save_model, saved_line

__all__ = ["BetweenEpisodes", "Learner", "LocalLearner"]


class Learner(Protocol):
    """Who has the model, its replay buffer and its optimisers, and can save them."""

    @property
    def gradient_steps(self) -> int | None:
        """Made in all; None for ppo, which counts otherwise."""

    def notes(self) -> str:
        """Return how far it is, for people; or nothing."""

    def save_checkpoint(self, path: Path, step: int, watched: dict[str, Any]) -> None:
        """Save a checkpoint; raises ``CheckpointError`` if it cannot."""

    def finish(self, path: Path, policy: Path, step: int, watched: dict[str, Any]) -> None:
        """Save a checkpoint and the policy, in the end."""

    def close(self) -> None:
        """Let go of what it holds; what is not saved is lost."""


class LocalLearner:
    """A model that learns in the process that commands the robots.

    Args:
        model: Of Stable-Baselines3.
        with_buffer: Whether checkpoints have the replay buffer.
        say: Tells the user something, in a line.
    """

    def __init__(self, model: Any, *, with_buffer: bool, say: Callable[[str], None]) -> None:
        self._model = model
        self._with_buffer = with_buffer
        self._say = say

    @property
    def gradient_steps(self) -> int | None:
        """Made in all; None for ppo, which counts otherwise."""
        is_off_policy = hasattr(self._model, "replay_buffer")
        return int(self._model._n_updates) if is_off_policy else None

    def notes(self) -> str:
        """Return nothing."""
        return ""

    def save_checkpoint(self, path: Path, step: int, watched: dict[str, Any]) -> None:
        """Save a checkpoint.

        Raises:
            CheckpointError: If it cannot be written.
        """
        saved = save_checkpoint(path, self._model, watched=watched, with_buffer=self._with_buffer)
        self._say(saved_line(step, saved.size, saved.seconds))

    def finish(self, path: Path, policy: Path, step: int, watched: dict[str, Any]) -> None:
        """Save a checkpoint and the policy.

        Raises:
            CheckpointError: If they cannot be written.
        """
        save_model(policy, self._model)
        self.save_checkpoint(path, step, watched)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


class BetweenEpisodes(BaseCallback):
    """Updates while the robots hold, as soon as each of them has ended an episode.

    With one robot that is ``train_freq=(1, "episode")`` and ``gradient_steps=-1``. With several
    it is the same when they end together. Those that are in the middle of another episode then
    hold there, and go on with it afterwards; the action after that answers an observation of
    before, so where time goes on meanwhile that one step is marked as no transition.

    What is owed stands in ``model.owed_updates``, which a checkpoint holds: a run that goes on
    owes it, and makes it up when the robots have ended their episodes.

    Args:
        model: With ``train_freq=1``; makes no updates of its own any more.
        time_goes_on: Whether the robots' time goes on while they hold.
    """

    def __init__(self, model: Any, *, time_goes_on: bool) -> None:
        super().__init__()
        model.gradient_steps = 0
        self._time_goes_on = time_goes_on
        before: tuple[int, list[bool]] = getattr(model, "owed_updates", (0, []))
        self._owed, has_ended = before
        self._has_ended = np.zeros(model.n_envs, np.bool_)
        if len(has_ended) == model.n_envs:
            self._has_ended[:] = has_ended
        self._is_within = np.ones(model.n_envs, np.bool_)
        self._waited = np.zeros(model.n_envs, np.bool_)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self._is_within = ~np.asarray(self.locals["dones"], np.bool_)
        # A robot that is lost ends no episodes, and the others are not to wait for it.
        lost = [info.get("remote", {}).get("invalid_transition", False) for info in infos]
        if self.num_timesteps > self.model.learning_starts:  # type: ignore[attr-defined]
            self._owed += len(infos)
            self._has_ended |= ~self._is_within | np.asarray(lost, np.bool_)
            self._note()
        for index in np.flatnonzero(self._waited):
            infos[index].setdefault("remote", {})["invalid_transition"] = True
        self._waited[:] = False
        return True

    def _on_rollout_start(self) -> None:
        if self._owed and self._has_ended.all():
            self._update()

    def _on_training_end(self) -> None:
        if self._owed:
            self._update()

    def _update(self) -> None:
        model: Any = self.model
        if model.replay_buffer.size():
            model.train(gradient_steps=self._owed, batch_size=model.batch_size)
        self._owed = 0
        self._has_ended[:] = False
        self._note()
        if self._time_goes_on:
            self._waited |= self._is_within

    def _note(self) -> None:
        model: Any = self.model
        model.owed_updates = self._owed, self._has_ended.tolist()
