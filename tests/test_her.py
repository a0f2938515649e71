"""Hindsight experience replay of SB3, over the wire: what it relabels is what the robot gives."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC, HerReplayBuffer

import remote_env  # noqa: F401 (registers the environment)
from remote_env_server.robots import make_robot


@pytest.fixture
def one_thread_of_torch():
    """Keep torch to one: for a tiny net several are ten times slower, waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread_of_torch")
@pytest.mark.filterwarnings("ignore:.*(out of date|reward functions were updated|precision).*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rewards_that_her_relabels_are_those_of_the_local_environment(serve):
    server = serve(make_robot("gymnasium:gymnasium_robotics:FetchReach-v4"))
    with (
        gym.make("RemoteRobot-v0", url=server.url) as remote,
        gym.make("FetchReach-v4", disable_env_checker=True) as local,
    ):
        model = SAC(
            "MultiInputPolicy",
            remote,
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": 4},
            policy_kwargs={"net_arch": [16, 16]},
            learning_starts=100,
            train_freq=5,
            batch_size=64,
            seed=1,
        )
        model.learn(300)
        sampled = model.replay_buffer.sample(1_000)
        goals = sampled.next_observations
        expected = local.unwrapped.compute_reward(
            goals["achieved_goal"].numpy(), goals["desired_goal"].numpy(), None
        )
    rewards = sampled.rewards.numpy().ravel()
    assert np.array_equal(rewards, expected)
    # Four of five are relabelled, with goals of the same episode: many are reached.
    distinct = np.unique(goals["desired_goal"].numpy(), axis=0)
    assert len(distinct) > 6 + 100
    assert 100 < np.count_nonzero(rewards == 0.0) < 1_000
