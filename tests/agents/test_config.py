"""What is refused before anything is reached."""

import pytest

from remote_env import ConfigurationError
from remote_env_agents import EvalConfig, Hyperparameters, TrainConfig

URL = "ws://127.0.0.1:9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": ()}, "the url of at least one robot"),
        ({"urls": (URL, URL)}, f"{URL} comes twice"),
        ({"urls": (URL, f"{URL}/")}, "also as ws://127.0.0.1:9; each robot"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": 1 << 31}, "seed must be 2147483647 or less"),
        ({"success_at": 95.0}, "success_at is a rate"),
        ({"her": True}, "her needs a replay buffer, which ppo has not"),
        ({"updates": "background"}, "updates background is for sac, td3 and tqc"),
        ({"algo": "sac", "hyperparameters": Hyperparameters(rollout=512)}, "only ppo has rollouts"),
        (
            {"resume": "policy.zip", "hyperparameters": Hyperparameters(gamma=0.9)},
            "resume keeps the hyperparameters",
        ),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainConfig(**{"urls": (URL,), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net_arch": (64, 0)}, "net_arch must be positive widths"),
        ({"learning_rate": 3.0}, "learning_rate must be between 0 and 1, not 3.0"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1"),
        ({"batch_size": 1}, "batch_size must be 2 or more"),
        ({"batch_size": 64, "rollout": 32}, "rollout must be at least a batch, not 32"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Hyperparameters(**options)


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="episodes must be 1 or more, not 0"):
        EvalConfig(urls=(URL,), policy="random", episodes=0)
