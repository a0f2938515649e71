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

__all__ = ["BetweenEpisodes", "Learner", "LocalLearner", "Waits"]


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


class Waits(BaseCallback):
    """Marks the steps before which the robots waited, for off-policy algorithms in real time.

    A robot that holds in the middle of an episode goes on with it afterwards, and its next action
    answers an observation of before. That one step is marked as no transition.
    """

    def __init__(self) -> None:
        super().__init__()
        self._have_waited = False

    def note(self) -> None:
        """Note that all robots have waited."""
        self._have_waited = True

    def _on_step(self) -> bool:
        model: Any = self.model
        if self._have_waited:
            for info, begins in zip(self.locals["infos"], model._last_episode_starts, strict=True):
                if not begins:
                    info.setdefault("remote", {})["invalid_transition"] = True
        self._have_waited = False
        # Which only the algorithms that are on-policy do themselves.
        model._last_episode_starts = np.array(self.locals["dones"], np.bool_)
        return True


class LocalLearner:
    """A model that learns in the process that commands the robots.

    Args:
        model: Of Stable-Baselines3.
        with_buffer: Whether checkpoints have the replay buffer.
        say: Tells the user something, in a line.
        waits: Is told when the robots have waited for a checkpoint; None where nobody has to know.
    """

    def __init__(
        self,
        model: Any,
        *,
        with_buffer: bool,
        say: Callable[[str], None],
        waits: Waits | None = None,
    ) -> None:
        self._model = model
        self._with_buffer = with_buffer
        self._say = say
        self._waits = waits

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
        if self._waits is not None:
            self._waits.note()
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
    hold there, and go on with it afterwards.

    What is owed stands in ``model.owed_updates``, which a checkpoint holds: a run that goes on
    owes it, and makes it up when the robots have ended their episodes.

    Args:
        model: With ``train_freq=1``; makes no updates of its own any more.
        waits: Is told when the robots have waited; None where time does not go on meanwhile.
    """

    def __init__(self, model: Any, *, waits: Waits | None = None) -> None:
        super().__init__()
        model.gradient_steps = 0
        self._waits = waits
        before: tuple[int, list[bool]] = getattr(model, "owed_updates", (0, []))
        self._owed, has_ended = before
        self._has_ended = np.zeros(model.n_envs, np.bool_)
        if len(has_ended) == model.n_envs:
            self._has_ended[:] = has_ended

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        # A robot that is lost ends no episodes, and the others are not to wait for it.
        lost = [info.get("remote", {}).get("invalid_transition", False) for info in infos]
        if self.num_timesteps > self.model.learning_starts:  # type: ignore[attr-defined]
            self._owed += len(infos)
            self._has_ended |= np.asarray(self.locals["dones"], np.bool_)
            self._has_ended |= np.asarray(lost, np.bool_)
            self._note()
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
        if self._waits is not None:
            self._waits.note()

    def _note(self) -> None:
        model: Any = self.model
        model.owed_updates = self._owed, self._has_ended.tolist()
