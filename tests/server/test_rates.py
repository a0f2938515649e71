"""Rates of streams, of captures at times that the tests make up."""

import numpy as np
import pytest

from remote_env_server.buffers import Field
from remote_env_server.rates import StreamRates


def field(sequence, at):
    return Field(np.zeros(1), 0.0, sequence, arrived_at=at)


def noted(moments, *, every=1, window=1.0):
    """Return rates that saw every so many of a stream's captures."""
    rates = StreamRates(window=window)
    for sequence, at in enumerate(moments, start=1):
        if sequence % every == 0:
            rates.note({"cam": field(sequence, at)})
    return rates


def at_hz(hz, *, seconds, start=0.0):
    return [start + n / hz for n in range(round(seconds * hz))]


@pytest.mark.parametrize("hz", [0.2, 1.0, 30.0, 500.0])
def test_a_steady_stream_has_its_rate(hz):
    moments = at_hz(hz, seconds=max(5.0, 5 / hz))
    assert noted(moments).rates(moments[-1]) == {"cam": pytest.approx(hz)}


def test_captures_that_nobody_looked_at_count_too():
    moments = at_hz(500.0, seconds=5.0)
    assert noted(moments, every=10).rates(moments[-1])["cam"] == pytest.approx(500.0)


def test_a_rate_is_that_of_the_last_window():
    moments = at_hz(30.0, seconds=5.0) + at_hz(10.0, seconds=1.5, start=5.0)
    assert noted(moments).rates(moments[-1])["cam"] == pytest.approx(10.0)
    assert noted(moments, window=5.0).rates(moments[-1])["cam"] > 20.0


def test_until_the_next_capture_is_due_the_rate_stays():
    moments = at_hz(10.0, seconds=3.0)
    assert noted(moments).rates(moments[-1] + 0.099)["cam"] == pytest.approx(10.0)


@pytest.mark.parametrize(("silence", "most"), [(0.5, 8.0), (2.0, 1.0), (60.0, 0.04)])
def test_the_rate_of_a_stream_that_fell_silent_goes_down(silence, most):
    moments = at_hz(10.0, seconds=3.0)
    assert 0 < noted(moments).rates(moments[-1] + silence)["cam"] < most


def test_what_was_seen_once_or_never_has_no_rate_yet():
    rates = noted([1.0])
    for sequence in (7, 8):
        made = Field(np.zeros(1), float(sequence), sequence)
        rates.note({"never": field(0, float("inf")), "made": made})
    assert rates.rates(2.0) == {}


def test_a_buffer_that_begins_anew_is_counted_anew():
    rates = noted(at_hz(30.0, seconds=2.0))
    rates.note({"cam": field(1, 10.0)})
    assert rates.rates(10.0) == {}
    rates.note({"cam": field(2, 10.1)})
    assert rates.rates(10.1)["cam"] == pytest.approx(10.0)


def test_a_fast_stream_takes_no_more_memory_than_a_slow_one():
    rates = noted(at_hz(5000.0, seconds=3.0))
    assert len(rates._marks["cam"]) <= 18
