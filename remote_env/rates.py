"""How often streams come, as one who looks at them now and then can tell. Pure.

Sequence numbers say how many captures there were, also those that nobody looked at, and the
stamps of the first and the last of them, on the robot's own clock, how long they took. That is
exact after a few captures, whenever we look, where counting captures in a second of ours is wrong
by one, 3 % at 30 Hz. Stamps come from drivers and may be wrong, so they count only as far as the
robot's clock at both looks allows: then the rate is wrong by at most one capture in the window.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from remote_env.spec import StreamSpec

__all__ = [
    "LEAST_SECONDS",
    "TOLERANCE",
    "WINDOW",
    "Rate",
    "RateWindow",
    "StreamState",
    "judge_stream",
]

WINDOW: Final = 8.0  # seconds; a capture more or less at 30 Hz is 0.4 %
TOLERANCE: Final = 0.02  # of the declared rate
# No rate is judged before so much was seen: one late capture is too much of less.
LEAST_SECONDS: Final = 2.0
_LEAST_PERIODS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something came.

    Attributes:
        hz: Captures per second; 0 if none came.
        seconds: What that was measured over.
    """

    hz: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Mark:
    sequence: int
    stamp: float
    time: float


class RateWindow:
    """Captures per second of each stream, over the last seconds. Pure: it is told the times.

    Not safe from several threads.
    """

    def __init__(self, *, window: float = WINDOW) -> None:
        """Begin knowing nothing.

        Args:
            window: Over how long a rate is taken, in seconds; over two captures of a stream
                that is slower than that.
        """
        self._window = window
        self._before: dict[str, _Mark] = {}  # the first look at each
        self._marks: dict[str, deque[_Mark]] = {}  # of captures that came since

    def note(self, now: float, sequences: Mapping[str, int], stamps: Mapping[str, float]) -> None:
        """Note a look at all streams.

        Args:
            now: The robot's clock when it was taken, in seconds.
            sequences: By stream, how often it was published.
            stamps: By stream, when the newest was measured, on the same clock.
        """
        for name, sequence in sequences.items():
            mark = _Mark(sequence, stamps[name], now)
            marks = self._marks.setdefault(name, deque())
            newest = marks[-1] if marks else self._before.setdefault(name, mark)
            if sequence < newest.sequence:  # it began anew
                marks.clear()
                self._before[name] = mark
            elif sequence > newest.sequence:
                # What was there before we came may be an hour old: it begins no window.
                marks.append(mark)
                while len(marks) > 2 and marks[1].time <= now - self._window:
                    marks.popleft()

    def newest(self, name: str) -> int:
        """Return the last sequence number that was noted; 0 if there was none."""
        marks = self._marks.get(name)
        before = self._before.get(name)
        return marks[-1].sequence if marks else before.sequence if before else 0

    def rate(self, name: str, now: float) -> Rate | None:
        """Return how often a stream comes; None if it was never noted.

        Args:
            name: Of the stream.
            now: The robot's clock until which nothing newer came than what was noted. The rate
                of a stream that has fallen silent goes down with it.
        """
        before, marks = self._before.get(name), self._marks.get(name)
        if before is None or not marks:
            return None if before is None else Rate(0.0, now - before.time)
        first, last = self._first(marks, now), marks[-1]
        count, took = last.sequence - first.sequence, last.stamp - first.stamp
        elapsed, looked = now - first.time, last.time - first.time
        if count == 0:
            return Rate(0.0, elapsed)
        by_stamps = count / took if took > 0 else math.inf
        at_least = (count - 1) / looked if looked > 0 else 0.0
        at_most = (count + 1) / elapsed if elapsed > 0 else math.inf
        return Rate(min(max(by_stamps, at_least), at_most), elapsed)

    def _first(self, marks: deque[_Mark], now: float) -> _Mark:
        """Return the last mark before the window, or the first that there is; not the newest."""
        first = marks[0]
        for mark in list(marks)[1:-1]:
            if mark.time > now - self._window:
                break
            first = mark
        return first


@dataclass(frozen=True, slots=True)
class StreamState:
    """How one stream does.

    Attributes:
        name: Of the stream.
        hz: Captures per second; None if that is not known (yet), or means nothing.
        declared_hz: What the robot says; 0 if nothing.
        deviation: By what share ``hz`` is more than declared; None if it cannot be judged.
        age: Seconds since its newest capture; None if there is none.
        max_age: From when on it is stale, in seconds; infinity is never.
        sequence: How often it was published.
    """

    name: str
    hz: float | None
    declared_hz: float
    deviation: float | None
    age: float | None
    max_age: float
    sequence: int

    @property
    def is_off(self) -> bool:
        """Whether its rate is not the declared one."""
        return self.deviation is not None and abs(self.deviation) > TOLERANCE

    @property
    def is_stale(self) -> bool:
        """Whether its newest capture is too old."""
        return self.age is not None and self.age > self.max_age


def judge_stream(
    spec: StreamSpec, rate: Rate | None, told: Mapping[str, Any], *, seconds: float
) -> StreamState:
    """Return how a stream does in real time.

    Args:
        spec: What the robot declares.
        rate: As measured; None if no look at it came through.
        told: What the statistics say of it.
        seconds: For how long the robot is watched.
    """
    sequence = int(told.get("sequence", 0))
    if rate is None and sequence == 0:
        rate = Rate(0.0, seconds)
    hz = None if rate is None else rate.hz
    declared = spec.hz
    deviation = None
    if not spec.can_age and not hz:  # a calibration may be published once
        hz, declared = None, 0.0
    elif rate is None or rate.seconds < max(LEAST_SECONDS, _LEAST_PERIODS / (declared or math.inf)):
        hz = hz or None
    elif declared:
        deviation = rate.hz / declared - 1.0
    return StreamState(spec.name, hz, declared, deviation, told.get("age"), spec.max_age, sequence)
