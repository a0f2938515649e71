"""The double pendulum in real time: the plant moves whether anyone acts or not."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from remote_env.spec import Mode
from remote_env_server.freshness import FreshnessJudge
from remote_env_server.robots.double_pendulum import MAX_FORCE, DoublePendulumRobot

pytestmark = pytest.mark.realtime
SLOWDOWN = float(os.environ.get("REMOTE_ENV_TEST_SLOWDOWN", "1"))
UPRIGHT = [0.0] * 6


@pytest.fixture(params=[Mode.REALTIME, Mode.DELAYED], ids=lambda mode: mode.value)
def robot(request):
    robot = DoublePendulumRobot()
    robot.mode = request.param
    robot.open()
    yield robot
    robot.close()
    robot.stop_sensors()


def begin(robot, state):
    robot.reset(options={"state": state})


def measured(observation):
    return np.concatenate([observation["joint_pos"], observation["joint_vel"]])


def trajectory(dynamics, state, *, seconds, step, force=0.0):
    states = [state]
    for _ in range(round(seconds / step)):
        states.append(dynamics.advance(states[-1], force, step))
    return states


def wait_for(read, *, seconds=5.0):
    """Return the first true value of a function, called every millisecond."""
    deadline = time.monotonic() + seconds * SLOWDOWN
    while time.monotonic() < deadline:
        value = read()
        if value:
            return value
        time.sleep(0.001)
    raise AssertionError(f"{read} did not come true in {seconds * SLOWDOWN} s")


def reading(robot, *, after):
    """Wait for a reading of all six variables of one instant; returns its stamp and values."""

    def read():
        observation = robot.make_obs()
        position, rate = observation.fields["joint_pos"], observation.fields["joint_vel"]
        is_whole = position.stamp == rate.stamp and position.stamp > after
        return (position.stamp, measured(observation)) if is_whole else None

    return wait_for(read)


@pytest.mark.parametrize("force", [0.0, 3.0])
def test_in_real_time_the_plant_moves_as_much_as_its_stamps_say(robot, force):
    begin(robot, [0, 0.02, 0.02, 0, 0, 0])
    robot.apply_action(np.array([force / MAX_FORCE], np.float32))
    start, first = reading(robot, after=robot.now())

    end, last = reading(robot, after=start + 0.15)

    assert -0.001 < time.monotonic() - end < 0.15 * SLOWDOWN
    state = tuple(first.astype(float).tolist())
    expected = trajectory(robot.dynamics, state, seconds=end - start, step=0.002, force=force)
    np.testing.assert_allclose(last, expected[-1], rtol=0, atol=1e-4)


def test_hold_takes_the_force_away(robot):
    begin(robot, UPRIGHT)
    robot.apply_action(np.array([5.0 / MAX_FORCE], np.float32))
    wait_for(lambda: robot.make_obs()["joint_vel"][0] > 0.02)

    robot.hold()

    start, first = reading(robot, after=robot.now())
    end, last = reading(robot, after=start + 0.1)
    state = tuple(first.astype(float).tolist())
    expected = trajectory(robot.dynamics, state, seconds=end - start, step=0.002)
    np.testing.assert_allclose(last, expected[-1], rtol=0, atol=1e-4)


def test_in_real_time_a_fallen_plant_rests_until_the_next_reset(robot):
    begin(robot, [0, 0.45, 0.45, 0, 0, 0])
    wait_for(lambda: robot.outcome(robot.get_obs()).terminated)
    start, fallen = reading(robot, after=robot.now())
    _, later = reading(robot, after=start + 0.05)

    begin(robot, UPRIGHT)
    _, upright = reading(robot, after=robot.now())

    np.testing.assert_array_equal(later, fallen)
    assert np.abs(upright).max() < 0.01


def test_a_plant_that_was_never_reset_stands_still(robot):
    _, state = reading(robot, after=robot.now() + 0.02)

    np.testing.assert_array_equal(state, 0)


def test_in_real_time_the_camera_draws_from_when_somebody_wants_it(robot):
    begin(robot, UPRIGHT)
    reading(robot, after=robot.now() + 0.1)
    before = robot.make_obs().fields["camera/image"].sequence

    asked = robot.now()
    robot.set_subscribed(frozenset({"camera/image"}))
    observation = wait_for(
        lambda: next(
            (o for o in [robot.make_obs()] if o.fields["camera/image"].stamp > asked), None
        )
    )

    assert before == 0
    assert observation.incoherent == ()


def test_a_picture_of_a_plant_that_stands_still_is_not_taken_for_frozen(robot):
    robot.set_subscribed(frozenset({"camera/image"}))
    judge = FreshnessJudge(robot.streams())
    first = wait_for(lambda: robot.make_obs().fields["camera/image"].sequence)

    def later():
        fields = robot.make_obs().fields
        is_later = fields["camera/image"].sequence > first + 10  # twice its max_age
        return fields if is_later else None

    fields = wait_for(later)
    arrived_at = fields["camera/image"].arrived_at
    stamp = fields["camera/image"].stamp
    assert judge.judge(fields, ["camera/image"], now=stamp, monotonic=arrived_at) == ()


def test_a_plant_that_was_kept_waiting_catches_up_with_the_clock(robot):
    begin(robot, UPRIGHT)
    with robot._lock:  # stands in for a machine that was busy with something else
        time.sleep(0.09)

    stamp, _ = reading(robot, after=robot.now())

    assert time.monotonic() - stamp < 0.08


@pytest.mark.parametrize("mode", [Mode.REALTIME, Mode.DELAYED])
def test_where_time_is_its_own_it_resets_whenever_a_learner_likes(serve, connect, mode):
    env = connect(serve(DoublePendulumRobot(), mode=mode).url)
    for _ in range(3):
        observation, info = env.reset()
        assert env.observation_space.contains(observation)
        assert max(info["remote"]["ages"].values()) < 1.0 * SLOWDOWN
        env.step(env.action_space.sample())
