"""Hindsight: goals that were reached by chance."""

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from reaching import Sparse
from trained import TINY

from remote_env import ConfigurationError
from remote_env_agents import TrainConfig, evaluate, load_policy, train
from remote_env_agents.robots import look_at


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_hindsight_learns_without_what_is_derived_from_the_goal(serve, tmp_path, algo):
    urls = tuple(serve(Sparse()).url for _ in range(2))
    config = TrainConfig(
        urls,
        algo=algo,
        her=True,
        steps=120,
        eval_every=60,
        eval_episodes=2,
        hyperparameters=TINY,
        folder=tmp_path / "run",
    )
    policy = load_policy(train(config).policy, look_at(urls))
    assert policy.streams == ("achieved_goal", "desired_goal")
    assert len(evaluate(policy, urls, episodes=4).episodes) == 4


def test_a_derived_stream_that_is_asked_for_is_refused(serve):
    streams = ("achieved_goal", "desired_goal", "goal_difference")
    config = TrainConfig((serve(Sparse()).url,), algo="sac", her=True, streams=streams)
    with pytest.raises(ConfigurationError, match="'goal_difference' is derived from the goal"):
        train(config)


def test_a_goal_that_is_left_out_is_refused(serve):
    config = TrainConfig((serve(Sparse()).url,), algo="sac", her=True, streams=("achieved_goal",))
    with pytest.raises(ConfigurationError, match="her needs the stream 'desired_goal'"):
        train(config)
