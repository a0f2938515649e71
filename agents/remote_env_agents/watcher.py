"""What happens beside the learning: the table, checkpoints, evaluations, when to stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from remote_env.errors import ConfigurationError
from remote_env_agents.buffers import is_transition
from remote_env_agents.checkpoints import truncate
from remote_env_agents.config import TrainConfig, seed_at_step
from remote_env_agents.display import Display, percent
from remote_env_agents.evaluation import Evaluation
from remote_env_agents.periods import PeriodCount
from remote_env_agents.run_folder import ProgressRow, RunFolder
from remote_env_agents.updates import Learner

__all__ = ["Watcher"]

_WINDOW: Final = 100  # episodes, for the means
_ROWS: Final = 200  # of the table, in the whole training

# Evaluates a model for a training run; calls with how many episodes are over.
Evaluate = Callable[[Any, Callable[[int], object]], Evaluation]


class Watcher(BaseCallback):
    """Watches a training run of Stable-Baselines3.

    Args:
        config: What the user chose.
        folder: Where to write.
        display: Where to show.
        evaluate: How to evaluate.
        learner: Who saves checkpoints.
        periods: Counts control periods; None in lockstep, where nothing depends on the clock.
            There a checkpoint begins new episodes, so that a training that goes on from it is
            the same bit by bit.
        watched: What the watcher of this run had counted at the checkpoint that it goes on from.

    Attributes:
        episodes: That ended so far.
        spoiled_steps: Steps that a lost link or a stale sensor spoiled.
        evaluation: The last one, if any.
        first_step: Where it began: not 0 if it was resumed.
        reached: Whether the success rate was reached that was asked for.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        folder: RunFolder,
        display: Display,
        evaluate: Evaluate,
        learner: Learner,
        periods: PeriodCount | None,
        watched: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        before = watched or {}
        self.episodes: int = before.get("episodes", 0)
        self.spoiled_steps: int = before.get("spoiled_steps", 0)
        self.evaluation: Evaluation | None = None
        self.reached = False
        self.first_step: int = before.get("first_step", -1)
        self._config = config
        self._folder = folder
        self._display = display
        self._evaluate = evaluate
        self._learner = learner
        self._periods = periods
        self._returns: deque[float] = deque(before.get("returns", ()), _WINDOW)
        self._lengths: deque[int] = deque(before.get("lengths", ()), _WINDOW)
        self._successes: deque[bool] = deque(before.get("successes", ()), _WINDOW)
        self._evaluated_at = before.get("evaluated_at", -1)
        self._before = float(before.get("seconds", 0.0))
        self._began = self._started = time.monotonic()

    def _init_callback(self) -> None:
        self.num_timesteps = int(self.model.num_timesteps)
        if self.first_step < 0:
            self.first_step = self.num_timesteps
        self._began_at = self.steps
        self._row_every = max(1, self._config.steps // _ROWS)
        self._next_row = self._after(self._row_every) if self.steps else self.num_timesteps
        self._next_evaluation = self._first_evaluation()
        self._next_checkpoint = self._after(self._config.checkpoint_every)

    @property
    def seconds(self) -> float:
        """Since the training began; not those in which it was interrupted."""
        return self._before + time.monotonic() - self._started

    @property
    def steps(self) -> int:
        """Done in this training, of all robots together."""
        return int(self.num_timesteps - self.first_step)

    @property
    def mean_return(self) -> float | None:
        """Of the last 100 episodes; None before the first one ended."""
        return float(np.mean(self._returns)) if self._returns else None

    @property
    def success_rate(self) -> float | None:
        """Of the last 100 episodes; None before one ended, or if the robot does not say."""
        return float(np.mean(self._successes)) if self._successes else None

    def watched(self) -> dict[str, Any]:
        """Return what goes into a checkpoint, so that another watcher can go on."""
        return {
            "first_step": self.first_step,
            "seconds": self.seconds,
            "episodes": self.episodes,
            "spoiled_steps": self.spoiled_steps,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "successes": list(self._successes),
            "evaluated_at": self._evaluated_at,
        }

    def _on_rollout_start(self) -> None:
        # Here and nowhere else the algorithm has no step in its hands.
        must_begin_anew = False
        if self.num_timesteps >= self._next_evaluation and not self.reached:
            self.evaluate()
            self._next_evaluation = self._after(self._config.eval_every)
            must_begin_anew = True
        if self.num_timesteps >= self._next_checkpoint:
            self._next_checkpoint = self._after(self._config.checkpoint_every)
            step = int(self.num_timesteps)
            self._learner.save_checkpoint(self._folder.checkpoint(step), step, self.watched())
            must_begin_anew |= self._periods is None
        if must_begin_anew:
            self._begin_anew()

    def _on_step(self) -> bool:
        if self._periods is not None:
            self._periods.note(self.locals["infos"], self.locals["dones"])
        for info, is_over in zip(self.locals["infos"], self.locals["dones"], strict=True):
            is_spoiled = not is_transition(info)
            self.spoiled_steps += is_spoiled
            # A robot that is back begins an episode, and ends none.
            if is_over and (not is_spoiled or "end_reason" in info["remote"]):
                self._count(info, is_spoiled)
        if self.num_timesteps >= self._next_row:
            self._next_row = self._after(self._row_every)
            self._folder.add(self._row())
        done = self.steps - self._began_at
        speed = done / max(time.monotonic() - self._began, 1e-9)
        self._display.update(self.steps, self._notes(), speed=speed)
        return not self._is_enough()

    def _on_training_end(self) -> None:
        if self._config.eval_every and self._evaluated_at != self.num_timesteps:
            self.evaluate()
        self._folder.add(self._row())
        self.logger.dump(int(self.num_timesteps))  # what came since the last one

    def _after(self, every: int) -> float:
        """Return the next multiple of so many steps of this training; never, for 0."""
        if not every:
            return np.inf
        return int(self.first_step + (self.steps // every + 1) * every)

    def _first_evaluation(self) -> float:
        """Return when it is due: at once, if one was due before and was not finished."""
        every = self._config.eval_every
        if not every or self.steps < every:
            return self._after(every)
        due = self.first_step + self.steps // every * every
        return due if self._evaluated_at < due else self._after(every)

    def _count(self, info: dict[str, Any], is_spoiled: bool) -> None:
        self.episodes += 1
        if is_spoiled:
            return
        self._returns.append(float(info["episode"]["r"]))
        self._lengths.append(int(info["episode"]["l"]))
        success = info.get("is_success")
        if success is not None:
            self._successes.append(bool(success))
        elif self._config.success_at is not None:
            raise ConfigurationError(
                'success_at needs info["is_success"], which this robot does not say; leave it out'
            )

    def _is_enough(self) -> bool:
        wanted = self._config.success_at
        if wanted is not None and len(self._successes) == _WINDOW:
            self.reached = self.reached or float(np.mean(self._successes)) >= wanted
        return self.reached

    def _notes(self) -> str:
        notes = [] if self.mean_return is None else [f"return {self.mean_return:.4g}"]
        if self.success_rate is not None:
            notes.append(f"success {percent(self.success_rate)}")
        if how_far := self._learner.notes():
            notes.append(how_far)
        return "  ".join(notes)

    def _row(self, evaluation: Evaluation | None = None) -> ProgressRow:
        low, high = (evaluation.interval if evaluation else None) or (None, None)
        return ProgressRow(
            step=int(self.num_timesteps),
            seconds=self.seconds,
            episodes=self.episodes,
            episode_return=self.mean_return,
            episode_length=float(np.mean(self._lengths)) if self._lengths else None,
            success_rate=self.success_rate,
            evaluation_return=evaluation.mean_return if evaluation else None,
            evaluation_success_rate=evaluation.success_rate if evaluation else None,
            evaluation_low=low,
            evaluation_high=high,
        )

    def evaluate(self) -> None:
        """Evaluate the policy as it is now, on the same robots."""
        count, steps = self._config.eval_episodes, self.steps

        def tell(done: int) -> None:
            self._display.update(steps, f"evaluating, {done} of {count} episodes")

        evaluation = self.evaluation = self._evaluate(self.model, tell)
        self._evaluated_at = self.num_timesteps
        self._folder.add(self._row(evaluation))
        self.logger.record("evaluation/return", evaluation.mean_return)
        rate, wanted = evaluation.success_rate, self._config.success_at
        if rate is not None:
            self.logger.record("evaluation/success_rate", rate)
            self.reached = self.reached or (wanted is not None and rate >= wanted)
        self.logger.dump(int(self.num_timesteps))  # now, not at the end of the next rollout

    def _begin_anew(self) -> None:
        """Begin new episodes: the evaluation has ended those that were under way."""
        model: Any = self.model
        # Without new seeds training would go on where each evaluation's last seed leads to.
        model.env.seed(seed_at_step(self._config.seed, int(self.num_timesteps)))
        model._last_obs = model.env.reset()
        model._last_episode_starts = np.ones(model.env.num_envs, dtype=bool)
        truncate(getattr(model, "replay_buffer", None))
        if self._periods is not None:
            self._periods.begin_anew()
