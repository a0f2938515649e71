"""The background learner's own process: the model, its replay buffer and its optimisers.

It takes transitions as they come and makes up to one gradient step for each, as
``gradient_steps=-1`` does; it never runs ahead of the data. When it is slower than the robots the
data still goes into the buffer and the updates are fewer: what it owes is a number, not a queue.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from remote_env.goals import GoalReward
from remote_env_agents.checkpoints import load_state, save_checkpoint, save_model, truncate
from remote_env_agents.config import TrainConfig
from remote_env_agents.exchange import TransitionRing, WeightSlot
from remote_env_agents.presets import Preset, algorithm_class, make_model
from remote_env_agents.starting import restore
from remote_env_agents.wrapping import Noted, note_wrappers

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

__all__ = [
    "Assignment",
    "CheckpointSaved",
    "Failed",
    "Finish",
    "Interrupted",
    "KnownRobots",
    "Ready",
    "Report",
    "SaveCheckpoint",
    "run_learner",
    "takes_more",
]

LEFT_ALONE: Final = 3  # the exit code of a learner whose collector is gone
_LOOK_EVERY: Final = 0.1  # seconds, at the collector's messages while no transition comes
_REPORT_EVERY: Final = 0.5  # seconds
_PUBLISH_WITHIN: Final = 1.0  # seconds that the collector may take to copy weights


class KnownRobots(VecEnv):
    """What a learner knows of robots that another process commands: spaces and the goal reward.

    Args:
        observation_space: As the model sees it, wrappers included.
        action_space: Of each robot.
        count: How many robots there are.
        goal_reward: For hindsight; None if they have none.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        count: int,
        goal_reward: GoalReward | None,
    ) -> None:
        self._goal_reward = goal_reward
        super().__init__(count, observation_space, action_space)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Compute rewards for hindsight; there is no other method."""
        if method_name != "compute_reward" or self._goal_reward is None:
            raise AttributeError(f"a background learner has no robot to call {method_name} of")
        achieved, desired, _ = method_args
        return [self._goal_reward.compute(achieved, desired)] * len(
            list(self._get_indices(indices))
        )

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return None for ``render_mode``; there is no other attribute."""
        if attr_name != "render_mode":
            raise AttributeError(f"a background learner has no robot with {attr_name}")
        return [None for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each."""
        return [False for _ in self._get_indices(indices)]

    def _refuse(self) -> Any:
        raise AttributeError("a background learner commands no robots")

    def reset(self) -> Any:
        """Raise: the collector does that."""
        self._refuse()

    def step_async(self, actions: Any) -> None:
        """Raise: the collector does that."""
        self._refuse()

    def step_wait(self) -> Any:
        """Raise: the collector does that."""
        self._refuse()

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raise: the collector does that."""
        self._refuse()

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a learner is to do.

    Attributes:
        config: What the user chose.
        preset: All hyperparameters.
        robots: What is known of them.
        checkpoint: To go on from; None to begin.
        goes_on: Whether its run goes on, with the chance that it had.
        ends_at: How many there will be in the end.
        niceness: How far it steps back for others on this machine, 0 to 19.
        noted: With which wrappers the robots are learned from; None if with none.
    """

    config: TrainConfig
    preset: Preset
    robots: KnownRobots
    checkpoint: Path | None
    goes_on: bool
    ends_at: int
    niceness: int
    noted: Noted | None = None


# What the collector says


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Save a checkpoint.

    Attributes:
        path: Of its model.
        step: That the collector has come to.
        watched: What its watcher counted.
    """

    path: Path
    step: int
    watched: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """Save a checkpoint and the policy, and end.

    Attributes:
        last: The checkpoint.
        policy: Where the policy goes.
    """

    last: SaveCheckpoint
    policy: Path


# What the learner says


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything is loaded; the first weights are published."""


@dataclass(frozen=True, slots=True)
class Report:
    """How far it is.

    Attributes:
        transitions: Taken so far in this training, of all robots together.
        gradient_steps: Made so far, in all.
        owed: How many more the transitions allow.
        values: What the algorithm logged last.
    """

    transitions: int
    gradient_steps: int
    owed: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is on the disk.

    Attributes:
        step: Of it.
        size: In bytes.
        seconds: That it took.
        is_last: Whether the policy is saved too, and the learner ends.
    """

    step: int
    size: int
    seconds: float
    is_last: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """It ends, for this reason."""

    text: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody sent the learner SIGINT: the training is to end."""


class _LeftAloneError(Exception):
    """The collector is gone."""


def run_learner(
    assignment: Assignment, ring: TransitionRing, weights: WeightSlot, connection: Connection
) -> None:
    """Learn until the collector says so, or is gone. The target of a process."""
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    os.nice(assignment.niceness)
    try:
        learner = _Learner(assignment, ring, weights, connection, interrupts)
        connection.send(Ready())
        learner.learn()
    except (_LeftAloneError, EOFError, ConnectionError):
        raise SystemExit(LEFT_ALONE) from None  # nobody is there to be told more
    except Exception as error:
        try:
            connection.send(Failed(f"{type(error).__name__}: {error}"))
        except OSError:
            return
        raise


class _Learner:
    def __init__(
        self,
        assignment: Assignment,
        ring: TransitionRing,
        weights: WeightSlot,
        connection: Connection,
        interrupts: Sequence[int],
    ) -> None:
        import torch
        from stable_baselines3.common.logger import Logger

        torch.set_num_threads(assignment.config.torch_threads)
        self._assignment = assignment
        self._ring = ring
        self._weights = weights
        self._connection = connection
        self._interrupts = interrupts
        self._model: Any = _model(assignment)
        self._logger = Logger(None, [])
        self._model.set_logger(self._logger)
        self._model._total_timesteps = assignment.ends_at
        self._acting = self._model.policy.actor.state_dict()  # by reference
        self._transitions = 0
        self._owed = 0
        self._values: dict[str, float] = {}
        self._reported_at = -np.inf
        self._has_told_interrupt = False
        weights.publish(self._acting, _PUBLISH_WITHIN)

    def learn(self) -> None:
        """Learn until the collector says so.

        Raises:
            _LeftAloneError: If it is gone.
        """
        while True:
            if self._connection.poll() and self._obey(self._connection.recv()):
                return
            self._drain()
            if self._owed > 0 and self._can_sample():
                self._train()
            else:
                self._take(_LOOK_EVERY)
            self._report()

    def _obey(self, message: object) -> bool:
        """Do what the collector says; return whether it was the last thing."""
        if not isinstance(message, (SaveCheckpoint, Finish)):
            raise _LeftAloneError(f"nobody says {message!r:.60}")
        self._drain()
        last = message.last if isinstance(message, Finish) else message
        self._model.num_timesteps = last.step
        saved = save_checkpoint(
            last.path,
            self._model,
            watched=last.watched,
            with_buffer=self._assignment.config.save_buffer,
        )
        if isinstance(message, Finish):
            save_model(message.policy, self._model)
            self._report(now=True)
        self._connection.send(
            CheckpointSaved(last.step, saved.size, saved.seconds, isinstance(message, Finish))
        )
        return isinstance(message, Finish)

    def _drain(self) -> None:
        while self._take(0.0):
            pass

    def _take(self, timeout: float) -> bool:
        taken = self._ring.take(timeout)
        if taken is None:
            return False
        begins_anew, transition = taken
        model = self._model
        if begins_anew:
            truncate(model.replay_buffer)
        model.replay_buffer.add(*transition)
        model.num_timesteps += model.n_envs
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        self._transitions += model.n_envs
        if model.num_timesteps > model.learning_starts:
            self._owed += model.n_envs
        return True

    def _can_sample(self) -> bool:
        replay = self._model.replay_buffer
        lengths = getattr(replay, "ep_length", None)  # of hindsight: it needs a whole episode
        return bool(np.any(lengths)) if lengths is not None else replay.size() > 0

    def _train(self) -> None:
        self._model.train(gradient_steps=1, batch_size=self._model.batch_size)
        self._owed -= 1
        self._weights.publish(self._acting, _PUBLISH_WITHIN)

    def _report(self, *, now: bool = False) -> None:
        # Who evaluates or resets robots reads nothing for minutes, and we are to go on learning.
        if not (now or takes_more(self._connection)):
            return
        if self._interrupts and not self._has_told_interrupt:
            self._has_told_interrupt = True
            self._connection.send(Interrupted())
        if not now and time.monotonic() - self._reported_at < _REPORT_EVERY:
            return
        self._reported_at = time.monotonic()
        values = self._logger.name_to_value
        self._values = {name: float(value) for name, value in values.items()}
        self._connection.send(
            Report(self._transitions, int(self._model._n_updates), self._owed, self._values)
        )


def takes_more(connection: Connection) -> bool:
    """Whether a small message can be sent without waiting; where nobody can tell, yes."""
    if os.name != "posix":
        return True
    _, writable, _ = select.select((), (connection.fileno(),), (), 0.0)
    return bool(writable)


def _model(assignment: Assignment) -> Any:
    """Return the model with its replay buffer, new or as it was."""
    config, robots, noted = assignment.config, assignment.robots, assignment.noted
    if assignment.checkpoint is None:
        model: Any = make_model(config, assignment.preset, robots)
    else:
        cls: Any = algorithm_class(config.algo)
        model = cls.load(assignment.checkpoint, env=robots, device=config.device)
        restore(model, load_state(assignment.checkpoint), goes_on=assignment.goes_on)
    if noted is not None:
        note_wrappers(model, noted.recipe, streams=noted.streams)
    return model
