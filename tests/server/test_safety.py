"""What stands between an action and the motors. Branch coverage here is 100 %."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from remote_env.errors import ActionRefusedError
from remote_env_server import OutOfBounds
from remote_env_server.safety import ActionGuard, ActionWatchdog, action_lifetime

BOX = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32), dtype=np.float32)


@given(
    npst.arrays(np.float32, 2, elements=st.floats(width=32)),
    st.sampled_from([OutOfBounds.REFUSE, OutOfBounds.CLIP]),
)
def test_what_passes_is_finite_and_within_the_bounds(action, policy):
    try:
        value = ActionGuard(BOX, policy).check([action]).value
    except ActionRefusedError:
        assert not (np.isfinite(action).all() and BOX.contains(action))
        return
    assert BOX.contains(value)


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_passes(policy, bad):
    with pytest.raises(ActionRefusedError, match="NaN or infinity") as refused:
        ActionGuard(BOX, policy).check([np.array([0.0, bad], np.float32)])
    assert refused.value.code == "robot.action.not_finite"


def test_out_of_bounds_is_refused_with_the_value_and_the_bounds():
    with pytest.raises(ActionRefusedError, match=r"\[1.5, 0") as refused:
        ActionGuard(BOX, OutOfBounds.REFUSE).check([np.array([1.5, 0.0], np.float32)])
    assert refused.value.code == "robot.action.bounds"


def test_clipping_changes_a_copy_and_says_so():
    action = np.array([1.5, 0.0], np.float32)
    guarded = ActionGuard(BOX, OutOfBounds.CLIP).check([action])
    assert guarded.value.tolist() == [1.0, 0.0]
    assert guarded.was_clipped
    assert action.tolist() == [1.5, 0.0]


def test_an_action_within_the_bounds_is_not_said_to_be_clipped():
    guarded = ActionGuard(BOX, OutOfBounds.CLIP).check([np.zeros(2, np.float32)])
    assert not guarded.was_clipped


def test_passing_keeps_bounds_and_dtype_of_the_learner():
    guarded = ActionGuard(BOX, OutOfBounds.PASS).check([np.array([9.0, 0.1])])
    assert guarded.value.tolist() == [9.0, 0.1]
    assert guarded.value.dtype == np.float64


def test_otherwise_the_driver_gets_the_dtype_that_it_declared():
    guarded = ActionGuard(BOX, OutOfBounds.REFUSE).check([np.array([0.5, 0.5])])
    assert guarded.value.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(3, start=-1), np.int64(1), np.int64(2)),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), np.array([0, 3])),
        (spaces.MultiBinary(2), np.array([0, 1], np.int8), np.array([0, 2], np.int8)),
    ],
)
@pytest.mark.parametrize("policy", [OutOfBounds.REFUSE, OutOfBounds.CLIP])
def test_choices_are_never_clipped_but_refused(space, good, bad, policy):
    guard = ActionGuard(space, policy)
    guard.check([np.asarray(good)])
    with pytest.raises(ActionRefusedError, match="out of bounds"):
        guard.check([np.asarray(bad)])


def test_every_leaf_of_a_structured_action_is_checked():
    guard = ActionGuard(spaces.Dict({"arm": BOX, "grip": spaces.Discrete(2)}), OutOfBounds.REFUSE)
    assert guard.check([np.zeros(2, np.float32), np.asarray(1)]).value["grip"] == 1
    with pytest.raises(ActionRefusedError, match="'grip'"):
        guard.check([np.zeros(2, np.float32), np.asarray(2)])


@pytest.mark.parametrize(
    ("period", "lifetime"), [(0.002, 0.1), (0.02, 0.1), (0.05, 0.25), (0.1, 0.5), (1.0, 2.0)]
)
def test_an_action_lives_for_five_periods_within_reason(period, lifetime):
    assert action_lifetime(period) == pytest.approx(lifetime)


def test_a_watchdog_without_an_action_never_trips():
    watchdog = ActionWatchdog(0.1)
    assert watchdog.deadline == math.inf
    assert not watchdog.is_expired(1e9)


def test_an_action_expires_at_its_lifetime_and_not_before():
    watchdog = ActionWatchdog(0.1)
    watchdog.feed(5.0)
    assert not watchdog.is_expired(5.0999)
    assert watchdog.is_expired(5.1)


def test_each_action_begins_the_lifetime_anew():
    watchdog = ActionWatchdog(0.1)
    watchdog.feed(5.0)
    watchdog.feed(5.09)
    assert not watchdog.is_expired(5.15)


def test_the_action_after_a_hold_says_how_long_it_lasted():
    watchdog = ActionWatchdog(0.1)
    watchdog.feed(5.0)
    watchdog.hold(5.1)
    assert not watchdog.is_expired(99.0)
    assert watchdog.feed(7.1) == pytest.approx(2.0)
    assert watchdog.feed(7.2) == 0.0


def test_rest_forgets_both_the_action_and_the_hold():
    watchdog = ActionWatchdog(0.1)
    watchdog.feed(5.0)
    watchdog.hold(5.1)
    watchdog.rest()
    assert watchdog.deadline == math.inf
    assert watchdog.feed(9.0) == 0.0
