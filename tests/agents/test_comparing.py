"""How sure figures are, and whether a robot differs: by hand, and by scipy if it is there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env_agents import wilson
from remote_env_agents.comparing import (
    Sample,
    bootstrap_mean,
    compare,
    fisher_exact,
    holm,
    mann_whitney,
)


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


@pytest.mark.parametrize(
    ("counts", "p"),
    [
        ((3, 4, 1, 4), 34 / 70),  # Fisher's lady tasting tea
        ((4, 4, 0, 4), 2 / 70),
        ((8, 9, 2, 7), 0.03496503496503495),  # as R's fisher.test gives it
        ((0, 5, 0, 7), 1.0),
        ((5, 5, 7, 7), 1.0),
        ((0, 0, 3, 7), 1.0),
        ((1700, 2500, 5250, 7500), 0.06344556018123694),  # by the binomials themselves
    ],
)
def test_the_exact_test_is_fishers(counts, p):
    assert fisher_exact(*counts) == pytest.approx(p, rel=1e-12)


@settings(max_examples=200)
@given(st.integers(0, 30), st.integers(0, 30), st.data())
def test_no_bit_of_it_is_lost(trials, other_trials, data):
    successes = data.draw(st.integers(0, trials))
    hits = successes + data.draw(st.integers(0, other_trials))
    ways = {x: math.comb(trials, x) * math.comb(other_trials, hits - x) for x in range(hits + 1)}
    as_rare = sum(way for way in ways.values() if way <= ways[successes])
    p = as_rare / math.comb(trials + other_trials, hits)
    assert fisher_exact(successes, trials, hits - successes, other_trials) == p


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 of 4"):
        fisher_exact(5, 4, 1, 4)


@pytest.mark.parametrize(
    ("values", "others", "p"),
    [
        # By hand: ranks 2 2 4 | 2 5.5 5.5, U = 2 of 4.5 expected, variance 4.5 with ties.
        ([1, 1, 2], [1, 3, 3], math.erfc(2 / 3)),
        # The example of scipy's documentation.
        ([19, 22, 16, 29, 24], [20, 11, 17, 12], 0.11134688653314041),
        ([1, 1, 1], [1, 1], 1.0),
        ([], [1, 2], 1.0),
        ([1, 2, 3], [1, 2, 3], 1.0),
    ],
)
def test_the_rank_test_is_mann_and_whitneys(values, others, p):
    assert mann_whitney(values, others) == pytest.approx(p, rel=1e-12)
    assert mann_whitney(others, values) == pytest.approx(p, rel=1e-12)


def test_a_rank_of_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        mann_whitney([1.0, math.nan], [2.0])


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=15),
    st.lists(st.integers(0, 6), min_size=2, max_size=15),
)
def test_both_tests_are_scipys(values, others):
    stats = pytest.importorskip("scipy.stats", reason="scipy is no dependency")
    hits, other_hits = sum(v > 3 for v in values), sum(v > 3 for v in others)
    table = [[hits, len(values) - hits], [other_hits, len(others) - other_hits]]
    ours = fisher_exact(hits, len(values), other_hits, len(others))
    assert ours == pytest.approx(stats.fisher_exact(table)[1], rel=1e-9)
    if len({*values, *others}) > 1:
        theirs = stats.mannwhitneyu(values, others, method="asymptotic").pvalue
        assert mann_whitney(values, others) == pytest.approx(theirs, rel=1e-9)


def test_p_values_are_adjusted_as_holm_does():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_is_near_what_the_normal_distribution_says():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_mean(values) == (low, high)
    assert bootstrap_mean([3.0, 3.0]) == (3.0, 3.0)
    assert all(map(math.isnan, (*bootstrap_mean([1.0]), *bootstrap_mean([1.0, math.inf]))))


def sample(name, returns, successes):
    return Sample(name, tuple(returns), successes)


def test_a_robot_that_differs_is_flagged_and_the_others_are_not():
    random = np.random.default_rng(0)
    samples = [sample(name, random.normal(0, 1, 50), 45) for name in "abc"]
    samples.append(sample("worn", random.normal(-2, 1, 50), 20))
    found = compare(samples)
    assert sorted((each.robot, each.what) for each in found) == sorted(
        (name, what) for name in ("a", "b", "c", "worn") for what in ("success", "return")
    )
    assert {(each.robot, each.what) for each in found if each.is_flagged} == {
        ("worn", "success"),
        ("worn", "return"),
    }
    worn = found[0]
    assert (worn.robot, worn.own, worn.rest) == ("worn", 0.4, 0.9)
    assert worn.adjusted == pytest.approx(2 * 4 * worn.p)
    assert [each.rest for each in found if each.what == "success"][1:] == [0.9] * 3


def test_two_robots_that_differ_are_flagged_one_after_the_other():
    hits = {"a": 39, "b": 40, "c": 38, "d": 39, "e": 5, "f": 20}
    samples = [sample(name, range(40), hits[name]) for name in hits]
    found = [each for each in compare(samples) if each.is_flagged]
    assert [(each.robot, each.what) for each in found] == [("e", "success"), ("f", "success")]


def test_robots_that_do_not_differ_are_seldom_flagged():
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        hits = random.binomial(50, 0.8, 4)
        samples = [sample(str(n), random.normal(0, 1, 50), int(hits[n])) for n in range(4)]
        alarms += any(each.is_flagged for each in compare(samples))
    assert alarms <= 20  # 5 % are to be expected, and fewer as Fisher's test is exact


def test_two_robots_are_compared_once():
    found = compare([sample("a", [1, 2], 1), sample("b", [3, 4], 2), sample("idle", [], None)])
    assert [(each.robot, each.what) for each in found] == [("a", "success"), ("a", "return")]
    assert compare([sample("a", [1, 2], 1)]) == ()


def test_where_success_is_unknown_only_returns_are_compared():
    found = compare([sample("a", [1, 2], None), sample("b", [3, 4], None)])
    assert [each.what for each in found] == ["return"]
