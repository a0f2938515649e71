"""Times of steps fit into a line, and can be added up."""

import json
import math

import numpy as np
import pytest

from remote_env_agents.step_times import StepTimes


@pytest.mark.parametrize("percent", [1, 50, 99, 100])
def test_percentiles_are_within_two_percent(percent):
    seconds = np.random.default_rng(0).lognormal(-6, 1, 5000)
    times = StepTimes.of(seconds)
    exact = np.percentile(seconds, percent, method="inverted_cdf")
    assert times.percentile(percent) == pytest.approx(exact, rel=0.023)
    assert times.longest == seconds.max()


def test_parts_add_up_and_survive_the_file():
    seconds = [0.001, 0.002, 0.0, 3.0, 0.001]
    parts = [StepTimes.of(seconds[:2]), StepTimes(), StepTimes.of(seconds[2:])]
    heard = [StepTimes.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    assert heard == parts
    assert StepTimes.together(heard) == StepTimes.of(seconds)
    assert StepTimes.of(seconds).count == 5


def test_nothing_has_no_percentile():
    assert math.isnan(StepTimes().percentile(50))
