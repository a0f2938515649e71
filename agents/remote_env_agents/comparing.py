"""Statistics of evaluations: how sure a figure is, and whether a robot differs from the rest.

Everything here is small and exact enough to be written out; scipy is no dependency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Difference",
    "Sample",
    "bootstrap_mean",
    "compare",
    "fisher_exact",
    "holm",
    "mann_whitney",
    "wilson",
]

_Z95: Final = 1.959963984540054  # the 0.975 quantile of the standard normal distribution
_LEVEL: Final = 0.05  # how often any robot is flagged where all are alike, at most
_RESAMPLES: Final = 10_000
_AT_ONCE: Final = 1 << 22  # numbers, of resamples that are drawn together


def wilson(successes: int, trials: int, *, z: float = _Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate; unlike p +- z*s it is fit for 0 and 1.

    Args:
        successes: How many succeeded.
        trials: Of how many; with 0 the interval is [0, 1].
        z: Quantile of the standard normal distribution; 95 % if not given.

    Raises:
        ValueError: If there are more successes than trials.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference,
        J. Am. Stat. Assoc. 22 (1927); as eq. 4 of Brown, Cai and DasGupta, Interval estimation
        for a binomial proportion, Statistical Science 16 (2001).
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At the ends the formula gives 0 and 1 exactly; floating point does not.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def bootstrap_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values, by the percentile bootstrap.

    Of 10,000 resamples with a fixed seed: the same values in the same order give the same
    interval. With less than two values, or with one that is not finite, both ends are NaN.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    data = np.asarray(values, np.float64)
    if data.size < 2 or not np.isfinite(data).all():
        return math.nan, math.nan
    random = np.random.default_rng(0)
    rows = max(1, _AT_ONCE // data.size)
    means: list[NDArray[np.float64]] = []
    left = _RESAMPLES
    while left > 0:
        drawn = random.integers(0, data.size, (min(rows, left), data.size))
        means.append(data[drawn].mean(axis=1))
        left -= len(drawn)
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def fisher_exact(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """Return how probable rates as different as these are if both have the same: two-sided p.

    It is exact for any number of trials: the sum of the probabilities of all tables with these
    margins that are not more probable than this one.

    Source:
        Fisher, Statistical Methods for Research Workers, 5th ed. (1934), section 21.02; both
        sides as in R's ``fisher.test``.
    """
    total, hits = trials + other_trials, successes + other_successes
    if not (0 <= successes <= trials and 0 <= other_successes <= other_trials):
        raise ValueError(f"{successes} of {trials} and {other_successes} of {other_trials}")
    ways = _ways(trials, other_trials, hits)
    here = math.comb(trials, successes) * math.comb(other_trials, other_successes)
    # Whole numbers: nothing is rounded before the division.
    return sum(way for way in ways if way <= here) / math.comb(total, hits)


def _ways(n: int, m: int, hits: int) -> Iterator[int]:
    """Yield in how many ways x of the hits fall among the n, and the others among the m.

    For each x that can be, ascending. Each is made of the one before: with 10,000 trials that
    takes 15 ms, and two binomials for each take 2.5 s.
    """
    lowest = max(0, hits - m)
    way = math.comb(n, lowest) * math.comb(m, hits - lowest)
    yield way
    for x in range(lowest, min(n, hits)):
        way = way * (n - x) * (hits - x) // ((x + 1) * (m - hits + x + 1))
        yield way


def mann_whitney(values: Sequence[float], others: Sequence[float]) -> float:
    """Return how probable ranks as different as these are if both come from one distribution.

    Two-sided p of the U test, by the normal approximation with the corrections for ties and for
    continuity; good from about eight values on each side. 1 if one side is empty or all are
    equal. NaN is refused.

    Source:
        Mann and Whitney, On a test of whether one of two random variables is stochastically
        larger than the other, Ann. Math. Stat. 18 (1947); the corrections as in Lehmann,
        Nonparametrics (1975), section 1.4, and in scipy's ``mannwhitneyu(method="asymptotic")``.
    """
    n, m = len(values), len(others)
    data = np.concatenate([np.asarray(values, np.float64), np.asarray(others, np.float64)])
    if np.isnan(data).any():
        raise ValueError("a rank of NaN")
    if n == 0 or m == 0:
        return 1.0
    _, inverse, ties = np.unique(data, return_inverse=True, return_counts=True)
    last = np.cumsum(ties)
    ranks = (last - (ties - 1) / 2)[inverse]  # tied values share the middle of their ranks
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tied)
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many they are: below 0.05, one is significant among all.

    The chance of any false alarm among them is then at most 5 %, however they depend.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True, slots=True)
class Sample:
    """What one robot did.

    Attributes:
        robot: Its name.
        returns: Of its episodes.
        successes: How many succeeded; None if the robot says nothing of success.
    """

    robot: str
    returns: tuple[float, ...]
    successes: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A robot against all others together, without those that were flagged before it.

    Attributes:
        robot: Its name.
        what: Which figure.
        own: Its success rate, or the median of its returns.
        rest: Those of the others.
        p: Two-sided, of Fisher's exact test for success, of Mann and Whitney's for return.
        adjusted: For all comparisons; see ``compare``.
    """

    robot: str
    what: Literal["success", "return"]
    own: float
    rest: float
    p: float
    adjusted: float

    @property
    def is_flagged(self) -> bool:
        """Whether the robot differs from the rest."""
        return self.adjusted < _LEVEL


def compare(samples: Sequence[Sample]) -> tuple[Difference, ...]:
    """Compare each robot with the rest; of two robots, the first with the second.

    One robot that differs makes the rest look different from each of the others. So the one
    that differs most is flagged and taken out, and the others are compared anew, for as long as
    one is flagged.

    The p-values of a round are adjusted after Holm, and doubled if both success and return are
    compared: robots that are all alike are flagged in 5 % of reports at most. Robots without
    episodes are left out, and so is a figure that is not known of all.
    """
    busy = [sample for sample in samples if sample.returns]
    figures: list[Literal["success", "return"]] = []
    if all(sample.successes is not None for sample in busy):
        figures.append("success")
    if not any(math.isnan(value) for sample in busy for value in sample.returns):
        figures.append("return")
    return tuple(
        difference for what in figures for difference in _compare(busy, what, len(figures))
    )


def _compare(
    samples: Sequence[Sample], what: Literal["success", "return"], figures: int
) -> list[Difference]:
    found: list[Difference] = []
    left = list(samples)
    while len(left) > 1:
        compared = left if len(left) > 2 else left[:1]
        own = [
            _against(one, [other for other in left if other is not one], what) for one in compared
        ]
        adjusted = [min(1.0, figures * p) for p in holm([p for _, _, p in own])]
        this_round = [
            Difference(one.robot, what, mine, rest, p, after)
            for one, (mine, rest, p), after in zip(compared, own, adjusted, strict=True)
        ]
        worst = min(this_round, key=lambda each: each.p)
        if not worst.is_flagged:
            return found + this_round
        found.append(worst)
        left = [one for one in left if one.robot != worst.robot]
    return found


def _against(
    sample: Sample, rest: Sequence[Sample], what: Literal["success", "return"]
) -> tuple[float, float, float]:
    """Return the robot's own figure, that of the rest, and p."""
    theirs = [value for other in rest for value in other.returns]
    if what == "return":
        p = mann_whitney(sample.returns, theirs)
        return float(np.median(sample.returns)), float(np.median(theirs)), p
    n, k = len(sample.returns), sample.successes or 0
    others = sum(other.successes or 0 for other in rest)
    p = fisher_exact(k, n, others, len(theirs))
    return k / n, others / len(theirs), p
