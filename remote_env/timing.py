"""Where the time of a step goes, seen from the learner."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

from remote_env.asking import Answer
from remote_env.clock import ClockEstimate
from remote_env.protocol import ResetDone, StepDone
from remote_env.stats import Durations, DurationSummary

__all__ = ["ClientStatistics", "StepTimer", "name_parts"]

_PARTS = (
    "round_trip",
    "serialize",
    "network",
    "queued",
    "worked",
    "waited",
    "deserialize",
    "period",
)


_NOT_SAID = (0.0, 0.0, 0.0)  # by a server that leaves durations out
_FOLD_AT = 512  # rows of 170 bytes


def name_parts(row: tuple[float, ...]) -> dict[str, float]:
    """Return what ``StepTimer.note`` did, by name, for ``info["remote"]["timing"]``.

    A reset and the first step after it have no period.
    """
    return {
        name: seconds for name, seconds in zip(_PARTS, row, strict=True) if not math.isnan(seconds)
    }


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Where the time of all steps went; each summary is in seconds.

    Attributes:
        round_trip: From the call to the decoded answer; its ``jitter`` is p99 - p50.
        serialize: To encode the request.
        network: On the way, there and back, and in both systems' buffers.
        queued: Until the robot's control thread took it up.
        worked: In the robot's own code.
        waited: For the end of the control period; 0 in lockstep.
        deserialize: To decode the answer.
        period: From one answered step to the next, the learner's own time included.
        resumptions: How often the connection was lost and resumed.
        clock: How far the server's monotonic clock is ahead of ours; None before the first
            answer.
        carrier: What carries observations now, such as ``"shared memory and TCP"``; see
            ``RobotClient.carrier``.
    """

    round_trip: DurationSummary
    serialize: DurationSummary
    network: DurationSummary
    queued: DurationSummary
    worked: DurationSummary
    waited: DurationSummary
    deserialize: DurationSummary
    period: DurationSummary
    resumptions: int
    clock: ClockEstimate | None
    carrier: str


class StepTimer:
    """Collects the timing of answers. One thread notes; any may read.

    What was noted is put into the histograms many at a time: that takes a tenth of the 6 us that
    one by one takes for each step.
    """

    def __init__(self) -> None:
        self._durations = {name: Durations() for name in _PARTS}
        self._noted: list[tuple[float, ...]] = []
        self._folding = threading.Lock()  # guards the durations; noting needs none
        self._last_read_at = math.nan

    def note(self, answer: Answer, done: ResetDone | StepDone) -> tuple[float, ...]:
        """Note an answer; return its parts in seconds, for ``name_parts``."""
        queued, worked, waited = done.durations[:3] if len(done.durations) > 2 else _NOT_SAID
        sent_at, arrived_at, read_at = answer.sent_at, answer.arrived_at, answer.read_at
        there = done.sent - done.received
        network = arrived_at - sent_at - (there if there > 0.0 else 0.0)
        is_step = type(done) is StepDone
        row = (
            read_at - answer.asked_at,
            sent_at - answer.asked_at,
            network if network > 0.0 else 0.0,
            queued if queued > 0.0 else 0.0,
            worked if worked > 0.0 else 0.0,
            waited if waited > 0.0 else 0.0,
            read_at - arrived_at,
            read_at - self._last_read_at if is_step else math.nan,
        )
        self._last_read_at = read_at if is_step else math.nan
        if is_step:
            self._noted.append(row)
            if len(self._noted) >= _FOLD_AT:
                self._fold()
        return row

    def _fold(self) -> None:
        with self._folding:
            rows = self._noted[:]
            del self._noted[: len(rows)]  # another thread may have noted more meanwhile
            if not rows:
                return
            columns = np.array(rows).T
            for name, column in zip(_PARTS, columns, strict=True):
                # The peer says some of it, and a diagnosis must not end an episode.
                self._durations[name].record_all(column[np.isfinite(column)])

    def statistics(
        self, *, resumptions: int, clock: ClockEstimate | None, carrier: str
    ) -> ClientStatistics:
        """Return all of it."""
        self._fold()
        summaries = {name: durations.summary() for name, durations in self._durations.items()}
        return ClientStatistics(**summaries, resumptions=resumptions, clock=clock, carrier=carrier)
