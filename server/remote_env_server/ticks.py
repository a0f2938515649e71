"""Absolute control periods, ``anchor + n * period``. Pure: it is told the time."""

from __future__ import annotations

import math

__all__ = ["TickClock"]


class TickClock:
    """When control periods end, and how many were missed.

    Attributes:
        overruns: Control periods missed so far.
    """

    def __init__(self, period: float, *, anchor: float) -> None:
        """Begin with tick 0 at ``anchor``.

        Args:
            period: In seconds.
            anchor: On the clock that the caller uses, in seconds.
        """
        self.overruns = 0
        self._period = period
        self._anchor = anchor
        self._anchor_tick = 0

    def next_after(self, now: float) -> tuple[int, float]:
        """Return the number and the time of the first tick after ``now``."""
        n = math.floor((now - self._anchor) / self._period) + 1
        if self._anchor + n * self._period <= now:  # rounding, when now is a tick itself
            n += 1
        return self._anchor_tick + n, self._anchor + n * self._period

    def begin_at(self, now: float) -> None:
        """Let a period begin now: the next tick is a whole period away. Ticks are counted on."""
        self._anchor_tick, self._anchor = self.next_after(now)[0] - 1, now

    def note_done(self, tick: int, due: float, now: float) -> None:
        """Note when the work of a tick was done.

        A whole period late or more is an overrun: the periods are counted as missed, and
        the next one begins now, so that nothing is made up for.
        """
        late = math.floor((now - due) / self._period)
        if late > 0:
            self.overruns += late
            self._anchor_tick, self._anchor = tick + late, now
