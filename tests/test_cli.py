"""The command line: what people read, and exit codes."""

import os
import re
import signal
import subprocess
import sys

import pytest
from sample_robots import Counter, Rig

from remote_env import RobotSpec
from remote_env.cli import main
from remote_env.version import __version__


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("remote_env.cli._CONSOLE.width", 200)


def test_info_shows_streams_shapes_units_and_rates(serve, capsys):
    assert main(["info", serve(Rig()).url]) == 0
    shown = capsys.readouterr().out
    assert "Rig  realtime, 50 Hz" in shown
    assert "holds        100 ms after the last action" in shown
    assert re.search(r"cam/image .*24x32x3 .*uint8 .*100 Hz +0.08 s +always", shown)
    assert re.search(r"joint_pos .* 3 .*float32 .*rad .*-3.2 to 3.2 .*200 Hz +0.065 s", shown)
    assert re.search(r"cam/extrinsics .*100 Hz +with image", shown)


def test_info_shows_reset_options_and_saves_the_spec(serve, capsys, tmp_path):
    url = serve(Counter()).url
    assert main(["info", url, "--save", str(tmp_path / "spec")]) == 0
    assert "reset option start: where to begin" in capsys.readouterr().out
    assert RobotSpec.load(tmp_path / "spec").name == "Counter"


def test_ping_measures_round_trips(serve, capsys):
    assert main(["ping", serve(Counter()).url, "--count", "5"]) == 0
    assert re.search(r"5 round trips, median [\d.]+ ms, p99 [\d.]+ ms", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "ws://127.0.0.1:9"], 1, "nothing listens at ws://127.0.0.1:9"),
        (["ping", "robot"], 1, "'robot' is no address of a robot"),
        (["serve", "nobody"], 1, "no robot is called 'nobody'; there are double-pendulum"),
        (["serve", "gymnasium:Nope-v0"], 1, "Environment `Nope` doesn't exist"),
        (["serve", "no_module_of_ours:Robot"], 1, "there is no module 'no_module_of_ours'"),
        (["serve", "no_file.py:Robot"], 1, "there is no file no_file.py"),
        (["serve", "sample_robots:Missing"], 1, "has no Robot class called 'Missing'"),
        (["serve", "double-pendulum", "--host", "0.0.0.0"], 1, "without a token"),
        (["serve", "double-pendulum", "--token-file", "/nowhere"], 1, "cannot read the token"),
        (["serve", "double-pendulum", "--dt", "soon"], 2, "soon"),
        (["serve", "sample_robots:Unopenable"], 1, "OSError: no arm on /dev/ttyUSB0"),
        (["serve", "gymnasium:CartPole-v1", "--kwargs", '{"wheels": 3}'], 1, "wheels"),
        (["serve", "gymnasium:CartPole-v1", "--kwargs", "{"], 1, "is no JSON"),
        (["info", "ws://127.0.0.1:99999"], 1, "is no WebSocket address"),
        (["ping", "ws://127.0.0.1:9", "--count", "0"], 1, "--count must be at least 1"),
        (["frobnicate"], 2, "frobnicate"),
        (["info"], 2, "url"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments, code, message, capsys):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message.lower() in (captured.err + captured.out).lower()


def test_a_robot_in_a_file_may_import_what_stands_beside_it(tmp_path, capsys):
    (tmp_path / "sdk_of_mine.py").write_text("PORT = '/dev/ttyUSB0'\n")
    (tmp_path / "robot_of_mine.py").write_text(
        "from sdk_of_mine import PORT\n"
        "from remote_env_server import Robot\n"
        "class Mine(Robot):\n"
        "    def open(self): raise OSError(PORT)\n"
    )
    assert main(["serve", f"{tmp_path}/robot_of_mine.py:Mine"]) == 1
    assert "OSError: /dev/ttyUSB0" in capsys.readouterr().err


def test_a_spec_that_cannot_be_written_is_an_error(serve, capsys):
    assert main(["info", serve(Counter()).url, "--save", "/nowhere/spec"]) == 1
    assert "cannot write /nowhere/spec" in capsys.readouterr().err


def test_help_lists_the_commands_and_the_robots(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "serve" in shown
    assert "ping" in shown
    assert main(["serve", "--help"]) == 0
    assert "gymnasium:ENV_ID" in capsys.readouterr().out


def test_help_of_a_robot_lists_its_own_options(capsys):
    assert main(["serve", "double-pendulum", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--sensor-noise-std" in shown
    assert "--extra-latency-ms" in shown
    assert "--port" in shown


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"remote-env {__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_served_robot_is_stepped_and_ends_cleanly_at_a_signal(number, connect):
    robot = ["double-pendulum", "--port", "0", "--max-steps", "7"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "remote_env", "serve", *robot],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        line = process.stdout.readline()
        env = connect(re.search(r"ws://\S+:\d+", line)[0])
        env.reset(seed=1)
        env.step(env.action_space.sample())
        assert env.spec_of_robot.max_episode_steps == 7
        process.send_signal(number)
        assert process.wait(timeout=10) == 0


def test_a_token_is_read_from_a_file_or_the_environment(serve, tmp_path, monkeypatch, capsys):
    token = "a token of more than sixteen characters".replace(" ", "-")
    url = serve(Counter(), token=token).url
    assert main(["ping", url]) == 1
    assert "needs a token" in capsys.readouterr().err
    (tmp_path / "token").write_text(token + "\n")
    assert main(["ping", url, "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.setenv("REMOTE_ENV_TOKEN", token)
    assert main(["ping", url]) == 0
