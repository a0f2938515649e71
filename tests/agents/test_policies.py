"""Files that are no policies."""

import zipfile

import pytest
from reaching import Reach

from remote_env import ConfigurationError
from remote_env_agents import RandomPolicy, load_policy
from remote_env_agents.robots import look_at


@pytest.fixture
def spec(serve):
    return look_at([serve(Reach()).url])


def test_a_file_that_is_not_there(spec, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot read the policy .*none.zip: No such file"):
        load_policy(tmp_path / "none.zip", spec)


def test_a_file_that_is_no_zip(spec, tmp_path):
    (tmp_path / "policy.zip").write_text("hello")
    with pytest.raises(ConfigurationError, match=r"is no policy of Stable-Baselines3; give a"):
        load_policy(tmp_path / "policy.zip", spec)


def test_a_file_of_an_algorithm_that_we_do_not_know(spec, tmp_path):
    with zipfile.ZipFile(tmp_path / "dqn.zip", "w") as archive:
        archive.writestr("data", '{"exploration_rate": 0.1}')
    with pytest.raises(ConfigurationError, match="by another algorithm than ppo, sac, td3 and tqc"):
        load_policy(tmp_path / "dqn.zip", spec)


def test_chance_is_the_same_for_the_same_seed():
    policy = RandomPolicy(Reach.action_space)
    actions = [policy.for_episode(seed)(None).tolist() for seed in (1, 1, 2)]
    assert actions[0] == actions[1] != actions[2]


def test_what_is_neither_a_function_nor_a_model_nor_a_file_is_refused(serve):
    from remote_env_agents import evaluate

    with pytest.raises(
        ConfigurationError, match="a policy is a function, a model or a file, not 5"
    ):
        evaluate(5, [serve(Reach()).url])
