"""How often streams really deliver, for statistics and diagnosis. Pure: it is told the times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final, TypeAlias

from remote_env_server.buffers import Field

__all__ = ["StreamRates"]

_Mark: TypeAlias = tuple[int, float]  # a sequence number, and when it came

# How many marks a window is divided into; more costs memory and gains nothing.
_MARKS: Final = 16


class StreamRates:
    """Captures per second of each stream, over the last moments. Not safe from several threads.

    Counts by sequence numbers, so captures that nobody looked at count too, and by the moments
    at which they came, so that a sensor with a broken clock has its true rate.
    """

    def __init__(self, *, window: float = 1.0) -> None:
        """Begin knowing nothing.

        Args:
            window: Over how long a rate is taken, in seconds; over two captures of a stream
                that is slower than that.
        """
        self._window = window
        self._marks: dict[str, deque[_Mark]] = {}
        self._newest: dict[str, _Mark] = {}

    def note(self, fields: Mapping[str, Field]) -> None:
        """Note the newest captures, by stream name; call it at every step, or more often."""
        for name, field in fields.items():
            newest = self._newest.get(name)
            if newest is not None and newest[0] == field.sequence:
                continue
            if field.sequence == 0 or not math.isfinite(field.arrived_at):
                continue  # declared or made by the robot's own code: it has no rate
            self._note(name, newest, (field.sequence, field.arrived_at))

    def _note(self, name: str, newest: _Mark | None, mark: _Mark) -> None:
        marks = self._marks.setdefault(name, deque())
        if newest is not None and mark < newest:
            marks.clear()  # another buffer of the same name
        elif newest is not None and newest[1] - marks[-1][1] >= self._window / _MARKS:
            marks.append(newest)
        if not marks:
            marks.append(mark)
        while len(marks) > 1 and marks[1][1] <= mark[1] - self._window:
            marks.popleft()
        self._newest[name] = mark

    def rates(self, now: float) -> dict[str, float]:
        """Return captures per second, of each stream that delivered at least twice.

        Args:
            now: This machine's monotonic clock, in seconds. The rate of a stream that has
                fallen silent goes down with time.
        """
        rates = {}
        for name, newest in self._newest.items():
            start = self._start_of(name, now)
            count, took = newest[0] - start[0], newest[1] - start[1]
            if count > 0:
                # The next capture is due a period after the last; if it does not come then,
                # the stream is at best as fast as if it came now.
                at_best = (now - start[1]) * count / (count + 1)
                rates[name] = count / max(took, at_best, 1e-9)
        return rates

    def _start_of(self, name: str, now: float) -> _Mark:
        """Return the last mark before the window, or the first that there is."""
        marks = self._marks[name]
        start = marks[0]
        for mark in marks:
            if mark[1] > now - self._window:
                break
            start = mark
        return start
