"""How fast actions may change and how far they may reach. Branch coverage here is 100 %."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from remote_env.errors import ActionRefusedError
from remote_env_server import ActionLimit, OutOfBounds
from remote_env_server.motion import MotionLimiter

PERIOD = 0.1
BOX = spaces.Box(-10.0, 10.0, (2,), np.float32)
RATE = ActionLimit(max_rate=5.0)  # 0.5 in a period
RATE_FROM = ActionLimit(max_rate=5.0, measured="joint_pos")
STEP = ActionLimit(max_step=1.0, measured="joint_pos")
BOTH = ActionLimit(max_rate=5.0, max_step=1.0, measured="joint_pos")
CHECKED = [OutOfBounds.REFUSE, OutOfBounds.CLIP]


def limiter(limit, policy=OutOfBounds.REFUSE, *, executed=None, space=BOX):
    made = MotionLimiter(space, {"action": limit}, policy, control_period=PERIOD)
    if executed is not None:
        made.note_executed(floats(*executed))
    return made


def floats(*values):
    return np.array(values, np.float32)


def at(*values):
    return {"joint_pos": np.array(values)}


def refusal_of(made, action, *, measured, seconds=PERIOD):
    """Return the code and the text with which an action is refused."""
    with pytest.raises(ActionRefusedError) as refused:
        made.check(action, measured=measured, seconds=seconds)
    return refused.value.code, str(refused.value)


# Rate


def test_a_change_within_the_rate_passes_as_it_is():
    action = floats(1.5, -0.5)
    guarded = limiter(RATE, executed=(1.0, 0.0)).check(action, measured={}, seconds=PERIOD)
    assert guarded.value is action
    assert not guarded.was_clipped


def test_a_change_beyond_the_rate_is_refused_with_its_element_and_the_limit():
    code, text = refusal_of(limiter(RATE, executed=(1.0, 0.25)), floats(1.0, 2.0), measured={})
    assert code == "robot.action.rate"
    assert "'action'[1] is 2 after 0.25, 100 ms before" in text
    assert "max_rate allows a change of 0.5 in that time" in text
    assert "The robot did not move; take smaller steps" in text


def test_a_change_beyond_the_rate_is_clipped_to_the_nearest_that_is_not():
    made = limiter(RATE, OutOfBounds.CLIP, executed=(1.0, 0.25))
    action = floats(1.25, -2.0)
    guarded = made.check(action, measured={}, seconds=PERIOD)
    assert guarded.value.tolist() == [1.25, -0.25]
    assert guarded.value.dtype == np.float32
    assert guarded.was_clipped
    assert action.tolist() == [1.25, -2.0]


@pytest.mark.parametrize(("seconds", "reach"), [(0.05, 0.25), (0.1, 0.5), (0.4, 2.0)])
def test_the_longer_ago_the_last_action_the_further_the_next_may_be(seconds, reach):
    made = limiter(RATE, OutOfBounds.CLIP, executed=(0.0, 0.0))
    guarded = made.check(floats(9.0, -9.0), measured={}, seconds=seconds)
    assert guarded.value.tolist() == pytest.approx([reach, -reach])


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_when_no_time_has_passed_nothing_may_change(seconds):
    made = limiter(RATE, executed=(1.0, 0.0))
    assert made.check(floats(1.0, 0.0), measured={}, seconds=seconds)
    assert refusal_of(made, floats(1.0, 0.01), measured={}, seconds=seconds)[0].endswith("rate")


def test_the_rate_counts_from_what_was_executed_and_not_from_what_was_asked():
    made = limiter(RATE, OutOfBounds.CLIP, executed=(0.0, 0.0))
    reached = []
    for _ in range(3):
        guarded = made.check(floats(9.0, 0.0), measured={}, seconds=PERIOD)
        made.note_executed(guarded.value)
        reached.append(guarded.value[0].item())
    assert reached == [0.5, 1.0, 1.5]


def test_what_was_executed_is_remembered_as_it_was():
    made = limiter(RATE)
    action = floats(1.0, 0.0)
    made.note_executed(action)
    action[:] = 9.0  # a robot that writes to its action changes nothing
    assert refusal_of(made, floats(9.0, 9.0), measured={})[0] == "robot.action.rate"


def test_each_element_may_have_a_limit_of_its_own():
    made = limiter(ActionLimit(max_rate=[5.0, np.inf]), executed=(0.0, 0.0))
    made.check(floats(0.5, 10.0), measured={}, seconds=PERIOD)
    made.check(floats(0.0, 10.0), measured={}, seconds=0.0)
    assert "'action'[0]" in refusal_of(made, floats(0.6, 10.0), measured={})[1]


# The first action


def test_the_first_action_may_be_anywhere_if_nothing_measures():
    made = limiter(RATE)
    assert made.check(floats(10.0, -10.0), measured={}, seconds=PERIOD)
    assert made.check(floats(10.0, -10.0), measured={}, seconds=None)


@pytest.mark.parametrize("seconds", [None, PERIOD, 99.0], ids=str)
def test_the_first_action_has_one_period_from_the_measured_state(seconds):
    made = limiter(RATE_FROM)
    made.check(floats(3.5, -3.5), measured=at(3.0, -3.0), seconds=seconds)
    code, text = refusal_of(made, floats(3.7, -3.0), measured=at(3.0, -3.0), seconds=seconds)
    assert code == "robot.action.rate"
    assert "'action'[0] is 3.7 after 3, 100 ms before" in text


def test_an_action_that_does_not_count_any_more_is_not_compared_with():
    made = limiter(RATE_FROM, executed=(0.0, 0.0))
    assert made.check(floats(3.0, 3.0), measured=at(3.0, 3.0), seconds=None)
    refusal_of(made, floats(3.0, 3.0), measured=at(3.0, 3.0), seconds=PERIOD)
    made.forget()
    assert made.check(floats(3.0, 3.0), measured=at(3.0, 3.0), seconds=PERIOD)


def test_with_a_rate_alone_later_actions_do_not_look_at_what_is_measured():
    made = limiter(RATE_FROM, executed=(0.0, 0.0))
    assert made.check(floats(0.5, 0.0), measured=at(np.nan, 9.0), seconds=PERIOD)


# The distance to the measured state


def test_an_action_near_the_measured_state_passes_however_fast_it_changes():
    made = limiter(STEP, executed=(0.0, 0.0))
    assert made.check(floats(6.0, 5.0), measured=at(5.0, 5.0), seconds=1e-6)


def test_an_action_far_from_the_measured_state_is_refused():
    code, text = refusal_of(limiter(STEP), floats(5.0, 3.75), measured=at(5.0, 5.0))
    assert code == "robot.action.step"
    assert "'action'[1] is 3.75 where 5 is measured, and max_step is 1" in text
    assert "command something nearer to where the robot is" in text


def test_an_action_far_from_the_measured_state_is_clipped():
    made = limiter(STEP, OutOfBounds.CLIP)
    guarded = made.check(floats(5.5, -9.0), measured=at(5.0, 5.0), seconds=None)
    assert guarded.value.tolist() == [5.5, 4.0]


def test_both_limits_count():
    made = limiter(BOTH, OutOfBounds.CLIP, executed=(0.0, 0.0))
    guarded = made.check(floats(9.0, -9.0), measured=at(-0.75, 0.0), seconds=PERIOD)
    assert guarded.value.tolist() == [0.25, -0.5]


UNKNOWN = [
    pytest.param(at(0.0, np.nan), r"'joint_pos' is \[ 0. nan\]", id="nan"),
    pytest.param(at(-np.inf, 0.0), r"'joint_pos' is \[-inf", id="infinite"),
    pytest.param({}, "'joint_pos' is not there", id="missing"),
]


@pytest.mark.parametrize("policy", CHECKED)
@pytest.mark.parametrize("limit", [RATE_FROM, STEP, BOTH], ids=["rate", "step", "both"])
@pytest.mark.parametrize(("measured", "text"), UNKNOWN)
def test_when_the_state_is_unknown_nothing_passes_under_any_policy(measured, text, limit, policy):
    with pytest.raises(ActionRefusedError, match=text) as refused:
        limiter(limit, policy).check(floats(0.0, 0.0), measured=measured, seconds=None)
    assert refused.value.code == "robot.action.measured"


@pytest.mark.parametrize("policy", CHECKED)
def test_the_state_is_needed_for_the_step_of_a_later_action_too(policy):
    made = limiter(BOTH, policy, executed=(0.0, 0.0))
    with pytest.raises(ActionRefusedError, match="look at the sensor"):
        made.check(floats(0.0, 0.0), measured=at(np.nan, 0.0), seconds=PERIOD)


@pytest.mark.parametrize(
    ("limit", "measured", "code"),
    [
        (BOTH, at(9.0, 0.0), "robot.action.step"),
        (STEP, at(12.0, 0.0), "robot.action.step"),
        (STEP, at(0.0, -12.0), "robot.action.step"),
    ],
    ids=["pushed away", "above its bounds", "below its bounds"],
)
def test_where_no_action_is_allowed_clipping_refuses(limit, measured, code):
    made = limiter(limit, OutOfBounds.CLIP, executed=(0.0, 0.0))
    refused = refusal_of(made, floats(0.0, 0.0), measured=measured)
    assert refused[0] == code
    assert "no action is within all limits and bounds. The robot did not move" in refused[1]


@pytest.mark.parametrize("policy", CHECKED)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("limit", [RATE, STEP], ids=["rate", "step"])
def test_what_is_not_finite_does_not_pass_here_either(limit, bad, policy):
    made = limiter(limit, policy, executed=(0.0, 0.0))
    refusal_of(made, floats(0.0, bad), measured=at(0.0, 0.0))


# Spaces and rounding


def test_only_leaves_with_limits_are_looked_at_and_the_rest_stays():
    space = spaces.Dict({"arm": BOX, "grip": spaces.Discrete(3), "pair": spaces.Tuple([BOX, BOX])})
    limits = {"arm": RATE, "pair/1": STEP}
    made = MotionLimiter(space, limits, OutOfBounds.CLIP, control_period=PERIOD)
    assert made.measured == {"joint_pos"}
    rest = floats(9.0, 9.0)
    action = {"arm": floats(0.0, 0.0), "grip": 2, "pair": (rest, floats(9.0, 0.0))}
    made.note_executed(action)

    action["arm"] = floats(9.0, 0.0)
    value = made.check(action, measured=at(1.0, 0.0), seconds=PERIOD).value

    assert value["arm"].tolist() == [0.5, 0.0]
    assert type(value["grip"]) is int
    assert value["pair"][0] is rest
    assert value["pair"][1].tolist() == [2.0, 0.0]
    assert action["arm"].tolist() == [9.0, 0.0]


def test_an_action_of_one_number_has_no_element_to_name():
    made = limiter(
        ActionLimit(max_rate=5.0), space=spaces.Box(-1.0, 1.0, (), np.float64), executed=None
    )
    made.note_executed(np.array(0.0))
    assert made.check(np.array(0.5), measured={}, seconds=PERIOD)
    assert "'action' is -1 after 0," in refusal_of(made, np.array(-1.0), measured={})[1]


def test_without_limits_everything_passes():
    made = MotionLimiter(BOX, {}, OutOfBounds.REFUSE, control_period=PERIOD)
    action = floats(1.0, 2.0)
    made.note_executed(floats(9.0, 9.0))
    assert made.check(action, measured={}, seconds=0.0).value is action
    assert made.measured == frozenset()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_learner_that_goes_exactly_to_the_limit_is_not_refused(dtype):
    made = limiter(ActionLimit(max_rate=0.3), space=spaces.Box(-10.0, 10.0, (2,), dtype))
    action = np.array([0.1, -0.1], dtype)
    made.note_executed(action)
    for _ in range(300):
        action = np.asarray(action + dtype(0.3) * dtype(0.1), dtype)
        made.check(action, measured={}, seconds=0.1)
        made.note_executed(action)
    beyond = np.asarray(action + dtype(0.3) * dtype(0.1) * dtype(2), dtype)
    assert refusal_of(made, beyond, measured={}, seconds=0.1)[0] == "robot.action.rate"


def test_the_limiter_counts_what_it_did_and_why():
    made = limiter(BOTH, OutOfBounds.CLIP, executed=(0.0, 0.0))
    made.check(floats(0.0, 0.0), measured=at(0.0, 0.0), seconds=PERIOD)
    made.check(floats(9.0, 0.0), measured=at(0.0, 0.0), seconds=PERIOD)
    refusal_of(made, floats(0.0, 0.0), measured=at(9.0, 9.0))
    refusal_of(made, floats(0.0, 0.0), measured={})
    assert made.statistics().to_info() == {
        "checked": 4,
        "clipped": 1,
        "refused": {"step": 1, "measured": 1},
    }


# Properties

UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOUNDED = spaces.Box(np.float32(-1.5), np.float32(2.5), (3,), np.float32)
any_floats = npst.arrays(
    np.float32, 3, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
near_floats = npst.arrays(np.float32, 3, elements=st.floats(-3, 3, width=32))
actions = any_floats | near_floats
# A sensor may say anything; an action was guarded.
states = actions | npst.arrays(np.float64, 3, elements=st.floats())
limits = st.none() | st.floats(0) | npst.arrays(np.float64, 3, elements=st.floats(0))
durations = st.none() | st.floats(0, 1) | st.floats()


@st.composite
def situations(draw):
    """Return what a limiter is made of and told, and an action within the bounds."""
    space = draw(st.sampled_from([UNBOUNDED, BOUNDED]))
    max_rate, max_step = draw(limits), draw(limits)
    assume(max_rate is not None or max_step is not None)
    measured = "joint_pos" if max_step is not None else draw(st.sampled_from(["", "joint_pos"]))
    limit = ActionLimit(max_rate=max_rate, max_step=max_step, measured=measured)
    executed = draw(st.none() | actions)
    action = np.clip(draw(actions), space.low, space.high)
    return space, limit, executed, action, {"joint_pos": draw(states)}, draw(durations)


def outcome_of(situation, policy):
    """Return what passes, or None."""
    space, limit, executed, action, measured, seconds = situation
    made = MotionLimiter(space, {"action": limit}, policy, control_period=PERIOD)
    if executed is not None:
        made.note_executed(executed)
    try:
        return made.check(action, measured=measured, seconds=seconds)
    except ActionRefusedError:
        return None


def centres_and_reaches(situation):
    """Return the windows once more, number by number and in plain Python."""
    _, limit, executed, _, measured, seconds = situation
    if executed is None or seconds is None:
        start, lapse = (measured["joint_pos"] if limit.measured else None), PERIOD
    else:
        start, lapse = executed, seconds if seconds > 0 else 0.0
    if limit.max_rate is not None and start is not None:
        for centre, rate in zip(start, np.broadcast_to(limit.max_rate, 3), strict=True):
            # Within a nanosecond is within no time.
            yield float(centre), math.inf if rate == math.inf else float(rate) * max(lapse, 1e-9)
    if limit.max_step is not None:
        for centre, step in zip(
            measured["joint_pos"], np.broadcast_to(limit.max_step, 3), strict=True
        ):
            yield float(centre), float(step)


@given(situations(), st.sampled_from(CHECKED))
def test_what_passes_is_within_all_limits_and_bounds(situation, policy):
    passed = outcome_of(situation, policy)
    if passed is None:
        return
    assert situation[0].contains(passed.value)
    windows = list(centres_and_reaches(situation))
    values = np.tile(passed.value, len(windows) // 3)
    for value, (centre, reach) in zip(values, windows, strict=True):
        rounding = 1e-6 * (abs(centre) + reach) + 1e-44
        assert reach == math.inf or abs(float(value) - centre) <= reach + rounding


@given(situations())
def test_clipping_changes_exactly_what_refusing_refuses(situation):
    refusing, clipping = (outcome_of(situation, policy) for policy in CHECKED)
    is_unchanged = clipping is not None and not clipping.was_clipped
    assert is_unchanged == (refusing is not None)
    if refusing is not None:
        assert refusing.value is clipping.value is situation[3]


@given(situations())
def test_what_was_clipped_passes_the_next_time(situation):
    clipping = outcome_of(situation, OutOfBounds.CLIP)
    assume(clipping is not None)
    again = outcome_of((*situation[:3], clipping.value, *situation[4:]), OutOfBounds.REFUSE)
    assert again is not None
    assert again.value is clipping.value
