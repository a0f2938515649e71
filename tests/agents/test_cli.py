"""``remote-env train`` and ``remote-env eval`` without what they need, and when it goes wrong."""

import subprocess
import sys

import pytest
from reaching import Reach

from remote_env.cli import main
from remote_env_agents import eval_command

LOOK = """
import sys
from remote_env.cli import main
for arguments in (["--help"], ["train", "--help"], ["eval", "--help"]):
    assert main(arguments) == 0
heavy = {"torch", "stable_baselines3", "matplotlib", "av"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_needs_and_imports_nothing_heavy():
    shown = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "• train" in shown
    assert "--checkpoint-every" in shown
    assert "--video-of" in shown


@pytest.mark.parametrize("command", [["train"], ["eval", "--policy", "policy.zip"]])
def test_without_the_extra_it_says_what_to_install(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main([command[0], "ws://127.0.0.1:9", *command[1:]]) == 1
    shown = capsys.readouterr().err
    assert "stable_baselines3 is not installed: pip install 'remote-robot-env[agents]'" in shown


def test_tqc_without_its_package_says_what_to_install(monkeypatch, capsys, serve, tmp_path):
    pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    folder = tmp_path / "run"
    assert main(["train", serve(Reach()).url, "--algo", "tqc", "--folder", str(folder)]) == 1
    assert "tqc needs sb3-contrib" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "ws://127.0.0.1:9"], 1, "nothing listens at ws://127.0.0.1:9"),
        (["train"], 2, "give the url of at least one robot"),
        (["train", "ws://127.0.0.1:9", "--algo", "dqn"], 2, "dqn"),
        (["train", "ws://127.0.0.1:9", "--her"], 2, "her needs a replay buffer"),
        (["eval", "ws://127.0.0.1:9"], 2, "--policy"),
        (["eval", "ws://127.0.0.1:9", "--policy", "random"], 1, "nothing listens at"),
    ],
)
def test_exit_codes(arguments, code, message, capsys):
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_an_evaluation_that_is_interrupted_says_how_far_it_is(serve, capsys, tmp_path, monkeypatch):
    taken = []

    def take(_, episode):
        taken.append(episode)
        if len(taken) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(eval_command._Progress, "take", take)
    options = ["--policy", "random", "--episodes", "40", "--folder", str(tmp_path)]
    assert main(["eval", serve(Reach()).url, *options]) == 130
    shown = capsys.readouterr().out
    assert "not counted: seeds 100000" in shown.replace("\n", " ")
    assert "of 40 episodes; the same command with --folder goes on" in shown.replace("\n", " ")
    assert shown.count("100000") <= 10
    monkeypatch.undo()
    assert main(["eval", serve(Reach()).url, *options]) == 0


def test_an_episode_that_could_not_be_finished_is_exit_code_1(serve, capsys, tmp_path):
    class Cursed(Reach):
        def apply_action(self, action):
            raise RuntimeError("no")

    url = serve(Cursed()).url
    options = ["--policy", "random", "--episodes", "1", "--seed", "4", "--folder", str(tmp_path)]
    assert main(["eval", url, *options]) == 1
    assert "not counted: seeds 4: 1 of 1 episodes" in capsys.readouterr().out
