"""The yardstick: a remote trajectory is bit-identical to the local one."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import remote_env  # noqa: F401 (registers the environment)
from remote_env.transport.inprocess import InProcessListener
from remote_env_server.robots import make_robot
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

ENVIRONMENTS = [
    "CartPole-v1",
    "Pendulum-v1",
    "Reacher-v5",
    "Ant-v5",
    "gymnasium_robotics:FetchReachDense-v4",
    "gymnasium_robotics:FetchPush-v4",
    "FrozenLake-v1",
    "Blackjack-v1",
    "pixel_envs:PixelCartPole-v0",
]
EPISODES = 20


def actions_for(space, rng):
    """Actions as learners make them: in float64 and float32, out of bounds and within."""
    if isinstance(space, gym.spaces.Box):
        while True:
            wild = rng.normal(0.0, 1.5, space.shape) * space.high
            yield wild
            yield wild.astype(np.float32)
            yield np.clip(wild, space.low, space.high).astype(np.float32)
    while True:
        yield int(rng.integers(space.n))


def play(env, seed):
    """Play one episode; return everything that came back."""
    trajectory = [env.reset(seed=seed)]
    for action in actions_for(env.action_space, np.random.default_rng(seed)):
        trajectory.append(env.step(action))
        if trajectory[-1][2] or trajectory[-1][3]:
            return trajectory


def without_ours(trajectory):
    """Take away what the remote side adds to ``info``."""
    for step in trajectory:
        assert step[-1].pop("remote") is not None
    return trajectory


@pytest.fixture(params=ENVIRONMENTS)
def env_id(request):
    return request.param


@pytest.mark.filterwarnings("ignore:.*(out of date|reward functions were updated|precision).*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_twenty_remote_episodes_are_bit_identical_to_local_ones(env_id, serve):
    server = serve(make_robot(f"gymnasium:{env_id}"))
    with (
        gym.make("RemoteRobot-v0", url=server.url, disable_env_checker=True) as remote,
        gym.make(env_id, disable_env_checker=True) as local,
    ):
        assert remote.observation_space == local.observation_space
        assert remote.action_space == local.action_space
        for seed in range(EPISODES):
            expected = play(local, seed)
            assert data_equivalence(without_ours(play(remote, seed)), expected, exact=True)


def test_the_transport_makes_no_difference(serve):
    server = serve(make_robot("gymnasium:Pendulum-v1"), listeners=[InProcessListener("pendulum")])
    with (
        gym.make("RemoteRobot-v0", url=server.url, disable_env_checker=True) as remote,
        gym.make("Pendulum-v1", disable_env_checker=True) as local,
    ):
        assert data_equivalence(without_ours(play(remote, 1)), play(local, 1), exact=True)


def test_an_unseeded_reset_goes_on_with_the_random_numbers_of_the_environment(serve):
    server = serve(make_robot("gymnasium:CartPole-v1"))
    with gym.make("RemoteRobot-v0", url=server.url) as remote, gym.make("CartPole-v1") as local:
        remote.reset(seed=5)
        local.reset(seed=5)
        assert np.array_equal(remote.reset()[0], local.reset()[0])


def test_reset_options_arrive_as_they_are(serve):
    server = serve(make_robot("gymnasium:CartPole-v1"))
    options = {"low": -0.01, "high": 0.01}
    with gym.make("RemoteRobot-v0", url=server.url) as remote, gym.make("CartPole-v1") as local:
        assert np.array_equal(
            remote.reset(seed=1, options=options)[0], local.reset(seed=1, options=options)[0]
        )


def test_a_picture_comes_on_request_and_is_the_local_one(serve):
    server = serve(make_robot("gymnasium:CartPole-v1"))
    with (
        gym.make("RemoteRobot-v0", url=server.url, render_mode="rgb_array") as remote,
        gym.make("CartPole-v1", render_mode="rgb_array") as local,
    ):
        remote.reset(seed=1)
        local.reset(seed=1)
        remote.step(1)
        local.step(1)
        assert np.array_equal(remote.render(), local.render())
        assert remote.observation_space == local.observation_space


def test_a_flattened_environment_holds_the_same_arrays(serve):
    server = serve(make_robot("gymnasium:Blackjack-v1"))
    with (
        gym.make("RemoteRobot-v0", url=server.url, flatten=True) as flat,
        gym.make("Blackjack-v1") as local,
    ):
        observation, _ = flat.reset(seed=3)
        expected, _ = local.reset(seed=3)
        assert observation == {"0": expected[0], "1": expected[1], "2": expected[2]}
        assert flat.observation_space.contains(observation)


def test_the_time_limit_is_that_of_the_environment_that_was_made(serve):
    config = GymnasiumConfig("Pendulum-v1", kwargs='{"max_episode_steps": 7}')
    server = serve(GymnasiumRobot(config))
    with gym.make("RemoteRobot-v0", url=server.url) as env:
        assert len(play(env, 1)) == 8
        assert env.unwrapped.spec_of_robot.max_episode_steps == 7
