"""How sure a rate is."""

import math

import pytest

from remote_env_agents import wilson


# As R's prop.test(x, n, correct = FALSE) gives them.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (5, 10, 0.23659, 0.76341),
        (10, 10, 0.72247, 1.0),
        (95, 100, 0.88825, 0.97846),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("successes", [1, 17, 99])
def test_its_ends_are_the_rates_that_would_just_be_believed(successes):
    for end in wilson(successes, 100):
        assert abs(successes / 100 - end) == pytest.approx(
            1.959964 * math.sqrt(end * (1 - end) / 100), rel=1e-6
        )


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match="11 successes of 10 trials"):
        wilson(11, 10)
