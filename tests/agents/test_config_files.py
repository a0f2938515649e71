"""Configurations as files: what is read, what is written, and what is refused."""

import tomllib
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env import ConfigurationError
from remote_env.cli import main
from remote_env_agents import Hyperparameters, TrainConfig
from remote_env_agents.cli import train_config
from remote_env_agents.config_files import read_config, to_toml

URL, OTHER = "ws://127.0.0.1:9", "ws://127.0.0.1:10"
WRITTEN = f"""
urls = ["{URL}"]
algo = "sac"
steps = 500
success_at = 1
streams = ["a/b"]
token_file = "token"

[hyperparameters]
net_arch = [32, 16]

[run]
anything = "of what it was"
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(WRITTEN)
    return path


def test_a_file_says_what_the_command_line_does_not(written):
    config = train_config(["--config", str(written), "--steps", "700", "--gamma", "0.5"])
    assert (config.urls, config.algo, config.steps) == ((URL,), "sac", 700)
    assert (config.success_at, config.streams) == (1.0, ("a/b",))
    assert str(config.token_file) == "token"
    assert config.hyperparameters == Hyperparameters(net_arch=(32, 16), gamma=0.5)
    assert type(config) is TrainConfig


def test_the_command_line_counts_more(written):
    config = train_config([OTHER, f"--config={written}", "--algo", "td3", "--net-arch", "8"])
    assert (config.urls, config.algo) == ((OTHER,), "td3")
    assert config.hyperparameters.net_arch == (8,)


def test_without_a_file_the_command_line_is_all():
    assert train_config([URL, "--algo", "sac"]) == TrainConfig((URL,), algo="sac")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('step = 5\nurls = ["ws://a:1"]', r"mine\.toml: there is no 'step'; did you mean 'steps'"),
        ("colour = 5", r"mine\.toml: there is no 'colour'; there are urls, algo, steps"),
        (
            "learning_rat = 1e-3",
            r"no 'learning_rat'; did you mean 'learning_rate', in the table \[hyperparameters\]\?",
        ),
        (
            "[hyperparameters]\neval_episode = 3",
            r"'hyperparameters\.eval_episode'; did you mean 'eval_episodes', before the first",
        ),
        ("[hyperparameters]\nxyz = 5", r"'hyperparameters\.xyz'; there are net_arch, learn"),
        (
            "[hyperparameters]\nnet_arc = [3]",
            r"there is no 'hyperparameters\.net_arc'; did you mean 'hyperparameters\.net_arch'",
        ),
        ('steps = "many"', r"mine\.toml: steps must be an integer, not 'many'"),
        ("steps = true", "steps must be an integer, not True"),
        ("her = 1", "her must be true or false, not 1"),
        ('success_at = "all"', "success_at must be a number, not 'all'"),
        ('algo = "dqn"', "algo must be 'ppo' or 'sac' or 'td3' or 'tqc', not 'dqn'"),
        ('urls = "ws://a:1"', "urls must be a list, each of it a text, not 'ws://a:1'"),
        ("urls = [1]", "urls must be a text, not 1"),
        ("hyperparameters = 5", "hyperparameters must be a table, not 5"),
        ("[hyperparameters]\nnet_arch = [32.5]", "net_arch must be an integer, not 32.5"),
        ("[hyperparameters]\ngamma = 7", r"mine\.toml: gamma must be between 0 and 1"),
        ("resume = 5", "resume must be a text, the path of a file, not 5"),
        ("steps = ", r"mine\.toml is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text, message, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_config(path, TrainConfig)
    assert main(["train", "--config", str(path)]) == 1
    assert "mine.toml" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["train", URL, "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml: No such file" in capsys.readouterr().err


def test_what_a_file_and_the_command_line_make_together_is_checked(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("steps = 5")
    assert main(["train", "--config", str(path)]) == 2
    assert "the url of at least one robot" in capsys.readouterr().err


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=30)
@given(
    urls=st.lists(TEXTS, min_size=1, max_size=3, unique=True).map(tuple),
    algo=st.sampled_from(["sac", "td3"]),
    steps=st.integers(1, 10**9),
    her=st.booleans(),
    success_at=st.none() | st.floats(1e-6, 1.0),
    hyperparameters=st.builds(
        Hyperparameters,
        net_arch=st.none() | st.lists(st.integers(1, 999), max_size=3).map(tuple),
        learning_rate=st.none() | st.floats(1e-9, 0.9),
    ),
)
def test_what_is_written_is_read_back(tmp_path_factory, **options):
    config = TrainConfig(**options)
    path = tmp_path_factory.mktemp("written") / "config.toml"
    path.write_text(to_toml({**asdict(config), "run": {"x": {"a b": 1.5}}}), encoding="utf-8")
    assert TrainConfig(**read_config(path, TrainConfig)) == config


@pytest.mark.parametrize("text", ['say "hi"', "a\\b", "two\nlines", "\x7f\x00", "grün"])
def test_any_text_is_written_so_that_it_is_read(text):
    assert tomllib.loads(to_toml({text: {text: [text]}})) == {text: {text: [text]}}
