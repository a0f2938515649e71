"""How sure a rate is."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["wilson"]

_Z95: Final = 1.959963984540054  # the 0.975 quantile of the standard normal distribution


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
