"""How often streams come: told times and sequence numbers, and nothing slept."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from remote_env.protocol.arrays import ArraySpec
from remote_env.rates import WINDOW, Rate, RateWindow, judge_stream
from remote_env.spec import StreamKind, StreamSpec


class Sensor:
    """Captures at ``hz`` from a moment on; knows what somebody sees who looks at it."""

    def __init__(self, hz, *, began_at=0.0, before=0):
        self.hz, self.began_at, self.before = hz, began_at, before

    def look(self, now):
        """Return sequence and stamp."""
        count = max(0, math.floor((now - self.began_at) * self.hz + 1e-9))
        return self.before + count, self.began_at + count / self.hz if count else -math.inf


def watch(sensor, until, *, rates=None, since=0.0, stamp=lambda stamp: stamp):
    """Look every half second or so, never at the same phase; return what knows the rates.

    ``rate`` of it is that of the last look.
    """
    rates = rates or RateWindow()
    now = since
    while now <= until:
        sequence, measured = sensor.look(now)
        rates.note(now, {"s": sequence}, {"s": stamp(measured)})
        last = now
        now += 0.5 + 0.003 * math.sin(17 * now)
    return rates, last


@pytest.mark.parametrize("hz", [0.7, 1.0, 29.3, 30.0, 30.6, 499.9, 500.0, 1000.0])
@pytest.mark.parametrize("until", [6.0, 7.3, 60.0])
def test_a_rate_is_exact_whenever_one_looks(hz, until):
    rates, last = watch(Sensor(hz), until)
    assert rates.rate("s", last).hz == pytest.approx(hz, rel=1e-9)


def test_a_rate_is_known_after_two_captures_and_their_time_is_said():
    rates = RateWindow()
    rates.note(0.0, {"s": 7}, {"s": 0.0})
    assert rates.rate("s", 0.0) == Rate(0.0, 0.0)
    assert rates.rate("t", 0.0) is None
    rates.note(1.0, {"s": 8}, {"s": 0.99})
    rates.note(3.0, {"s": 9}, {"s": 2.99})
    assert rates.rate("s", 3.0) == Rate(pytest.approx(0.5), 2.0)
    assert rates.newest("s") == 9
    assert rates.newest("t") == 0


def test_only_the_last_seconds_count():
    rates, _ = watch(Sensor(30.0), 60.0)
    slower = Sensor(15.0, began_at=60.0, before=1800)
    _, last = watch(slower, 60.0 + WINDOW / 2, rates=rates, since=60.4)
    assert 16.0 < rates.rate("s", last).hz < 29.0
    _, last = watch(slower, 61.0 + WINDOW, rates=rates, since=60.5 + WINDOW / 2)
    assert rates.rate("s", last).hz == pytest.approx(15.0, rel=1e-9)


def test_what_is_over_is_forgotten():
    rates, _ = watch(Sensor(30.0), 600.0)
    assert len(rates._marks["s"]) <= 2 * WINDOW + 2


def test_what_a_stream_delivered_before_it_was_watched_does_not_count():
    """A camera on request begins to be rendered when somebody comes."""
    rates = RateWindow()
    rates.note(3600.0, {"s": 100}, {"s": 1.0})
    _, last = watch(Sensor(30.0, began_at=3600.3, before=100), 3603.0, rates=rates, since=3600.5)
    assert rates.rate("s", last).hz == pytest.approx(30.0, rel=1e-9)


def test_the_rate_of_a_silent_stream_goes_down():
    rates, last = watch(Sensor(30.0), 10.0)
    seen = [rates.rate("s", now).hz for now in (last, 10.4, 12.0, 20.0, 100.0)]
    assert seen[0] == pytest.approx(30.0, rel=1e-9)
    assert seen[1] < 0.98 * 30.0
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.5


def test_a_stream_that_never_comes_has_the_rate_zero():
    rates = RateWindow()
    rates.note(0.0, {"s": 0}, {"s": -math.inf})
    rates.note(0.5, {"s": 0}, {"s": -math.inf})
    assert rates.rate("s", 5.0) == Rate(0.0, 5.0)


@pytest.mark.parametrize(
    "lie",
    [
        lambda stamp: 5.0,
        lambda stamp: 1.7e9 + 2 * stamp,
        lambda stamp: 0.5 * stamp,
        lambda stamp: -stamp,
        lambda stamp: math.nan,
    ],
    ids=["constant", "double", "half", "backwards", "nan"],
)
def test_stamps_that_lie_are_worth_one_capture(lie):
    rates, last = watch(Sensor(30.0), 20.0, stamp=lie)
    assert rates.rate("s", last).hz == pytest.approx(30.0, abs=1.1 / (WINDOW - 0.6))


def test_a_robot_that_began_anew_is_counted_anew():
    rates, _ = watch(Sensor(30.0), 10.0)
    _, last = watch(Sensor(10.0, began_at=10.0), 14.0, rates=rates, since=10.5)
    assert rates.rate("s", last).hz == pytest.approx(10.0, rel=1e-9)


CAMERA = StreamSpec(
    ArraySpec("cam/image", np.dtype(np.uint8), (2, 2, 3)),
    StreamKind.IMAGE,
    spaces.Box(0, 255, (2, 2, 3), np.uint8),
    hz=30.0,
    max_age=0.15,
)
CALIBRATION = replace(CAMERA, kind=StreamKind.INTRINSICS, max_age=math.inf)
TOLD = {"sequence": 9, "age": 0.1}


@pytest.mark.parametrize(
    ("stream", "rate", "told", "expected"),
    [
        (CAMERA, Rate(30.3, 8.0), TOLD, (30.3, 0.01, False, False)),
        (CAMERA, Rate(29.3, 8.0), TOLD, (29.3, -0.7 / 30, True, False)),
        (CAMERA, Rate(30.7, 8.0), TOLD, (30.7, 0.7 / 30, True, False)),
        (CAMERA, Rate(20.0, 1.0), TOLD, (20.0, None, False, False)),
        (CAMERA, Rate(0.0, 1.0), TOLD, (None, None, False, False)),
        (CAMERA, Rate(0.0, 3.0), {"sequence": 9, "age": 3.0}, (0.0, -1.0, True, True)),
        (CAMERA, None, {"sequence": 0, "age": None}, (0.0, -1.0, True, False)),
        (CAMERA, None, TOLD, (None, None, False, False)),
        (CAMERA, None, {}, (0.0, -1.0, True, False)),
        (replace(CAMERA, hz=0.0), Rate(12.0, 8.0), TOLD, (12.0, None, False, False)),
        (replace(CAMERA, hz=0.1), Rate(0.2, 8.0), TOLD, (0.2, None, False, False)),
        (replace(CAMERA, hz=0.1), Rate(0.2, 31.0), TOLD, (0.2, 1.0, True, False)),
        (CALIBRATION, Rate(0.0, 8.0), TOLD, (None, None, False, False)),
        (CALIBRATION, Rate(30.0, 8.0), TOLD, (30.0, 0.0, False, False)),
    ],
)
def test_a_stream_is_judged_when_it_was_watched_for_long_enough(stream, rate, told, expected):
    hz, deviation, is_off, is_stale = expected
    state = judge_stream(stream, rate, told, seconds=3.0)
    assert state.hz == hz
    assert state.deviation == (None if deviation is None else pytest.approx(deviation))
    assert (state.is_off, state.is_stale) == (is_off, is_stale)
