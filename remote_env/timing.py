"""Where the time of a step goes, seen from the learner."""

from __future__ import annotations

from dataclasses import dataclass

from remote_env.asking import Answer
from remote_env.clock import ClockEstimate
from remote_env.protocol import ResetDone, StepDone
from remote_env.stats import Durations, DurationSummary

__all__ = ["ClientStatistics", "StepTimer"]

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
    """Collects the timing of answers. One thread notes; any may read."""

    def __init__(self) -> None:
        self._durations = {name: Durations() for name in _PARTS}
        self._last_read_at: float | None = None

    def note(self, answer: Answer, done: ResetDone | StepDone) -> dict[str, float]:
        """Note an answer; return its parts in seconds, for ``info["remote"]["timing"]``.

        The first step after a reset has no period.
        """
        queued, worked, waited = (*done.durations, 0.0, 0.0, 0.0)[:3]
        there = max(0.0, done.sent - done.received)
        timing = {
            "round_trip": answer.read_at - answer.asked_at,
            "serialize": answer.sent_at - answer.asked_at,
            "network": max(0.0, answer.arrived_at - answer.sent_at - there),
            "queued": max(0.0, queued),
            "worked": max(0.0, worked),
            "waited": max(0.0, waited),
            "deserialize": answer.read_at - answer.arrived_at,
        }
        if isinstance(done, ResetDone):
            self._last_read_at = None
            return timing
        if self._last_read_at is not None:
            timing["period"] = answer.read_at - self._last_read_at
        self._last_read_at = answer.read_at
        for name, seconds in timing.items():
            self._durations[name].record(seconds)
        return timing

    def statistics(
        self, *, resumptions: int, clock: ClockEstimate | None, carrier: str
    ) -> ClientStatistics:
        """Return all of it."""
        summaries = {name: durations.summary() for name, durations in self._durations.items()}
        return ClientStatistics(**summaries, resumptions=resumptions, clock=clock, carrier=carrier)
