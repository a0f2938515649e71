"""How long steps took: few enough numbers for one line of a file, and they can be added up.

Durations are counted in buckets, sixteen for each doubling, as ``remote_env.stats`` does, so a
percentile is within 2.2 % of the true one.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

__all__ = ["StepTimes"]

_PER_OCTAVE: Final = 16
_LEAST: Final = 1e-6  # seconds; shorter ones share the first bucket


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long some steps took.

    Attributes:
        counts: How many were in which bucket.
        longest: In seconds; 0 if there were none.
    """

    counts: Mapping[int, int] = field(default_factory=dict)
    longest: float = 0.0

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Count durations, in seconds."""
        longest, counts = 0.0, Counter[int]()
        for each in seconds:
            counts[_bucket_of(each)] += 1
            longest = max(longest, each)
        return cls(dict(counts), longest)

    @classmethod
    def together(cls, several: Iterable[StepTimes]) -> Self:
        """Add up."""
        longest, counts = 0.0, Counter[int]()
        for each in several:
            counts.update(each.counts)
            longest = max(longest, each.longest)
        return cls(dict(counts), longest)

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """Return what ``to_json`` gave.

        Raises:
            ValueError: If it is something else; or KeyError, TypeError.
        """
        counts = {int(bucket): int(count) for bucket, count in said["counts"].items()}
        return cls(counts, float(said["longest"]))

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        counts = {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)}
        return {"longest": self.longest, "counts": counts}

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """Return what so many of a hundred did not exceed, in seconds; NaN if there were none."""
        if not self.counts:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100))
        buckets = sorted(self.counts)
        reached = itertools.accumulate(self.counts[bucket] for bucket in buckets)
        bucket = next(b for b, count in zip(buckets, reached, strict=True) if count >= rank)
        return min(self.longest, _LEAST * math.exp2(bucket / _PER_OCTAVE))


def _bucket_of(seconds: float) -> int:
    """Return the nearest bucket: number n is at 2 ** (n / 16) microseconds."""
    return round(_PER_OCTAVE * math.log2(max(seconds, _LEAST) / _LEAST))
