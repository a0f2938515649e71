"""What the checker of robots is made of: its actions, its spy, and its class of tests."""

import subprocess
import sys
import unittest

import broken_robots as robots
import numpy as np
import pytest
from gymnasium import spaces

from remote_env import Mode
from remote_env_server.testing import ConformanceError, RobotConformance
from remote_env_server.testing.actions import ActionSource, not_finite, out_of_bounds
from remote_env_server.testing.checks import CHECKS
from remote_env_server.testing.spy import Spy


def test_a_hold_that_acts_is_one_call_and_is_never_blocked():
    class Braking(robots.Arm):
        def hold(self):
            self.apply_action(np.zeros(3, np.float32))

    robot = Braking()
    spy = Spy(robot)
    robot.apply_action(np.ones(3, np.float32))
    with spy.actions_blocked():
        robot.apply_action(np.full(3, 9.0, np.float32))
        assert robot.velocity.tolist() == [1.0, 1.0, 1.0]
        robot.hold()
    assert robot.velocity.tolist() == [0.0, 0.0, 0.0]
    assert len(spy.calls("apply_action")) == 2
    assert len(spy.calls("hold")) == 1


SPACES = {
    "Box": spaces.Box(2.0, 4.0, (3,), np.float32),
    "half": spaces.Box(np.float32([0.5]), np.float32([np.inf])),
    "uint8": spaces.Box(0, 200, (2,), np.uint8),
    "Discrete": spaces.Discrete(3, start=5),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], start=[1, 1]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"gripper": spaces.Discrete(2), "arm": spaces.Box(-1, 1, (2,))}),
    "Tuple": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(2)]),
}


class SpecOf:
    mode = Mode.REALTIME

    def __init__(self, space):
        self.action_space = space


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_small_actions_are_in_the_action_space_and_bad_ones_are_not(space):
    source = ActionSource(SpecOf(space), 1)
    action = source.next(None)
    assert space.contains(action)
    assert not space.contains(out_of_bounds(space, action))
    assert space.contains(action), "the good action was changed"


def test_a_space_without_bounds_has_no_bad_actions():
    whole = spaces.Box(0, 255, (2,), np.uint8)
    assert out_of_bounds(whole, np.zeros(2, np.uint8)) is None
    assert not_finite(whole, np.zeros(2, np.uint8)) is None
    assert np.isnan(not_finite(spaces.Box(-1, 1, (2,)), np.zeros(2, np.float32))).sum() == 1


# As a class of tests


class TestSimulator(RobotConformance):
    """Every check is a test here, and passes."""

    def make_robot(self):
        return robots.Simulator()


def test_every_check_is_a_test_of_the_class():
    for check in CHECKS:
        assert hasattr(RobotConformance, f"test_{check.identifier}")


def test_a_failed_check_fails_its_test_and_the_others_get_a_new_robot():
    class Conformance(RobotConformance):
        made = 0

        def make_robot(self):
            type(self).made += 1
            return robots.RewardOfNaN()

    Conformance.setup_class()
    try:
        Conformance().test_reset_works_twice_in_a_row()
        with pytest.raises(ConformanceError, match="the reward was nan"):
            Conformance().test_rewards_are_finite_numbers_and_flags_are_bools()
        Conformance().test_steps_follow_a_reset()
        assert Conformance.made == 2
        with pytest.raises(unittest.SkipTest, match="only in realtime"):
            Conformance().test_apply_action_returns_at_once()
    finally:
        Conformance.teardown_class()


def test_a_warning_is_a_warning_of_its_test():
    class Conformance(RobotConformance):
        def make_robot(self):
            return robots.IgnoresTheSeed()

    Conformance.setup_class()
    try:
        with pytest.warns(UserWarning, match="the seeds 11 and 12 give the same episode"):
            Conformance().test_another_seed_gives_another_trajectory()
    finally:
        Conformance.teardown_class()


def test_pytest_is_not_needed_to_check_a_robot():
    code = (
        "import sys; sys.modules['pytest'] = None; from remote_env_server.testing import "
        "check_robot; check_robot('double-pendulum', moves=False).raise_if_failed()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
