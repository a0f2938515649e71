"""What goals are worth, computed on the learner's side: the arithmetic, and who has it."""

import gymnasium as gym
import numpy as np
import pytest
from sample_robots import Reacher
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

from remote_env import GoalReward, errors
from remote_env_server import RobotServer
from remote_env_server.robots import make_robot

# What gymnasium-robotics says when it is imported and made, here and there.
OF_GYMNASIUM_ROBOTICS = "ignore:.*(out of date|reward functions were updated|precision).*"

# What the served environment's own spaces are warned for, served or not.
OF_THE_ENVIRONMENT = "ignore:.*(infinity|symmetric and normalized).*:UserWarning"


def pairs(count, *, threshold=0.05):
    """Return goals as far apart as about the threshold, and some at exactly that."""
    rng = np.random.default_rng(1)
    desired = rng.normal(size=(count, 3))
    offset = rng.normal(size=(count, 3))
    offset *= threshold * rng.normal(1.0, 0.2, (count, 1)) / np.linalg.norm(offset, axis=1)[:, None]
    achieved = desired + offset
    exact = np.array([0.0, threshold, np.nextafter(threshold, 0), np.nextafter(threshold, 1)])
    achieved[:4] = exact[:, None] * np.eye(3)[0]
    desired[:4] = 0.0
    return achieved, desired


def bits(array):
    array = np.asarray(array)
    return array.dtype, array.shape, array.tobytes()


# The arithmetic


@pytest.mark.parametrize("env_id", ["FetchReach-v4", "FetchReachDense-v4"])
@pytest.mark.filterwarnings(OF_GYMNASIUM_ROBOTICS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ten_thousand_rewards_are_bit_identical_to_those_of_the_local_environment(env_id, serve):
    server = serve(make_robot(f"gymnasium:gymnasium_robotics:{env_id}"))
    achieved, desired = pairs(10_000)
    infos = [{} for _ in achieved]
    with (
        gym.make("RemoteRobot-v0", url=server.url) as remote,
        gym.make(env_id, disable_env_checker=True) as local,
    ):
        ours = remote.get_wrapper_attr("compute_reward")
        own = local.unwrapped.compute_reward
        assert bits(ours(achieved, desired, infos)) == bits(own(achieved, desired, infos))
        for one, other in zip(achieved[:100], desired[:100], strict=True):
            assert bits(ours(one, other, {})) == bits(own(one, other, {}))
        reward = remote.unwrapped.spec_of_robot.goal_reward
        success = local.unwrapped._is_success(achieved, desired)
        assert 2_000 < success.sum() < 8_000
        assert bits(reward.is_success(achieved, desired)) == bits(success)


def test_a_sparse_reward_is_minus_one_beyond_the_threshold_alone():
    achieved, desired = pairs(4)
    reward = GoalReward("sparse", 0.05)
    assert bits(reward.compute(achieved, desired)) == bits(np.float32([-0.0, -0.0, -0.0, -1.0]))
    assert bits(reward.is_success(achieved, desired)) == bits(np.float32([1, 0, 1, 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dense_reward_is_minus_the_distance_in_the_dtype_of_the_goals(dtype):
    achieved = np.array([[[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]], dtype)
    reward = GoalReward("dense", 0.05)
    computed = reward.compute(achieved, np.zeros_like(achieved))
    assert bits(computed) == bits(np.array([[-5.0, -0.0]], dtype))


@pytest.mark.parametrize(
    ("achieved", "desired"),
    [
        (np.zeros((4, 3)), np.zeros(3)),
        (np.zeros((4, 3)), np.zeros((4, 2))),
        (np.zeros((4, 3)), np.zeros((3, 4))),
        (np.zeros(()), np.zeros(())),
    ],
)
@pytest.mark.parametrize("method", ["compute", "is_success"])
def test_goals_that_do_not_belong_together_are_refused(achieved, desired, method):
    with pytest.raises(errors.ConfigurationError, match=r"achieved goals of the shape .* \(..., n"):
        getattr(GoalReward("sparse", 0.05), method)(achieved, desired)


# Who has it


@pytest.fixture
def reacher(serve):
    robot = Reacher()
    robot.server = serve(robot)
    return robot


def test_rewards_of_steps_are_those_that_the_learner_computes(reacher, connect):
    env = connect(reacher.server.url)
    env.reset(seed=1)
    observation, reward, *_, info = env.step(np.ones(3, np.float32))
    goals = observation["achieved_goal"], observation["desired_goal"]
    assert env.compute_reward(*goals, info) == reward == -1.0
    assert env.compute_reward(goals[0], goals[0], info) == 0.0


def test_it_is_found_through_wrappers_and_vector_environments(reacher):
    env = DummyVecEnv([lambda: gym.make("RemoteRobot-v0", url=reacher.server.url)])
    achieved, desired = pairs(10, threshold=0.1)
    (rewards,) = env.env_method("compute_reward", achieved, desired, [{}] * 10, indices=[0])
    assert bits(rewards) == bits(reacher.goal_reward.compute(achieved, desired))
    env.close()


def test_a_robot_without_a_description_has_none_and_says_what_to_declare(env):
    assert not hasattr(env, "compute_reward")
    with pytest.raises(AttributeError, match=r"^Counter does not describe .* GoalReward\("):
        _ = env.compute_reward


def test_a_served_environment_without_goals_has_none(serve):
    server = serve(make_robot("gymnasium:CartPole-v1"))
    with gym.make("RemoteRobot-v0", url=server.url) as env:
        assert not hasattr(env.unwrapped, "compute_reward")
        assert not env.has_wrapper_attr("compute_reward")


def test_a_learner_that_does_not_observe_the_goals_has_none(reacher, connect):
    env = connect(reacher.server.url, streams=["achieved_goal", "goal_difference"])
    assert not hasattr(env, "compute_reward")
    with pytest.raises(AttributeError, match="'desired_goal' are not both observed"):
        _ = env.compute_reward


def test_streams_that_are_derived_from_the_goal_can_be_left_out(reacher, connect):
    derived = reacher.goal_reward.derived
    names = [name for name in connect(reacher.server.url).spec_of_robot.observed]
    env = connect(reacher.server.url, streams=[name for name in names if name not in derived])
    assert set(env.observation_space.spaces) == {"achieved_goal", "desired_goal"}
    assert hasattr(env, "compute_reward")


def test_a_robot_that_comes_back_with_another_reward_is_not_taken_for_the_same(serve, connect):
    server = serve(Reacher())
    env = connect(server.url)
    env.reset(seed=1)
    server.stop()
    other = Reacher()
    other.goal_reward = GoalReward("sparse", 0.2, derived=("goal_difference",))
    again = RobotServer(other, port=int(server.url.rpartition(":")[2]))
    again.start()
    try:
        with pytest.raises(errors.ConfigurationError, match="rewards goals otherwise than before"):
            env.reset(seed=1)
    finally:
        again.stop()


@pytest.mark.filterwarnings(OF_THE_ENVIRONMENT)
@pytest.mark.filterwarnings(OF_GYMNASIUM_ROBOTICS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    # Not the sparse one: its reward is a numpy.float32, which this checker refuses, served or not.
    [Reacher, lambda: make_robot("gymnasium:gymnasium_robotics:FetchReachDense-v4")],
    ids=["sparse", "FetchReachDense-v4"],
)
def test_the_checker_of_sb3_takes_a_robot_with_a_goal_reward_as_it_is(make, serve, connect, capsys):
    server = serve(make())
    check_env_for_sb3(connect(server.url))
    assert "detected your env to be a GoalEnv" in capsys.readouterr().out
