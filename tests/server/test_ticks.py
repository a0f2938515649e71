"""Absolute control periods, on a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env_server.ticks import TickClock

PERIODS = st.floats(1e-4, 10.0)
TIMES = st.floats(0.0, 1e6)


@given(PERIODS, TIMES, TIMES)
def test_the_next_tick_is_later_and_at_most_a_period_away(period, anchor, elapsed):
    now = anchor + elapsed
    _, due = TickClock(period, anchor=anchor).next_after(now)
    assert now < due <= now + period * (1 + 1e-9) + 1e-6


@given(PERIODS, st.lists(st.floats(0.0, 100.0), min_size=2, max_size=20))
def test_ticks_only_grow_whatever_is_late(period, pauses):
    clock, now, last = TickClock(period, anchor=0.0), 0.0, 0
    for pause in pauses:
        tick, due = clock.next_after(now)
        assert tick > last
        now, last = due + pause, tick
        clock.note_done(tick, due, now)


def test_periods_do_not_drift():
    clock = TickClock(0.01, anchor=5.0)
    now = 5.0
    for _ in range(1000):
        tick, due = clock.next_after(now)
        now = due + 0.003  # the work of every tick takes a third of the period
        clock.note_done(tick, due, now)
    assert tick == 1000
    assert due == pytest.approx(15.0, abs=1e-9)
    assert clock.overruns == 0


def test_an_overrun_is_counted_and_the_next_period_begins_now():
    clock = TickClock(0.01, anchor=0.0)
    tick, due = clock.next_after(0.0)
    clock.note_done(tick, due, now=0.045)
    assert clock.overruns == 3
    following, due = clock.next_after(0.045)
    assert following == tick + 4
    assert due == pytest.approx(0.055)


def test_work_within_the_next_period_is_no_overrun():
    clock = TickClock(0.01, anchor=0.0)
    tick, due = clock.next_after(0.0)
    clock.note_done(tick, due, now=0.0199)
    assert clock.overruns == 0
    assert clock.next_after(0.0199)[1] == pytest.approx(0.02)


@given(PERIODS, st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_a_period_that_begins_now_is_whole_and_ticks_are_counted_on(period, pauses):
    clock, now, last = TickClock(period, anchor=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        clock.begin_at(now)
        tick, due = clock.next_after(now)
        assert due == now + period
        assert tick > last
        now, last = due, tick
    assert clock.overruns == 0
