"""What stands between an action and the motors. Branch coverage here is 100 %."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from remote_env.errors import ActionRefusedError, ConfigurationError
from remote_env_server import OutOfBounds
from remote_env_server.safety import ActionGuard, ActionWatchdog, action_lifetime

ALL_CHECKED = [OutOfBounds.REFUSE, OutOfBounds.CLIP]
BOX = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32), dtype=np.float32)


@given(
    npst.arrays(np.float32, 2, elements=st.floats(width=32)),
    st.sampled_from(ALL_CHECKED),
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
@pytest.mark.parametrize("policy", ALL_CHECKED)
def test_choices_are_never_clipped_but_refused(space, good, bad, policy):
    guard = ActionGuard(space, policy)
    guard.check([np.asarray(good)])
    with pytest.raises(ActionRefusedError, match="out of bounds"):
        guard.check([np.asarray(bad)])


def refusal_of(space, arrays, policy=OutOfBounds.REFUSE):
    """Return the code and the text with which an action is refused."""
    with pytest.raises(ActionRefusedError) as refused:
        ActionGuard(space, policy).check(arrays)
    return refused.value.code, str(refused.value)


def box(low, high, dtype, shape=(2,)):
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize(
    "arrays",
    [
        [np.zeros(1, np.float32)],
        [np.zeros((1, 2), np.float32)],
        [np.zeros((), np.float32)],
        [np.zeros(0, np.float32)],
    ],
    ids=["broadcast", "2-d", "0-d", "empty"],
)
def test_what_numpy_would_broadcast_is_another_shape(policy, arrays):
    code, text = refusal_of(BOX, arrays, policy)
    assert code == "robot.action.shape"
    assert f"must have the shape (2,), not {arrays[0].shape}" in text


@pytest.mark.parametrize("count", [0, 2])
def test_an_action_has_one_array_for_each_leaf(count):
    code, text = refusal_of(BOX, [np.zeros(2, np.float32)] * count)
    assert code == "robot.action.shape"
    assert f"has {count} arrays and its space 1 leaves: action" in text


@pytest.mark.parametrize("policy", ALL_CHECKED)
@pytest.mark.parametrize(
    ("space", "value"),
    [
        (box(-np.inf, np.inf, np.float32), np.array([0.0, 1e39])),
        (box(-np.inf, np.inf, np.float32), np.array([0.0, -1e300])),
        (box(-np.inf, np.inf, np.float16), np.array([0, 70_000])),
        (box(np.finfo("f4").min, np.finfo("f4").max, np.float32), np.array([0.0, 1e39])),
        (BOX, np.array([0.0, 1e39])),
    ],
)
def test_what_overflows_in_the_dtype_of_the_space_is_not_finite(policy, space, value):
    code, text = refusal_of(space, [value], policy)
    assert code == "robot.action.not_finite"
    assert f"holds more than {space.dtype} can" in text


def test_what_rounds_to_infinity_is_not_finite_and_what_rounds_to_the_largest_is():
    guard = ActionGuard(box(-np.inf, np.inf, np.float32, (1,)), OutOfBounds.REFUSE)
    largest = float(np.finfo(np.float32).max)
    assert guard.check([np.array([largest * (1 + 1e-9)])]).value == np.float32(largest)
    with pytest.raises(ActionRefusedError, match="more than float32 can"):
        guard.check([np.array([largest * (1 + 1e-7)])])


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_a_signalling_nan_is_refused_without_a_warning(policy, dtype):
    pattern = {"<u4": 0x7F800001, "<u8": 0x7FF0000000000001}[dtype]
    value = np.array([0, pattern], dtype).view(dtype.replace("u", "f"))
    code, _ = refusal_of(BOX, [value], policy)
    assert code == "robot.action.not_finite"


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (box(0, 255, np.uint8), np.array([0, 300])),
        (box(0, 255, np.uint8), np.array([0, -1])),
        (box(-128, 127, np.int8), np.array([0, 2**63], np.uint64)),
        (box(0, 2**64 - 1, np.uint64), np.array([0, -1])),
        (box(-(2**63), 2**63 - 1, np.int64), np.array([0, 2**63], np.uint64)),
        (box(0, 1, np.bool_), np.array([0, 2])),
        (spaces.MultiDiscrete([255, 255], dtype=np.uint8, start=[1, 1]), np.array([1, 257])),
        (spaces.MultiBinary(2), np.array([0, 256])),
        (spaces.MultiBinary(2), np.array([0, -1])),
        (spaces.Discrete(3), np.array(2**64 - 1, np.uint64)),
        (spaces.Discrete(200, dtype=np.int16, start=-100), np.array(65_436)),
    ],
    ids=str,
)
def test_an_integer_that_would_wrap_is_out_of_bounds(space, value):
    code, text = refusal_of(space, [value])
    assert code == "robot.action.bounds"
    assert str(value.max()) in text or str(value.min()) in text


@pytest.mark.parametrize(
    ("space", "value", "clipped"),
    [
        (box(0, 255, np.uint8), np.array([-1, 300]), [0, 255]),
        (box(0, 255, np.uint8), np.array([1, 2**64 - 1], np.uint64), [1, 255]),
        (box(-(2**63), 2**63 - 1, np.int64), np.array([3, 2**64 - 1], np.uint64), [3, 2**63 - 1]),
        (box(0, 2**64 - 1, np.uint64), np.array([-5, 5]), [0, 5]),
        (box(0, 1, np.bool_), np.array([0, 2]), [False, True]),
        (box(-1, 1, np.int8), np.array([-3, 3], np.int8), [-1, 1]),
        (box(-1.0, 1.0, np.float16), np.array([-3, 3]), [-1.0, 1.0]),
        (box(-1.0, 1.0, np.float32, ()), np.array(2.0), 1.0),
    ],
    ids=str,
)
def test_clipping_goes_to_the_nearest_bound_whatever_the_dtype(space, value, clipped):
    guarded = ActionGuard(space, OutOfBounds.CLIP).check([value])
    assert guarded.value.tolist() == clipped
    assert guarded.value.dtype == space.dtype
    assert guarded.value.shape == space.shape
    assert guarded.was_clipped


INTEGERS = [
    box(0, 255, np.uint8),
    box(0, 1, np.bool_),
    spaces.MultiDiscrete([3, 3]),
    spaces.MultiBinary(2),
]


@pytest.mark.parametrize("policy", ALL_CHECKED)
@pytest.mark.parametrize("value", [0.5, 1.0, 1e30, -0.0, np.nan])
@pytest.mark.parametrize("space", INTEGERS, ids=str)
def test_floats_are_no_integers(space, value, policy):
    code, text = refusal_of(space, [np.array([0.0, value])], policy)
    assert code == "robot.action.dtype"
    assert f"must be {space.dtype}, not float64" in text


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize("value", [0.5, 1.0, np.nan])
def test_a_choice_is_never_made_of_a_fraction(value, policy):
    assert refusal_of(spaces.Discrete(3), [np.array(value)], policy)[0] == "robot.action.dtype"


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize("dtype", [complex, object, "S1", "M8[s]"], ids=str)
def test_what_is_no_number_is_refused(dtype, policy):
    assert refusal_of(BOX, [np.zeros(2).astype(dtype)], policy)[0] == "robot.action.dtype"


@pytest.mark.parametrize("space", INTEGERS, ids=str)
def test_passing_keeps_floats_where_the_space_has_integers(space):
    guarded = ActionGuard(space, OutOfBounds.PASS).check([np.array([0.5, 7.0])])
    assert guarded.value.tolist() == [0.5, 7.0]


@pytest.mark.parametrize(
    ("space", "value"),
    [(BOX, np.array([7, 8])), (spaces.MultiBinary(2), np.array([7, 8])), (BOX, np.ones(2, "?"))],
)
def test_passing_keeps_integers_out_of_bounds(space, value):
    assert ActionGuard(space, OutOfBounds.PASS).check([value]).value is value


@pytest.mark.parametrize(
    ("space", "value", "same"),
    [
        (BOX, np.array([0.5, -0.5], ">f4"), [0.5, -0.5]),
        (BOX, np.array([0.5, 9.0, -0.5, 9.0], np.float32)[::2], [0.5, -0.5]),
        (BOX, np.array([-0.5, 0.5], np.float32)[::-1], [0.5, -0.5]),
        (BOX, np.array([1, -1], np.int8), [1.0, -1.0]),
        (BOX, np.array([True, False]), [1.0, 0.0]),
        (BOX, np.array([1e-45, -0.0], np.float32), [1.401298464324817e-45, -0.0]),
        (BOX, np.array([1e-320, 1.0000000001]), [0.0, 1.0]),
        (box(0, 255, np.uint8), np.array([0, 255], ">i8"), [0, 255]),
        (spaces.MultiDiscrete([2, 300]), np.array([1, 255], np.uint8), [1, 255]),
        (spaces.MultiDiscrete([250], np.uint8, start=[50]), np.array([255], np.uint8), [255]),
        (spaces.MultiBinary(2), np.array([True, False]), [1, 0]),
        (box(-1, 1, np.float32, (0,)), np.zeros(0), []),
    ],
    ids=str,
)
def test_what_means_the_same_in_another_dtype_or_order_is_converted(space, value, same):
    guarded = ActionGuard(space, OutOfBounds.REFUSE).check([value])
    assert guarded.value.tolist() == same
    assert guarded.value.dtype == space.dtype
    assert not guarded.was_clipped


@pytest.mark.parametrize(
    ("value", "number"),
    [(np.array(2, np.uint8), 2), (np.array(-1, ">i2"), -1), (np.array(True), 1)],
)
def test_a_choice_becomes_a_python_integer(value, number):
    guarded = ActionGuard(spaces.Discrete(4, start=-1), OutOfBounds.REFUSE).check([value])
    assert type(guarded.value) is int
    assert guarded.value == number


@pytest.mark.parametrize("policy", list(OutOfBounds))
@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (-1.0, np.nan), (np.inf, np.inf)])
def test_a_space_in_which_nothing_is_finite_is_a_mistake(low, high, policy):
    space = box(-1.0, 1.0, np.float32)
    space.low[1], space.high[1] = low, high  # Gymnasium refuses NaN only when it is constructed
    with pytest.raises(ConfigurationError, match="no float32 is within the bounds of 'action'"):
        ActionGuard(space, policy)


def test_the_guard_counts_what_it_did_and_why():
    guard = ActionGuard(BOX, OutOfBounds.CLIP)
    guard.check([np.zeros(2, np.float32)])
    guard.check([np.full(2, 9.0, np.float32)])
    for bad in (np.nan, np.inf):
        with pytest.raises(ActionRefusedError):
            guard.check([np.full(2, bad, np.float32)])
    with pytest.raises(ActionRefusedError):
        guard.check([])
    assert guard.statistics().to_info() == {
        "checked": 5,
        "clipped": 1,
        "refused": {"not_finite": 2, "shape": 1},
    }


def test_statistics_are_those_of_their_moment():
    guard = ActionGuard(BOX, OutOfBounds.REFUSE)
    before = guard.statistics()
    with pytest.raises(ActionRefusedError):
        guard.check([])
    assert before.to_info() == {"checked": 0, "clipped": 0, "refused": {}}


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
