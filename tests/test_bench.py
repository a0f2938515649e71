"""``remote-env bench``: what it measures on a real robot, and when it moves none."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from sample_robots import Counter, Rig

from remote_env import RemoteRobotEnv, RobotClient
from remote_env.bench import ConnectionCost, measure_connection, measure_steps, resting_action
from remote_env.cli import main
from remote_env.stats import DurationSummary


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("remote_env.cli._CONSOLE.width", 200)


def test_the_connection_is_measured_without_a_step(serve):
    robot = Counter()
    told = []
    client = RobotClient(serve(robot).url, role="observe")
    try:
        found = measure_connection(client, seconds=0.2, tell=told.append)
    finally:
        client.close()
    assert found.ping.count >= 5
    assert found.probe.count >= 5
    assert found.probed == found.nbytes == 16
    assert found.floor == found.probe.p50
    assert 0 < found.ping.p50 < 0.2
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert robot.actions == []


def test_a_large_observation_is_probed_in_part_and_the_rest_is_computed():
    trip = DurationSummary(10, 0.001, 0.002, 0.002, 0.001)
    long = DurationSummary(10, 0.004, 0.005, 0.005, 0.004)
    found = ConnectionCost(0.01, trip, long, 262144, 1e8, 1_000_000)
    assert found.floor == pytest.approx(0.001 + 0.01)


def test_the_parts_of_a_step_add_up_to_it(serve):
    robot = Counter()
    found = measure_steps(serve(robot).url, seconds=0.3)
    assert found.step.count >= 5
    assert found.step.count == len(robot.actions)
    assert found.resets == 1
    assert sum(part.mean for part in found.parts) == pytest.approx(found.step.mean, rel=0.01)
    by_name = {part.name: part for part in found.parts}
    assert 0 < by_name["worked"].mean < by_name["worked"].p99 * 10
    assert math.isnan(by_name["server"].p50)
    assert found.per_second == pytest.approx(1 / found.step.mean, rel=0.01)


def test_the_lease_is_returned_and_episodes_that_end_are_begun_again(serve):
    robot = Counter()
    robot.max_episode_steps = 3
    server = serve(robot)
    found = measure_steps(server.url, seconds=0.1)
    assert server.statistics()["lease"]["owner"] is None
    assert found.resets >= found.step.count // 3


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-1.0, 1.0, (2,), np.float32), np.zeros(2, np.float32)),
        (spaces.Box(0.5, 1.0, (2,), np.float32), np.full(2, 0.5, np.float32)),
        (spaces.Box(-3, -1, (1,), np.int32), np.array([-1], np.int32)),
        (spaces.Discrete(3, start=5), 5),
        (spaces.MultiBinary(2), np.zeros(2, np.int8)),
    ],
)
def test_the_action_is_as_near_to_zero_as_the_bounds_allow(space, action):
    rests = resting_action(space)
    np.testing.assert_array_equal(rests, action)
    assert space.contains(rests)


def test_an_action_with_a_structure_rests_in_every_leaf():
    space = spaces.Dict({"arm": spaces.Box(0.2, 1.0, (2,), np.float32), "grip": spaces.Discrete(2)})
    assert space.contains(resting_action(space))


def test_a_robot_in_lockstep_is_stepped_and_the_table_says_where_the_time_went(serve, capsys):
    robot = Counter()
    assert main(["bench", serve(robot).url, "--seconds", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"Counter +lockstep, 50 Hz, at ws://", shown)
    assert re.search(r"small round trip p50 [\d.]+ [um]s, p99 [\d.]+ [um]s of \d+", shown)
    assert re.search(r"observation +16 B of arrays", shown)
    assert re.search(r"step +p50 [\d.]+ [um]s, .* a second, 1 reset", shown)
    assert re.search(r"[\d.]+ times a round trip with as many bytes", shown)
    for part in ("serialize", "network", "queued", "worked", "deserialize", "server", "learner"):
        assert re.search(rf"{part} +[\d.e-]+ [um]s +\d+%", shown)
    assert robot.actions
    assert not np.any(robot.actions)


def test_a_robot_in_real_time_does_not_move_without_consent(serve, capsys):
    robot = Counter()
    url = serve(robot, mode="realtime").url
    assert main(["bench", url, "--seconds", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert "no step was made, because it would move the robot" in shown
    assert "times a round trip" not in shown
    assert robot.actions == []
    assert robot.threads == set()  # not reset either
    assert main(["bench", url, "--seconds", "0.2", "--step"]) == 0
    assert re.search(r"waited +[\d.]+ ms", capsys.readouterr().out)
    assert robot.actions


def test_only_looking_steps_no_robot(serve, capsys):
    robot = Counter()
    assert main(["bench", serve(robot).url, "--seconds", "0.2", "--look"]) == 0
    assert "no step" not in capsys.readouterr().out
    assert robot.threads == set()


def test_the_figures_come_as_json(serve, capsys):
    assert main(["bench", serve(Rig()).url, "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["robot"] == "Rig"
    assert found["steps"] is None
    assert found["connection"]["nbytes"] > 2304
    assert main(["bench", serve(Counter()).url, "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"]["step"]["count"] >= 5
    rest = next(part for part in found["steps"]["parts"] if part["name"] == "server")
    assert rest["p50"] is None


def test_somebody_who_commands_the_robot_is_named_and_keeps_it(serve):
    url = serve(Counter()).url
    env = RemoteRobotEnv(url, owner="ann")
    env.reset(seed=1)
    command = [sys.executable, "-m", "remote_env", "bench", url, "--seconds", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "commanded by ann" in done.stderr
    env.step(np.zeros(2, np.float32))
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "--look"], "contradict"),
        (["--seconds", "0"], "--seconds must be"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments, message, capsys):
    assert main(["bench", "ws://127.0.0.1:9", *arguments]) == 1
    assert message in capsys.readouterr().err
