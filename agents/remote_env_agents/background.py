"""A learner in the background, as the process that commands the robots sees it.

The collector is Stable-Baselines3's own loop with ``gradient_steps=0``: it acts with a copy of
the policy on the CPU. Its replay buffer is a way to the learner's process (``learner_process.py``).
It never waits for that: a transition for which there is no room is dropped and counted, weights
that are being written are taken one step later. Only at the end it waits, until all is saved.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stable_baselines3.common.callbacks import BaseCallback

from remote_env.errors import RemoteEnvError
from remote_env.spec import RobotSpec
from remote_env_agents.checkpoints import saved_line
from remote_env_agents.config import TrainConfig
from remote_env_agents.exchange import TransitionRing, WeightSlot, transition_dtype
from remote_env_agents.learner_process import (
    Assignment,
    CheckpointSaved,
    Failed,
    Finish,
    Interrupted,
    KnownRobots,
    Ready,
    Report,
    SaveCheckpoint,
    run_learner,
)
from remote_env_agents.presets import Preset
from remote_env_agents.starting import Start, steps_left
from remote_env_agents.wrapping import noted_wrappers

__all__ = ["BackgroundLearner", "LearnerLostError"]

_STARTS_WITHIN: Final = 300.0  # seconds; torch on a busy machine, and a large buffer from a disk
_SAVES_WITHIN: Final = 1800.0  # seconds, at the end
_ENDS_WITHIN: Final = 10.0  # seconds
_LOOK_EVERY: Final = 0.1  # seconds, while it is waited for
_BUFFERED: Final = 60.0  # seconds of transitions that may be on their way: it saves meanwhile,
_MOST_MEMORY: Final = 256 << 20  # but not more bytes than these,
_LEAST_ROWS: Final = 16  # nor fewer steps than these
_LOCKSTEP_HZ: Final = 1000.0  # steps a second where no period says how many there are
_NICENESS: Final = 10


class LearnerLostError(RemoteEnvError):
    """The background learner's process failed or died."""

    code = "learner"


class BackgroundLearner(BaseCallback):
    """The learner's process, and what goes to and fro.

    Made of a model that collects; ``close`` ends the process.

    Attributes:
        gradient_steps: Made so far in this training.
        owed: How many more the transitions allowed when it last said so.
        dropped: Steps of all robots for which there was no room.
    """

    def __init__(
        self,
        config: TrainConfig,
        preset: Preset,
        model: Any,
        spec: RobotSpec,
        *,
        start: Start,
        say: Callable[[str], None],
    ) -> None:
        """Start the process; blocks until it is ready, seconds. No robot moves meanwhile.

        Args:
            config: What the user chose.
            preset: All hyperparameters.
            model: That collects, on the CPU. Its replay buffer is exchanged.
            spec: Of the robots.
            start: Where it begins.
            say: Tells the user something, in a line.

        Raises:
            LearnerLostError: If it does not start; says why.
        """
        super().__init__()
        self.gradient_steps = 0
        self.owed = 0
        self._say = say
        self._is_saving = False
        self._is_finishing = False
        self._is_torn = False  # what the learner says can be understood no more
        context = multiprocessing.get_context("spawn")
        robots = KnownRobots(
            model.observation_space, model.action_space, model.n_envs, spec.goal_reward
        )
        dtype = transition_dtype(model.observation_space, model.action_space, model.n_envs)
        rows = math.ceil(_BUFFERED * (spec.control_hz or _LOCKSTEP_HZ))
        wanted = min(rows, _MOST_MEMORY // dtype.itemsize)
        self._ring = TransitionRing(context, dtype, max(_LEAST_ROWS, wanted))
        self._acting = model.policy.actor.state_dict()  # by reference
        self._weights = WeightSlot(context, self._acting)
        self._connection, theirs = context.Pipe()
        assignment = Assignment(
            config,
            preset,
            robots,
            start.checkpoint,
            goes_on=start.folder is not None,
            ends_at=model.num_timesteps + steps_left(config, start, model.num_timesteps),
            niceness=_NICENESS,
            noted=noted_wrappers(model),
        )
        self._process = context.Process(
            target=run_learner,
            args=(assignment, self._ring, self._weights, theirs),
            name="remote-env learner",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        try:
            self._wait_for(_is_ready, time.monotonic() + _STARTS_WITHIN)
        except BaseException:
            self.close()
            raise
        model.gradient_steps = 0
        model.replay_buffer = _Way(self._ring)
        self._weights.take_nowait(self._acting)

    @property
    def pid(self) -> int | None:
        """Of the learner's process."""
        return self._process.pid

    @property
    def dropped(self) -> int:
        """Steps of all robots for which there was no room on the way to the learner."""
        return self._ring.dropped

    def notes(self) -> str:
        """Return how far it is, for people."""
        text = f"{self.gradient_steps:,} updates"
        if self.owed:
            text += f", {self.owed:,} behind"
        if self.dropped:
            text += f", {self.dropped:,} steps dropped"
        return text

    # As a callback

    def _on_training_start(self) -> None:
        # A collection of garbage that looks through all of torch takes 0.2 s: four periods.
        gc.collect()
        gc.freeze()

    def _on_rollout_start(self) -> None:
        self._listen()
        self._weights.take_nowait(self._acting)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        gc.unfreeze()

    def _listen(self) -> list[object]:
        """Take in what the learner has said; never waits.

        Raises:
            LearnerLostError: If it said that it failed, or is gone.
            KeyboardInterrupt: If it was interrupted.
        """
        heard: list[object] = []
        try:
            while not self._is_torn and self._connection.poll():
                self._is_torn = True  # unless Ctrl-C comes in between
                heard.append(self._connection.recv())
                self._is_torn = False
        except (EOFError, ConnectionError) as error:
            self._process.join(_ENDS_WITHIN)
            code, why = self._process.exitcode, "; what it printed says why"
            if code == -signal.SIGKILL:
                why = " (SIGKILL, which is also how Linux ends what takes too much memory)"
            raise LearnerLostError(
                f"the learner's process {self.pid} died with exit code {code}{why}"
            ) from error
        for message in heard:
            self._take_in(message)
        return heard

    def _take_in(self, message: object) -> None:
        match message:
            case Report():
                self.gradient_steps, self.owed = message.gradient_steps, message.owed
                self._record(message)
            case CheckpointSaved():
                self._is_saving = False
                self._say(saved_line(message.step, message.size, message.seconds))
            case Failed():
                raise LearnerLostError(f"the learner failed: {message.text}")
            case Interrupted() if not self._is_finishing:
                raise KeyboardInterrupt

    def _record(self, report: Report) -> None:
        if getattr(self, "model", None) is None:
            return  # before the training
        for name, value in report.values.items():
            self.logger.record(name, value, _only_in_tables(name))
        self.logger.record("learner/gradient_steps", report.gradient_steps)
        self.logger.record("learner/owed", report.owed)
        self.logger.record("learner/dropped", self.dropped)

    # Saving

    def save_checkpoint(self, path: Path, step: int, watched: dict[str, Any]) -> None:
        """Have a checkpoint saved; does not wait for it. Left out while the last one is written."""
        if self._is_saving:
            self._say(f"no checkpoint at step {step:,}: the last one is still being written")
            return
        self._is_saving = True
        self._send(SaveCheckpoint(path, step, watched))

    def finish(self, path: Path, policy: Path, step: int, watched: dict[str, Any]) -> None:
        """Have a checkpoint and the policy saved, and the process end. Blocks until then.

        Raises:
            LearnerLostError: If that fails.
        """
        self._is_finishing = True
        self._send(Finish(SaveCheckpoint(path, step, watched), policy))
        deadline = time.monotonic() + _SAVES_WITHIN
        if not self._is_torn:
            self._wait_for(_is_last, deadline)
        self._process.join(max(_ENDS_WITHIN, deadline - time.monotonic()))
        if self._process.exitcode != 0:
            raise LearnerLostError(
                f"the learner did not save: its exit code is {self._process.exitcode}"
            )

    def close(self) -> None:
        """End the process. Idempotent; what is not saved is lost."""
        gc.unfreeze()
        self._connection.close()  # it ends by itself as soon as it notices
        self._process.join(_ENDS_WITHIN)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except ConnectionError:
            self._listen()  # says why
            raise

    def _wait_for(self, is_it: Callable[[object], bool], deadline: float) -> None:
        """Wait until the learner says this."""
        while (left := deadline - time.monotonic()) > 0:
            self._connection.poll(min(left, _LOOK_EVERY))
            if any([is_it(message) for message in self._listen()]):
                return
        raise LearnerLostError(f"the learner's process {self.pid} has said nothing for long; ended")


def _is_ready(message: object) -> bool:
    return isinstance(message, Ready)


def _is_last(message: object) -> bool:
    return isinstance(message, CheckpointSaved) and message.is_last


class _Way:
    """The replay buffer of the model that collects: what is added goes to the learner."""

    def __init__(self, ring: TransitionRing) -> None:
        self.add = ring.put_nowait
        self.truncate_last_trajectory = ring.cut


def _only_in_tables(name: str) -> str | None:
    """Return where Stable-Baselines3 does not show this."""
    return "tensorboard" if name == "train/n_updates" else None
