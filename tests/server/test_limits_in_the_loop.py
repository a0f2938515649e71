"""Limits of the motion, through the wire and in time."""

import numpy as np
import pytest
from beside import wait_for
from sample_robots import Counter, Rig

from remote_env import ActionLimit, errors
from remote_env_server import OutOfBounds


class Slow(Counter):
    """Its action may change by 0.1 in a step: 5 per second, at 50 Hz."""

    action_limits = ActionLimit(max_rate=5.0)


class Careful(Slow):
    out_of_bounds = OutOfBounds.CLIP


class Near(Counter):
    """Its action may be 0.5 from its sum, which is where it is."""

    action_limits = ActionLimit(max_step=0.5, measured="sum")
    seedable = True

    def reset(self, *, seed=None, options=None):
        self._sum = np.zeros(2)
        self.update_proprio("sum", self._sum)


def of(value):
    return np.full(2, value, np.float32)


def test_an_action_that_changes_too_fast_is_refused_and_does_not_move_the_robot(serve, connect):
    robot = Slow()
    env = connect(serve(robot).url)
    env.reset(seed=1)
    env.step(of(0.5))  # the first one starts anywhere: nothing measures what it commands
    with pytest.raises(errors.ActionRefusedError, match="0.7 after 0.5, 20 ms before") as refused:
        env.step(of(0.7))
    assert refused.value.code == "robot.action.rate"
    *_, info = env.step(of(0.59))
    assert info["remote"]["guard"] == {"clipped": 0, "refused": {"rate": 1}}
    assert [float(action[0]) for action in robot.actions] == pytest.approx([0.5, 0.59])


def test_a_reset_forgets_the_last_action(serve, connect):
    env = connect(serve(Slow()).url)
    env.reset(seed=1)
    env.step(of(-1.0))
    env.reset(seed=1)
    env.step(of(1.0))


def test_a_clipped_action_is_told_and_counted(serve, connect):
    robot = Careful()
    env = connect(serve(robot).url)
    env.reset(seed=1)
    *_, info = env.step(of(0.0))
    assert info["remote"]["guard"] == {"clipped": 0, "refused": {}}
    *_, info = env.step(of(1.0))
    assert info["remote"]["action_executed"] == pytest.approx([0.1, 0.1])
    assert info["remote"]["guard"] == {"clipped": 1, "refused": {}}
    assert robot.actions[-1] == pytest.approx([0.1, 0.1])
    *_, info = env.step(of(0.25))  # from what was executed, not from what was asked
    assert info["remote"]["action_executed"] == pytest.approx([0.2, 0.2])
    assert info["remote"]["guard"] == {"clipped": 2, "refused": {}}


def test_the_counts_are_those_of_the_episode(serve, connect):
    env = connect(serve(Careful()).url)
    env.reset(seed=1)
    env.step(of(0.0))
    env.step(of(1.0))
    env.reset(seed=1)
    *_, info = env.step(of(0.0))
    assert info["remote"]["guard"] == {"clipped": 0, "refused": {}}


def test_an_action_far_from_the_measured_state_is_refused(serve, connect):
    env = connect(serve(Near()).url)
    env.reset()
    env.step(of(0.4))  # now it is at 0.4
    env.step(of(0.8))  # now at 1.2
    with pytest.raises(errors.ActionRefusedError) as refused:
        env.step(of(0.6))
    assert refused.value.code == "robot.action.step"


@pytest.mark.realtime
def test_after_a_hold_the_last_action_is_no_more_in_force(serve, connect, slowdown):
    robot = Rig()
    robot.action_limits = ActionLimit(max_rate=0.5)
    env = connect(serve(robot).url)
    env.reset()
    env.step(np.full(3, -1.0, np.float32))
    with pytest.raises(errors.ActionRefusedError):
        env.step(np.full(3, 1.0, np.float32))
    before = len(robot.holds)
    assert wait_for(lambda: len(robot.holds) > before, 2.0 * slowdown)
    env.step(np.full(3, 1.0, np.float32))
