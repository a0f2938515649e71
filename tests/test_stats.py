"""Figures of durations, beside numpy's."""

import math
import sys
import threading
import timeit
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.stats import Durations

DURATIONS = st.lists(st.floats(1e-7, 1e4), min_size=1, max_size=400)
WITHIN = 2 ** (1 / 32) - 1 + 1e-9  # half a bucket of a sixteenth octave: 2.2 %


def recorded(values) -> Durations:
    durations = Durations()
    for value in values:
        durations.record(float(value))
    return durations


@given(DURATIONS)
def test_every_figure_is_numpys_within_the_width_of_a_bucket(values):
    summary = recorded(values).summary()
    p50, p99 = np.percentile(values, [50, 99], method="inverted_cdf")
    assert summary.p50 == pytest.approx(p50, rel=WITHIN)
    assert summary.p99 == pytest.approx(p99, rel=WITHIN)
    assert summary.max == max(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.count == len(values)


@given(st.lists(st.floats(-1.0, 1e6) | st.floats(1e-8, 1e-6), max_size=200))
def test_many_at_once_are_recorded_as_one_by_one(values):
    at_once = Durations()
    at_once.record_all(np.array(values[:50]))
    at_once.record_all(np.array(values[50:]))
    assert at_once.histogram() == recorded(values).histogram()
    for name in ("count", "p50", "p99", "max"):
        np.testing.assert_equal(
            getattr(at_once.summary(), name), getattr(recorded(values).summary(), name)
        )
    np.testing.assert_allclose(at_once.summary().mean, recorded(values).summary().mean)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_duration_is_refused_among_others_too(wrong):
    durations = Durations()
    with pytest.raises(ValueError, match="a duration is a number of seconds"):
        durations.record_all(np.array([1.0, wrong]))
    assert durations.summary().count == 0


def test_of_many_durations_the_percentiles_are_numpys_usual_ones():
    values = np.random.default_rng(1).lognormal(math.log(50e-6), 1.0, 100_000)
    summary = recorded(values).summary()
    p50, p99 = np.percentile(values, [50, 99])
    assert summary.p50 == pytest.approx(p50, rel=0.025)
    assert summary.p99 == pytest.approx(p99, rel=0.025)
    assert summary.jitter == pytest.approx(p99 - p50, rel=0.03)


def test_one_slow_record_of_a_hundred_is_the_maximum_and_not_the_99th_percentile():
    summary = recorded([0.001] * 99 + [1.0]).summary()
    assert summary.p99 == pytest.approx(0.001, rel=WITHIN)
    assert summary.max == 1.0


def test_nothing_recorded_has_no_figures():
    summary = Durations().summary()
    assert summary.count == 0
    assert math.isnan(summary.p50)
    assert math.isnan(summary.jitter)
    assert math.isnan(summary.mean)
    assert str(Durations().histogram()) == "nothing recorded"


@pytest.mark.parametrize("seconds", [0.0, -0.5, 1e-9])
def test_who_is_early_is_not_late(seconds):
    summary = recorded([seconds]).summary()
    assert summary.p50 == 0.0
    assert 0.0 <= summary.mean <= summary.max == max(seconds, 0.0)


def test_a_week_is_counted_too():
    week = 7 * 24 * 3600.0
    durations = recorded([week])
    assert durations.summary().p50 == week
    assert durations.histogram().bounds[-1] == math.inf


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_what_is_no_duration_is_refused_and_leaves_nothing_behind(seconds):
    durations = recorded([0.001])
    before = durations.summary()
    with pytest.raises(ValueError, match=f"not {seconds}"):
        durations.record(seconds)
    assert durations.summary() == before


@given(DURATIONS)
def test_the_histogram_has_every_duration_between_its_bounds(values):
    histogram = recorded(values).histogram()
    bounds, below = np.array(histogram.bounds), np.cumsum([0, *histogram.counts])
    # A value on a bound may lie on either side of it, by rounding.
    assert (below >= np.searchsorted(sorted(values), bounds * (1 - 1e-9))).all()
    assert (below <= np.searchsorted(sorted(values), bounds * (1 + 1e-9))).all()
    assert below[-1] == len(values)
    assert histogram.counts[0] > 0
    assert histogram.counts[-1] > 0


def test_a_printed_histogram_has_a_line_for_each_doubling_between():
    lines = str(recorded([3e-6] * 80 + [20e-6] * 1).histogram()).splitlines()
    assert lines == [
        "   2 us to    4 us        80  " + 40 * "#",
        "   4 us to    8 us         0  ",
        "   8 us to   16 us         0  ",
        "  16 us to   32 us         1  #",
    ]


def test_memory_stays_flat_however_many_are_recorded():
    values = np.random.default_rng(2).lognormal(-9.0, 3.0, 1_000).tolist()
    tracemalloc.start()
    try:
        durations = Durations()
        for _ in range(200):
            for value in values:
                durations.record(value)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert durations.summary().count == 200_000
    assert taken < 25_000


@pytest.mark.realtime
def test_a_record_takes_a_microsecond_at_most(slowdown):
    record = Durations().record
    taken = min(timeit.repeat(lambda: record(0.00123), number=10_000, repeat=20)) / 10_000
    assert taken <= 1e-6 * slowdown


def test_a_reader_sees_whole_records_while_another_thread_records():
    durations, stop, failed = Durations(), threading.Event(), []

    def read():
        while not stop.is_set():
            summary = durations.summary()
            # 1 and 3 s in turn; the sum may have the record in the making, but no other.
            apart = (summary.mean - 2.0) * summary.count
            if summary.count and not -1.001 <= apart <= 3.001:
                failed.append(summary)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(100_000):
            durations.record(1.0 if n % 2 == 0 else 3.0)
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert failed == []
    assert durations.summary().count == 100_000
