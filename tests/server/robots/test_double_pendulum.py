"""The double pendulum as a robot: its contract, in lockstep."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from remote_env.errors import ConfigurationError, UnknownOptionError
from remote_env_server.robots.double_pendulum import (
    MAX_FORCE,
    DoublePendulumConfig,
    DoublePendulumRobot,
)
from remote_env_server.robots.double_pendulum_drawing import SideCamera

UPRIGHT = [0.0] * 6

# A linear-quadratic regulator of the linearised plant at 50 Hz, for Q = diag(10, 100, 100, 1, 1,
# 1) and R = 0.01, on the state in its usual order.
GAIN = np.array([16.92, -206.9, 346.63, 23.118, 6.5458, 41.403])


def trajectory(dynamics, state, *, seconds, step, force=0.0):
    states = [state]
    for _ in range(round(seconds / step)):
        states.append(dynamics.advance(states[-1], force, step))
    return states


@pytest.fixture
def make_robot():
    with contextlib.ExitStack() as stack:

        def make(**config):
            robot = DoublePendulumRobot(DoublePendulumConfig(**config))
            robot.open()
            stack.callback(robot.close)
            return robot

        yield make


def act(robot, force):
    robot.apply_action(np.array([force / MAX_FORCE], np.float32))
    observation = robot.get_obs()
    return observation, robot.outcome(observation)


def measured(observation):
    return np.concatenate([observation["joint_pos"], observation["joint_vel"]])


def begin(robot, state=UPRIGHT):
    robot.reset(options={"state": list(state)})
    return robot.get_obs()


def record(robot, seed, *, steps=60):
    """Return every bit of an episode under full force in random directions."""
    forces = np.random.default_rng(seed).choice([-20.0, -3.0, 3.0, 20.0], steps)
    robot.reset(seed=seed)
    first = robot.get_obs()
    results = [act(robot, force) for force in forces]
    bits = [o[name].tobytes() for o in [first, *[r[0] for r in results]] for name in sorted(o)]
    return bits, [r[1] for r in results]


def test_the_robot_is_ready_while_it_is_open():
    robot = DoublePendulumRobot()
    before = robot.ready.is_set()
    robot.open()
    opened = robot.ready.is_set()
    robot.close()

    assert (before, opened, robot.ready.is_set()) == (False, True, False)


def test_options_become_the_robots_own():
    robot = DoublePendulumRobot(
        DoublePendulumConfig(dt=0.01, extra_latency_ms=15, max_steps=42, image_size=(48, 64))
    )

    assert (robot.control_hz, robot.simulated_latency, robot.max_episode_steps) == (100, 0.015, 42)
    assert robot.images["camera"].shape == (48, 64, 3)


@pytest.mark.parametrize(
    "option",
    [
        {"dt": 0.0},
        {"dt": float("nan")},
        {"sensor_noise_std": -1.0},
        {"extra_latency_ms": -1.0},
        {"max_steps": 0},
        {"image_size": (8, 8)},
        {"image_size": (96,)},
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(option):
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        DoublePendulumConfig(**option)


@pytest.mark.parametrize("dt", [0.001, 0.003, 0.02])
def test_a_step_is_exactly_one_control_period_of_the_plant(make_robot, dt):
    robot = make_robot(dt=dt)
    start = (0.1, 0.02, -0.03, 0.4, 0.1, -0.2)
    begin(robot, start)

    observation, _ = act(robot, 4.0)

    expected = trajectory(robot.dynamics, start, seconds=dt, step=dt / 100, force=4.0)[-1]
    np.testing.assert_allclose(measured(observation), expected, rtol=0, atol=1e-6)
    assert robot.now() == dt
    assert {observation.fields[name].stamp for name in ("joint_pos", "joint_vel")} == {dt}


def test_a_seed_decides_every_bit_of_an_episode(make_robot):
    first, second = make_robot(sensor_noise_std=0.01), make_robot(sensor_noise_std=0.01)
    for robot in (first, second):
        robot.set_subscribed(frozenset({"camera/image", "camera/depth"}))
    second.reset(seed=5)
    act(second, 1.0)

    assert record(first, 3) == record(second, 3)


def test_another_seed_is_another_episode(make_robot):
    robot = make_robot()

    assert record(robot, 3) != record(robot, 4)


def test_episodes_without_a_seed_go_on_with_the_sequence(make_robot):
    starts = []
    for robot in (make_robot(), make_robot()):
        robot.reset(seed=1)
        starts.append([])
        for _ in range(3):
            robot.reset()
            starts[-1].append(measured(robot.get_obs()).tolist())

    assert starts[0] == starts[1]
    assert starts[0][0] != starts[0][1] != starts[0][2]


def test_neither_noise_nor_options_nor_steps_shift_later_episodes(make_robot):
    plain, disturbed = make_robot(), make_robot()
    plain.reset(seed=1)
    disturbed.reset(seed=1, options={"state": UPRIGHT})
    act(disturbed, 3.0)
    for robot in (plain, disturbed):
        robot.reset()

    np.testing.assert_array_equal(measured(plain.get_obs()), measured(disturbed.get_obs()))


def test_episodes_begin_near_the_upright(make_robot):
    robot = make_robot()
    starts = []
    for seed in range(200):
        robot.reset(seed=seed)
        starts.append(measured(robot.get_obs()))

    assert np.abs(starts).max() <= 0.05
    np.testing.assert_array_less(0.04, np.abs(starts).max(axis=0))


def test_noise_has_the_deviation_asked_for_on_every_variable(make_robot):
    robot = make_robot(sensor_noise_std=0.02)
    robot.reset(seed=0)

    noise = np.array([measured(begin(robot)) for _ in range(2000)])

    # Five standard errors: of a deviation 1 / sqrt(2 n), of a mean 1 / sqrt(n).
    np.testing.assert_allclose(noise.std(axis=0), 0.02, rtol=5 / np.sqrt(2 * 2000))
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 * 0.02 / np.sqrt(2000))
    off_diagonal = np.corrcoef(noise.T) - np.eye(6)
    np.testing.assert_allclose(off_diagonal, 0, atol=5 / np.sqrt(2000))


def test_noise_is_on_the_measurement_and_not_in_the_plant(make_robot):
    noisy, quiet = make_robot(sensor_noise_std=0.5), make_robot()
    for robot in (noisy, quiet):
        robot.set_subscribed(frozenset({"camera/image"}))
        begin(robot, [0.3, 0.05, -0.02, 0, 0, 0])
    ends = [act(robot, 5.0) for robot in (noisy, quiet) for _ in range(5)]

    np.testing.assert_array_equal(noisy.images["camera"], quiet.images["camera"])
    assert not ends[4][1].terminated
    assert not np.array_equal(ends[4][0]["joint_pos"], ends[9][0]["joint_pos"])


@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("force", [-20.0, 20.0])
@pytest.mark.parametrize(
    "state",
    [UPRIGHT, [0.999, 0.49, 0.49, 9.9, 19.9, 19.9], [-0.999, -0.49, 0.49, -9.9, -19.9, 19.9]],
    ids=["upright", "leaving right", "leaving left"],
)
def test_observations_and_rewards_are_always_within_their_bounds(make_robot, noise, force, state):
    robot = make_robot(sensor_noise_std=noise)
    robot.reset(seed=0)
    observed = begin(robot, state)

    results = [act(robot, force) for _ in range(60)]

    space = robot.observation_space
    seen = [{name: o[name] for name in space} for o in [observed, *[r[0] for r in results]]]
    assert all(space.contains(observation) for observation in seen)
    assert all(0.0 <= outcome.reward <= 1.0 for _, outcome in results)
    assert results[-1][1].terminated


def test_all_bounds_are_finite_and_have_units(make_robot):
    robot = make_robot()

    felt = [stream for stream in robot.streams() if not stream.on_request]

    assert [stream.name for stream in felt] == ["joint_pos", "joint_vel"]
    assert all(stream.space.is_bounded() and stream.unit for stream in felt)
    assert robot.action_space.is_bounded()


def test_the_reward_is_one_upright_in_the_middle_without_force(make_robot):
    robot = make_robot()
    begin(robot)

    assert act(robot, 0.0)[1].reward == 1.0


@pytest.mark.parametrize(
    ("state", "force", "reward"),
    [
        ([0.5, 0, 0, 0, 0, 0], 0.0, 1 - 0.3 * 0.25),
        ([0, 0.25, 0, 0, 0, 0], 0.0, 1 - 0.3 * 0.25),
        ([0, 0, -0.25, 0, 0, 0], 0.0, 1 - 0.3 * 0.25),
        ([0, 0, 0, 0, 0, 0], -20.0, 1 - 0.1),
    ],
    ids=["off the middle", "lower link", "upper link", "force"],
)
def test_the_reward_falls_with_each_of_its_terms(make_robot, state, force, reward):
    robot = make_robot(dt=0.001)
    begin(robot, state)

    assert act(robot, force)[1].reward == pytest.approx(reward, abs=1e-3)


@pytest.mark.parametrize(
    "state",
    [
        [0.99, 0, 0, 1, 0, 0],
        [-0.99, 0, 0, -1, 0, 0],
        [0, 0.49, 0, 0, 1, 0],
        [0, 0, -0.49, 0, 0, -1],
    ],
    ids=["right end", "left end", "lower link", "upper link"],
)
def test_the_end_of_the_rail_or_a_fall_ends_the_episode_and_stops_the_plant(make_robot, state):
    robot = make_robot()
    begin(robot, state)

    caught, outcome = act(robot, 0.0)
    later, _ = act(robot, 20.0)

    assert (outcome.terminated, outcome.reward) == (True, 0.0)
    np.testing.assert_array_equal(measured(later), measured(caught))


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_regulator_balances_for_a_whole_episode(make_robot, seed):
    robot = make_robot()
    robot.reset(seed=seed)
    observation = robot.get_obs()
    outcomes = []
    for _ in range(500):
        force = np.clip(-GAIN @ measured(observation), -20, 20)
        observation, outcome = act(robot, force)
        outcomes.append(outcome)

    assert not any(outcome.terminated for outcome in outcomes)
    assert np.mean([outcome.reward for outcome in outcomes]) > 0.99


def test_doing_nothing_ends_in_a_fall(make_robot):
    robot = make_robot()
    robot.reset(seed=0)

    outcomes = [act(robot, 0.0)[1] for _ in range(100)]

    assert outcomes[-1].terminated


def test_the_state_option_is_where_the_episode_begins(make_robot):
    state = [0.5, -0.1, 0.2, 1.0, -2.0, 3.0]

    np.testing.assert_allclose(measured(begin(make_robot(), state)), state, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pose": 1}, "'pose'"),
        ({"state": 3}, "six numbers"),
        ({"state": [0.0] * 5}, "six numbers"),
        ({"state": ["a"] * 6}, "six numbers"),
        ({"state": [float("nan")] + [0.0] * 5}, "finite"),
        ({"state": [1.0] + [0.0] * 5}, "would end as it begins"),
        ({"state": [0.0, 0.6] + [0.0] * 4}, "would end as it begins"),
    ],
)
def test_reset_options_that_are_not_possible_are_refused_and_change_nothing(
    make_robot, options, said
):
    robot = make_robot()
    before = measured(begin(robot, [0.1, 0, 0, 0, 0, 0]))

    with pytest.raises(UnknownOptionError, match=said):
        robot.reset(seed=1, options=options)

    np.testing.assert_array_equal(measured(robot.get_obs()), before)


@pytest.mark.parametrize("wanted", ["camera/image", "camera/depth"])
def test_a_capture_is_image_and_depth_of_the_same_instant(make_robot, wanted):
    robot = make_robot()
    robot.set_subscribed(frozenset({wanted}))
    begin(robot, [0.3, 0.1, 0, 0, 0, 0])

    observation, _ = act(robot, 0.0)

    camera = [observation.fields[name] for name in ("camera/image", "camera/depth")]
    assert [(field.stamp, field.sequence) for field in camera] == [(0.02, 2), (0.02, 2)]
    assert observation.incoherent == ()


@pytest.mark.parametrize("wanted", [set(), {"joint_pos"}, {"camera/intrinsics"}])
def test_a_camera_that_nobody_wants_is_not_drawn(make_robot, wanted):
    robot = make_robot()
    robot.set_subscribed(frozenset(wanted))
    begin(robot)

    observation, _ = act(robot, 0.0)

    assert observation.fields["camera/image"].sequence == 0
    assert observation.fields["camera/depth"].sequence == 0


def test_the_camera_offers_the_calibration_with_which_it_draws(make_robot):
    robot = make_robot(image_size=(60, 80))
    view = SideCamera(60, 80, rail=1.0)

    observation = begin(robot)

    np.testing.assert_array_equal(observation["camera/intrinsics"], view.intrinsics)
    np.testing.assert_array_equal(observation["camera/extrinsics"], view.extrinsics)
