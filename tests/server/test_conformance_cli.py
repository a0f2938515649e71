"""``remote-env check``: what people read, what programs read, and whether it asks first."""

import io
import json

import broken_robots as robots
import pytest

from remote_env.cli import main


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setattr("remote_env.cli._CONSOLE.width", 120)
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_a_good_robot_is_ticked_off(capsys):
    assert main(["check", "double-pendulum"]) == 0
    shown = capsys.readouterr().out
    assert "✓ it opens and describes itself  double-pendulum, lockstep at 50 Hz" in shown
    assert "- 4 checks  only in realtime" in shown
    assert "22 passed, 7 skipped in" in shown


def test_a_failed_check_says_what_to_do_and_the_exit_code_is_1(capsys):
    assert main(["check", "broken_robots:RewardOfNaN"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("✗ rewards are finite numbers and flags are bools")
    assert lines[at + 1] == "the reward was nan after 1 good ones"
    assert lines[at + 2].startswith("→ look for a division by zero in outcome()")
    assert "1 failed" in lines[-1]


def test_the_report_is_json(capsys):
    assert main(["check", "broken_robots:DoesNotOpen", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["is_ok"] is False
    assert report["target"] == "broken_robots:DoesNotOpen"
    assert report["results"][0]["status"] == "failed"
    assert report["results"][0]["what"] == "it raised OSError: no arm on /dev/ttyUSB0"


@pytest.mark.parametrize("mode", ["realtime", "delayed"])
@pytest.mark.parametrize("answer", ["", "n\n"])
def test_a_robot_behind_a_url_is_not_moved_unless_somebody_agrees(
    answer, mode, serve, capsys, monkeypatch
):
    robot = robots.Arm()
    robot.reset = lambda: pytest.fail("the robot was reset")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["check", serve(robot, mode=mode).url]) == 1
    shown = capsys.readouterr()
    assert "Is its way clear? [y/N]" in shown.err
    assert "nothing was moved. --no-moves only looks" in shown.err


@pytest.mark.parametrize("target", ["broken_robots:Arm", "url"])
def test_where_nobody_can_be_asked_hardware_is_not_moved(target, serve, capsys):
    target = serve(robots.Arm()).url if target == "url" else target
    assert main(["check", target]) == 1
    assert "agree with --yes, or only look with --no-moves" in capsys.readouterr().err
    assert main(["check", target, "--no-moves"]) == 0
    assert "the robot is not to be moved" in capsys.readouterr().out


def test_where_nobody_can_be_asked_hardware_is_not_moved_with_a_delay_either(capsys):
    assert main(["check", "broken_robots:Arm", "--mode", "delayed"]) == 1
    assert "agree with --yes, or only look with --no-moves" in capsys.readouterr().err


@pytest.mark.realtime
@pytest.mark.parametrize("consent", ["--yes", "y\n"])
def test_whoever_agrees_has_the_robot_moved(consent, serve, capsys, monkeypatch, slowdown):
    monkeypatch.setattr("sys.stdin", Terminal(consent))
    options = [consent] if consent == "--yes" else []
    url = serve(robots.Arm()).url
    assert main(["check", url, "--patience", str(2 * slowdown), *options]) == 0
    assert "✓ the robot holds when its learner falls silent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nobody", "no robot is called 'nobody'"),
        ("no_module_of_ours:Robot", "there is no module 'no_module_of_ours'"),
        ("ws://127.0.0.1:9", "nothing listens at ws://127.0.0.1:9"),
    ],
)
def test_a_robot_that_does_not_exist_is_an_error(target, message, capsys):
    assert main(["check", target]) == 1
    assert message in capsys.readouterr().err
