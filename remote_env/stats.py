"""How long things took: millions of durations in a few kilobytes, read while they are written.

Durations are counted in buckets, sixteen for each doubling, so that a percentile is within
2.2 % of the true one however many were recorded, and memory stays flat. (HdrHistogram's idea,
with logarithms.)

All figures stand in one list, which only the recording thread writes. Copying a list is one
step of the interpreter, so a reader sees every record whole but the one in the making. Neither
waits for the other, and no lock is held when a control loop records.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DurationSummary", "Durations", "Histogram"]

_PER_OCTAVE: Final = 16
_OCTAVES: Final = 38  # up to 4.8 h; longer ones share the last bucket
_LEAST: Final = 1e-6 / 16  # seconds; shorter ones share the first bucket
_SHIFT: Final = 1.0 - _PER_OCTAVE * math.log2(_LEAST)  # the bucket from _LEAST is number 1
_LAST: Final = _PER_OCTAVE * _OCTAVES + 1

# The list: two figures, then the count of every bucket.
_SUM: Final = 0
_MAX: Final = 1
_COUNTS: Final = 2

_BAR: Final = 40  # characters


@dataclass(frozen=True, slots=True)
class DurationSummary:
    """What durations were like: seconds, all NaN when none was recorded.

    Attributes:
        count: How many.
        p50: The median, within 2.2 %.
        p99: What 99 of 100 did not exceed, within 2.2 %.
        max: The longest.
        mean: Their sum by their count.
    """

    count: int
    p50: float
    p99: float
    max: float
    mean: float

    @property
    def jitter(self) -> float:
        """How much they varied: ``p99 - p50``."""
        return self.p99 - self.p50


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations lay between bounds; print it.

    Attributes:
        bounds: Seconds, ascending, one more than counts. The first may be 0, the last infinite.
        counts: How many were between ``bounds[i]`` and ``bounds[i + 1]``.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    def __str__(self) -> str:
        """Return a line with a bar for each pair of bounds."""
        if not self.counts:
            return "nothing recorded"
        most = max(self.counts)
        return "\n".join(
            f"{_text(low):>7} to {_text(high):>7} {count:>9}  {'#' * -(-count * _BAR // most)}"
            for (low, high), count in zip(itertools.pairwise(self.bounds), self.counts, strict=True)
        )


class Durations:
    """Records durations. One thread records; any thread may read, at any time.

    >>> late = Durations()
    >>> for seconds in (0.001, 0.002, 0.004):
    ...     late.record(seconds)
    >>> late.summary().max
    0.004

    Takes 5 kB, at most 25 kB, for any number of records.
    """

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: list[float] = [0.0] * _COUNTS + [0] * (_LAST + 1)

    def record(self, seconds: float) -> None:
        """Add a duration; what is negative counts as 0 (who is early is not late).

        Never blocks; 0.3 us. If two threads record, some of what they record may be lost.

        Raises:
            ValueError: If ``seconds`` is NaN or infinite.
        """
        if seconds < _LEAST:
            seconds = max(seconds, 0.0)
            bucket = 0
        else:
            try:
                bucket = int(math.log2(seconds) * _PER_OCTAVE + _SHIFT)
            except (ValueError, OverflowError):
                raise ValueError(f"a duration is a number of seconds, not {seconds}") from None
            if bucket > _LAST:
                bucket = _LAST
        cells = self._cells
        # The count last: a reader may see its sum without it, but no count without its sum.
        cells[_SUM] += seconds
        if seconds > cells[_MAX]:
            cells[_MAX] = seconds
        cells[_COUNTS + bucket] += 1

    def record_all(self, seconds: NDArray[np.float64]) -> None:
        """Add many at once, ``(n,)`` float64; 30 us and 0.03 us for each.

        Raises:
            ValueError: If one of them is NaN or infinite.
        """
        if not np.isfinite(seconds).all():
            raise ValueError("a duration is a number of seconds, not NaN or infinite")
        seconds = np.maximum(seconds, 0.0)
        buckets = np.log2(np.maximum(seconds, _LEAST)) * _PER_OCTAVE + _SHIFT
        buckets = np.where(seconds < _LEAST, 0, np.minimum(buckets, _LAST)).astype(np.intp)
        cells = self._cells
        cells[_SUM] += float(seconds.sum())
        cells[_MAX] = max(cells[_MAX], float(seconds.max(initial=0.0)))
        for bucket, count in zip(*np.unique(buckets, return_counts=True), strict=True):
            cells[_COUNTS + int(bucket)] += int(count)

    def summary(self) -> DurationSummary:
        """Return the figures of all that was recorded."""
        total, longest, counts = self._read()
        count = int(sum(counts))
        if count == 0:
            return DurationSummary(0, math.nan, math.nan, math.nan, math.nan)
        return DurationSummary(
            count=count,
            p50=_percentile(counts, -(-count * 50 // 100), longest),
            p99=_percentile(counts, -(-count * 99 // 100), longest),
            max=longest,
            mean=min(total / count, longest),
        )

    def histogram(self) -> Histogram:
        """Return how many lay in each doubling, from the shortest recorded to the longest."""
        _, _, counts = self._read()
        octaves = [
            sum(counts[start : start + _PER_OCTAVE]) for start in range(1, _LAST, _PER_OCTAVE)
        ]
        merged = [counts[0], *octaves, counts[_LAST]]
        bounds = [0.0, *(_LEAST * 2.0**n for n in range(_OCTAVES + 1)), math.inf]
        filled = [n for n, count in enumerate(merged) if count]
        if not filled:
            return Histogram((), ())
        first, last = filled[0], filled[-1]
        return Histogram(
            bounds=tuple(bounds[first : last + 2]),
            counts=tuple(int(count) for count in merged[first : last + 1]),
        )

    def _read(self) -> tuple[float, float, list[float]]:
        cells = self._cells.copy()
        return cells[_SUM], cells[_MAX], cells[_COUNTS:]


def _percentile(counts: list[float], rank: int, longest: float) -> float:
    """Return the middle of the bucket where the duration of this rank is, from 1."""
    reached = itertools.accumulate(counts)
    bucket = next(n for n, count in enumerate(reached) if count >= rank)
    if bucket == 0:
        return 0.0
    if bucket == _LAST:
        return longest
    return min(_LEAST * math.exp2((bucket - 0.5) / _PER_OCTAVE), longest)


def _text(seconds: float) -> str:
    """Return a bound in the unit that suits it."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < 1000 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
