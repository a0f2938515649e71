"""Control periods that were missed, by the robot's clock."""

import math

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from remote_env_agents.periods import PeriodCount


def count(*times, dones=(), overruns=(), hz=20.0):
    periods = PeriodCount(hz, 1)
    for index, time in enumerate(times):
        over = overruns[index] if overruns else 0
        remote = {"time": time, "overruns": over} if time is not None else {}
        info = {"remote": remote or {"invalid_transition": True}}
        periods.note([info], [index in dones])
    return periods


def test_steps_one_period_apart_miss_none():
    periods = count(1.0, 1.05, 1.101, 1.149)
    assert (periods.periods, periods.missed) == (4, 0)
    assert periods.percentiles(100)[0] == pytest.approx(0.002)


def test_a_step_that_took_three_periods_missed_two():
    periods = count(1.0, 1.05, 1.2, 1.25)
    assert (periods.missed, periods.missed_rate) == (2, 2 / 6)


def test_resets_are_not_counted():
    assert count(1.0, 1.05, 9.0, 9.05, dones=(1,)).missed == 0


def test_what_is_no_transition_is_not_counted():
    periods = count(1.0, None, 9.0, 9.05)
    assert (periods.periods, periods.missed) == (3, 0)


def test_overruns_of_the_robot_itself_are_told_apart():
    periods = count(1.0, 1.05, 1.15, 1.2, overruns=(7, 7, 8, 8))
    assert (periods.missed, periods.overruns) == (1, 1)


def test_without_a_period_there_is_no_percentile():
    assert all(math.isnan(value) for value in count(1.0).percentiles(50, 99))
