"""The doctor: what it measures on a real robot, and what it says about figures."""

import io
import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sample_robots import Counter, Rig

from remote_env import RemoteRobotEnv, RobotClient, emergency_stop
from remote_env.cli import main
from remote_env.clock import ClockEstimate
from remote_env.doctor import Diagnosis, StreamHealth, advise, examine, measure_bandwidth
from remote_env.stats import DurationSummary
from remote_env.terminal import print_diagnosis
from remote_env.testing import FaultProxy


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("remote_env.cli._CONSOLE.width", 200)


def trips(p50=0.001, p99=0.002):
    return DurationSummary(100, p50, p99, p99, p50)


@pytest.fixture
def healthy(serve):
    """What a healthy robot at 50 Hz looks like; ``change`` makes it ill."""
    url = serve(Rig()).url
    with RobotClient(url, role="observe") as client:
        spec = client.spec

    def change(**changed):
        streams = tuple(
            StreamHealth(s.name, s.hz or None, s.hz, 0.001, s.max_age, s.array.nbytes)
            for s in spec.streams
        )
        robot = {
            "emergency_stop": None,
            "sensors": {},
            "lease": {"owner": None},
            "lateness": {"count": 100, "p99": 1e-5},
            "worked": {"count": 100, "p99": 1e-3},
            "overruns": 0,
            "expired": 0,
            **changed.pop("robot", {}),
        }
        plain = {
            "url": "ws://robot:8765",
            "spec": spec,
            "carrier": "TCP",
            "connect": 0.01,
            "round_trip": trips(),
            "clock": ClockEstimate(1.0, 0.001, 25, 0.001),
            "bandwidth": 1e8,
            "streams": streams,
            "robot": robot,
        }
        return Diagnosis(**{**plain, **changed})

    return change


def problems(found):
    return [one.text for one in advise(found) if one.is_problem]


def notes(found):
    return [one.text for one in advise(found) if not one.is_problem]


def test_a_healthy_robot_needs_no_advice(healthy):
    assert advise(healthy()) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"robot": {"emergency_stop": {"by": "ann", "reason": "fire"}}}, "by ann: fire.*release"),
        ({"round_trip": trips(0.01, 0.03)}, "longer than a control period"),
        ({"round_trip": trips(0.001, 0.015)}, "varies by 14 ms.*--mode delayed"),
        ({"bandwidth": 1e5}, "the network gives 0.1 MB/s"),
        ({"robot": {"worked": {"count": 9, "p99": 0.019}}}, "takes 19 ms .p99. of a control"),
        (
            {"robot": {"sensors": {"cam": {"failure": "OSError: gone", "busy_for": 0.0}}}},
            "'cam' failed: OSError: gone",
        ),
        (
            {"robot": {"sensors": {"cam": {"failure": None, "busy_for": 9.0}}}},
            "'cam' has waited 9.0 s for its device",
        ),
    ],
)
def test_what_is_wrong_is_said(healthy, change, text):
    (said,) = problems(healthy(**change))
    assert re.search(text, said)


@pytest.mark.parametrize(
    ("robot", "text"),
    [
        ({"lateness": {"count": 9, "p99": 0.004}}, "4 ms late.*--realtime-priority"),
        ({"overruns": 3}, "3 control periods were missed"),
        ({"expired": 2}, "held 2 times because no action came within 100 ms"),
        ({"lease": {"owner": "ann"}}, "ann commands the robot now"),
    ],
)
def test_what_is_good_to_know_is_said_and_is_no_problem(healthy, robot, text):
    found = healthy(robot=robot)
    assert problems(found) == []
    (said,) = notes(found)
    assert re.search(text, said)


@pytest.mark.parametrize(
    ("health", "text"),
    [
        (StreamHealth("cam/image", 12.0, 100.0, 0.01, 0.08, 2304), "12 times a second"),
        (StreamHealth("cam/image", None, 100.0, 3.0, 0.08, 2304), "is 3 s old, and stale after"),
    ],
)
def test_a_stream_that_is_ill_is_named(healthy, health, text):
    others = tuple(s for s in healthy().streams if s.name != "cam/image")
    (said,) = problems(healthy(streams=(health, *others)))
    assert said.startswith("'cam/image'")
    assert text in said


@pytest.mark.realtime
def test_a_stream_on_request_may_rest(healthy):
    found = healthy()
    camera = found.streams[0]
    streams = tuple(
        replace(s, on_request=True) if s.name == camera.name else s for s in found.spec.streams
    )
    resting = replace(camera, hz=None, age=60.0)
    spec = replace(found.spec, streams=streams)
    assert advise(replace(found, streams=(resting, *found.streams[1:])))
    assert not advise(replace(found, spec=spec, streams=(resting, *found.streams[1:])))


def test_it_measures_a_real_robot(serve):
    told = []
    client = RobotClient(serve(Rig()).url, role="observe")
    try:
        found = examine(client, seconds=0.5, tell=told.append)
    finally:
        client.close()
    assert found.round_trip.count >= 5
    assert 0 < found.round_trip.p50 < 0.2
    assert abs(found.clock.offset) <= found.clock.error + 1e-6
    assert found.bandwidth > 1e6
    assert told == sorted(told)
    assert told[-1] == 1.0
    health = {stream.name: stream for stream in found.streams}
    assert health["joint_pos"].hz == pytest.approx(200, rel=0.4)
    assert health["joint_pos"].age < 0.5
    assert health["cam/intrinsics"].hz is None


@pytest.mark.realtime
def test_it_finds_a_slow_line(serve):
    with FaultProxy(serve(Counter()).url) as proxy:
        proxy.set_rate(2e6)
        proxy.set_latency(0.02)
        client = RobotClient(proxy.url, role="observe")
        try:
            found = examine(client, seconds=0.5)
        finally:
            client.close()
    assert found.round_trip.p50 >= 0.04
    assert found.bandwidth == pytest.approx(2e6, rel=0.5)


class Line:
    """A client on a line that needs so long for a small answer and for a large one."""

    def __init__(self, small, large):
        self.small, self.large, self.probes = small, large, 0

    def ping(self, *, timeout):
        return self.small, None

    def probe(self, size, *, timeout):
        self.probes += 1
        return self.large


@pytest.mark.parametrize(
    ("line", "bandwidth"),
    [
        (Line(0.001, 0.101), (256 << 10) / 0.1),
        (Line(0.1, 0.15), (256 << 10) / 0.05),
        (Line(0.1, 0.102), math.nan),  # it may be 1 Gbit/s, or the round trip that varies
        (Line(0.1, 0.09), math.nan),
    ],
)
def test_the_bandwidth_is_measured_for_two_seconds_at_most(line, bandwidth):
    told = []
    assert measure_bandwidth(line, 5.0, told.append) == pytest.approx(bandwidth, nan_ok=True)
    assert line.probes * line.large < 2.2
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_bandwidth_that_was_not_measured_is_said_to_be_so(healthy):
    console = Console(file=io.StringIO(), width=200)
    found = healthy(bandwidth=math.nan, robot={"lateness": {"count": 0}})
    print_diagnosis(console, found, advise(found))
    assert re.search("bandwidth +not measured, the round trip hides it;", console.file.getvalue())
    assert "nothing is wrong" in console.file.getvalue()


def test_the_command_says_what_is_wrong_and_its_exit_code_does(serve, capsys):
    url = serve(Counter()).url
    assert main(["doctor", url, "--seconds", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"round trip +p50 [\d.]+ ms, p99 [\d.]+ ms", shown)
    assert re.search(r"clock +the robot's is [+-][\d.]+ s ahead of ours", shown)
    assert re.search(r"bandwidth +[\d.e+]+ MB/s", shown)
    assert "nothing is wrong" in shown
    emergency_stop(url, "smoke")
    assert main(["doctor", url, "--seconds", "0.2"]) == 1
    assert re.search("! the emergency stop is pressed, by .*: smoke", capsys.readouterr().out)


def test_estop_and_release_from_the_command_line(serve, capsys):
    server = serve(Counter())
    env = RemoteRobotEnv(server.url)
    env.reset(seed=1)
    assert main(["estop", server.url, "--reason", "a hand"]) == 0
    assert "is stopped, until 'remote-env release" in capsys.readouterr().out
    *_, truncated, info = env.step(np.zeros(2, np.float32))
    assert truncated
    assert info["remote"]["end_reason"] == "emergency_stop"
    assert "a hand" in info["remote"]["end_cause"]
    assert main(["release", server.url]) == 0
    assert "is released; it holds until the next reset" in capsys.readouterr().out
    assert main(["release", server.url]) == 0
    assert "was not pressed" in capsys.readouterr().out
    env.reset(seed=1)
    env.close()


def test_estop_of_a_robot_that_is_not_there_says_so_soon(capsys):
    began = time.monotonic()
    assert main(["estop", "ws://127.0.0.1:9"]) == 1
    assert time.monotonic() - began < 10  # it is tried again, for --timeout, which is 5 s
    assert "nothing listens" in capsys.readouterr().err
    assert math.isfinite(began)
