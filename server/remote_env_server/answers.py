"""What came of a learner's requests, as messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from remote_env.errors import RemoteEnvError
from remote_env.protocol import ResetDone, Step, StepDone, Value
from remote_env.spec import RobotSpec, StreamKind
from remote_env_server.buffers import Field
from remote_env_server.leaving_out import LeftOut
from remote_env_server.requests import Breakdown, ResetResult, StepResult, Watch

__all__ = ["EpisodeAnswers"]


class EpisodeAnswers:
    """Writes the answers of one client, and counts what became of its actions."""

    def __init__(self, spec: RobotSpec) -> None:
        # The leaves of a served environment's observation have no clock of their own.
        self._clocked = {s.name for s in spec.streams if s.kind is not StreamKind.OBSERVATION}
        self._clipped = 0
        self._refused: dict[str, int] = {}
        self._left_out = LeftOut()

    def subscribe(self, streams: Sequence[str], kept: Sequence[str]) -> None:
        """Note what the client observes, and of which streams it keeps the newest array."""
        self._left_out = LeftOut(streams, kept)

    def note_sent(self, done: ResetDone | StepDone) -> None:
        """Note that the client gets this answer, now or when it resumes."""
        self._left_out.note_sent(done.observation)

    def count_refused(self, error: RemoteEnvError) -> None:
        """Count an action of this episode that was refused, under the end of the error's code."""
        reason = error.code.rpartition(".")[2]
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def reset_done(
        self, message_id: int, result: ResetResult, watch: Watch, *, came: float
    ) -> ResetDone:
        """Return the answer to a reset that came at a moment of the monotonic clock."""
        self._clipped, self._refused = 0, {}
        captured = result.captured
        chosen = watch.view.choose(captured.fields)
        sequences, stamps = self._times_of(chosen, watch)
        observation = watch.view.arrays_of(chosen)
        sent = time.monotonic()
        return ResetDone(
            id=message_id,
            episode=result.episode,
            tick=captured.tick,
            time=captured.time,
            sequences=sequences,
            stamps=stamps,
            received=came,
            sent=sent,
            durations=_listed(result.durations, sent - captured.taken_at),
            info=result.info,
            remote=captured.remote,
            observation=observation,
        )

    def step_done(
        self, message: Step, result: StepResult, watch: Watch, *, executed: Any, came: float
    ) -> StepDone:
        """Return the answer to a step.

        Args:
            message: Which asked for it.
            result: What came of it.
            watch: What the client observes.
            executed: The action, if the guard changed it; else None.
            came: When it came, on the monotonic clock, in seconds.
        """
        captured = result.captured
        chosen = watch.view.choose(captured.fields)
        sequences, stamps = self._times_of(chosen, watch)
        observation = watch.view.arrays_of(chosen)
        sent = time.monotonic()
        return StepDone(
            id=message.id,
            episode=message.episode,
            step=message.step,
            tick=captured.tick,
            time=captured.time,
            reward=result.outcome.reward,
            terminated=result.terminated,
            truncated=result.truncated,
            end_reason=result.end_reason,
            sequences=sequences,
            stamps=stamps,
            received=came,
            sent=sent,
            durations=_listed(result.durations, sent - captured.taken_at),
            info=dict(result.outcome.info),
            remote={**captured.remote, **self._about_action(result, executed)},
            unchanged=self._left_out.of(observation),
            observation=observation,
        )

    def _about_action(self, result: StepResult, executed: Any) -> dict[str, Value]:
        """Return what was executed if that is not what was asked, and what was refused so far."""
        if result.captured.remote.get("invalid_transition"):
            return {}
        about: dict[str, Value] = {}
        executed = executed if result.executed is None else result.executed
        if executed is not None:
            self._clipped += 1
            about["action_executed"] = executed
        if self._clipped or self._refused:
            about["guard"] = {"clipped": self._clipped, "refused": dict(self._refused)}
        return about

    def _times_of(
        self, chosen: Sequence[Field], watch: Watch
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        if self._clocked.isdisjoint(watch.streams):
            return (), ()
        return tuple([f.sequence for f in chosen]), tuple([float(f.stamp) for f in chosen])


def _listed(durations: Breakdown, since_taken: float) -> tuple[float, float, float, float]:
    return durations.queued, durations.worked, durations.waited, since_taken
