"""``remote-env info --watch``: what it finds out on real robots, and what people see of it."""

import fcntl
import io
import math
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace

import numpy as np
import pytest
from beside import wait_for
from rich.console import Console
from sample_robots import Counter, Rig
from watching import threads

import remote_env
from remote_env.cli import main
from remote_env.errors import (
    ConfigurationError,
    ConnectFailedError,
    RobotFaultError,
    TransportError,
)
from remote_env.rates import StreamState
from remote_env.testing import FaultProxy
from remote_env.watch import RobotWatch, describe_activity
from remote_env.watch_terminal import show_state
from remote_env_server import CameraConfig, RobotServer

ONES = np.ones(2, np.float32)


class Simulated(Rig):
    """Renders its camera only for those who want it; it is made on request."""

    def camera_configs(self):
        return [CameraConfig("cam", 24, 32, hz=100.0, on_request=True, intrinsics=np.eye(3))]

    def read_camera(self):
        if "cam/image" in self.subscribed:
            self.update_image("cam", np.zeros((24, 32, 3), np.uint8))


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("remote_env.cli._CONSOLE.width", 200)


@pytest.fixture
def watch():
    """Watch robots; closes the watches at the end of the test."""
    watches = []

    def begin(url, **options):
        watches.append(RobotWatch(url, **options))
        return watches[-1]

    yield begin
    for one in watches:
        one.close()


def shown(state, *, colors=False):
    """What is printed of a state."""
    console = Console(
        file=io.StringIO(),
        width=400,
        force_terminal=colors,
        color_system="standard" if colors else None,
    )
    for part in show_state(state, "ws://robot:8765"):
        console.print(part)
    return console.file.getvalue()


def streams_of(state):
    return {stream.name: stream for stream in state.streams}


def look_until(watching, condition, timeout=20.0):
    """Look now and then, as people do; return the first state of which the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition(state := watching.look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return state


def is_lost(state):
    return state.lost_for is not None


def is_judged(name):
    return lambda state: streams_of(state)[name].deviation is not None


@pytest.mark.realtime
def test_a_camera_on_request_runs_while_it_is_watched_and_its_rate_is_judged(
    serve, watch, slowdown
):
    robot = Simulated()
    watching = watch(serve(robot).url)
    seen = streams_of(look_until(watching, is_judged("cam/image"), 20 * slowdown))
    assert list(seen) == ["joint_pos", "cam/intrinsics", "cam/extrinsics", "cam/image"]
    assert 50.0 / slowdown < seen["cam/image"].hz < 110.0
    assert 100.0 / slowdown < seen["joint_pos"].hz < 220.0
    assert seen["joint_pos"].deviation == pytest.approx(seen["joint_pos"].hz / 200.0 - 1.0)
    assert seen["cam/image"].sequence > 50.0 / slowdown
    assert 0 <= seen["cam/image"].age < 5 * slowdown
    assert (seen["cam/intrinsics"].hz, seen["cam/intrinsics"].deviation) == (None, None)
    watching.close()
    wait_for(lambda: "cam/image" not in robot.subscribed)
    wait_for(lambda: not threads("remote-env watch"))


@pytest.mark.realtime
def test_only_the_chosen_streams_are_watched(serve, watch, slowdown):
    robot = Simulated()
    watching = watch(serve(robot).url, streams=["joint_pos"])
    state = look_until(watching, lambda s: streams_of(s)["joint_pos"].hz, 10 * slowdown)
    assert set(streams_of(state)) == {"joint_pos"}
    assert "cam/image" not in robot.subscribed


@pytest.mark.realtime
@pytest.mark.parametrize("count", [1, 2], ids=["one", "all"])  # then nothing more is sent
def test_a_sensor_that_died_is_off_and_stale(serve, watch, slowdown, count):
    robot = Rig()
    watching = watch(serve(robot).url)
    look_until(watching, is_judged("cam/image"), 20 * slowdown)
    for sensor in robot.sensors[:count]:
        sensor.stop()
    state = look_until(
        watching, lambda s: streams_of(s)["cam/image"].deviation < -0.5, 40 * slowdown
    )
    assert re.search(r"cam/image .* stale *$", shown(state), re.MULTILINE)


def test_a_stream_that_never_came_is_off(serve, watch, slowdown):
    watching = watch(serve(Rig(publishes=False)).url)
    state = look_until(watching, lambda s: streams_of(s)["cam/image"].is_off, 20 * slowdown)
    seen = streams_of(state)["cam/image"]
    assert (seen.hz, seen.deviation, seen.age, seen.sequence) == (0.0, -1.0, None, 0)


def test_lockstep_has_no_rates_and_nothing_is_observed_there(counter, env, watch):
    env.reset(seed=1)
    watching = watch(counter.server.url)
    assert not threads("remote-env watch")
    env.step(ONES)
    state = watching.look()
    (stream,) = state.streams
    assert (stream.name, stream.hz, stream.deviation, stream.age) == ("sum", None, None, None)
    assert stream.sequence == 2
    assert counter.server.statistics()["observers"]["observers"] == 0
    text = shown(state)
    assert "lockstep: time stands still between steps" in text
    assert "declared" not in text
    assert "stale" not in text
    assert "overruns" not in text


def test_who_commands_and_where_the_episode_stands_is_told(counter, connect, watch):
    env = connect(counter.server.url, owner="ann")
    watching = watch(counter.server.url)
    assert watching.look().owner is None
    assert "nobody commands  episode 0, step 0  waits, no episode yet" in shown(watching.look())
    env.reset(seed=1)
    env.step(ONES)
    state = watching.look()
    assert (state.owner, state.episode, state.step, state.activity) == ("ann", 1, 1, "steps")
    env.close()
    look_until(watching, lambda s: "the episode ended" in s.activity)


@pytest.mark.realtime
def test_the_rate_of_the_steps_is_measured(serve, connect, watch, slowdown):
    server = serve(Rig())
    env = connect(server.url)
    env.reset()
    watching = watch(server.url)
    began_at = time.monotonic()
    looked_at = 0.0
    while time.monotonic() < began_at + 2.5:
        env.step(np.zeros(3, np.float32))
        if time.monotonic() > looked_at + 0.5:
            state, looked_at = watching.look(), time.monotonic()
    assert state.activity == "moves"
    assert 25.0 / slowdown < state.step_hz < 55.0
    held = look_until(watching, lambda s: s.activity.startswith("holds, no action"))
    assert held.step_hz is None


def test_an_emergency_stop_is_told_in_red(counter, watch):
    watching = watch(counter.server.url)
    remote_env.emergency_stop(counter.server.url, "hit the table")
    state = watching.look()
    assert state.is_stopped
    assert re.search(r"\x1b\[1;31mSTOPPED by .*: hit the table\x1b", shown(state, colors=True))


@pytest.fixture
def spec(serve, watch):
    return watch(serve(Rig()).url).look().spec


@pytest.mark.parametrize(
    ("robot", "quiet_for", "has_stepped", "activity"),
    [
        ({}, 0.0, False, "holds, no episode yet"),
        ({"episode": 1, "end_reason": "time_limit"}, 0.0, True, "holds, the episode ended (time_"),
        ({"episode": 1}, 0.0, False, "in an episode"),
        ({"episode": 1}, 0.09, True, "moves"),
        ({"episode": 1}, 7.0, True, "holds, no action for 7 s"),
        (
            {"emergency_stop": {"by": "ann", "reason": "", "obeyed": False}, "episode": 1},
            0.0,
            True,
            "STOPPED by ann, and the robot's stop() has not returned yet",
        ),
    ],
)
def test_whether_it_moves_is_said(spec, robot, quiet_for, has_stepped, activity):
    said = describe_activity(spec, robot, quiet_for=quiet_for, has_stepped=has_stepped)
    assert said.startswith(activity)


def test_what_is_off_or_stale_is_red_and_what_is_not_is_not(serve, watch):
    state = watch(serve(Rig()).url).look()
    good = StreamState("good", 30.1, 30.0, 0.1 / 30, 0.01, 0.15, 300)
    off = StreamState("off", 29.0, 30.0, -1 / 30, 0.01, 0.15, 290)
    stale = StreamState("stale", None, 0.0, None, 12.3, 0.15, 1)
    never = StreamState("never", 7.0, 0.0, None, 9.0, math.inf, 1)
    text = shown(replace(state, streams=(good, off, stale, never), seconds=9.0), colors=True)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "\x1b[1;31m" not in lines["good"] + lines["never"]
    assert "\x1b[1;31m29 Hz" in lines["off"]
    assert "\x1b[1;31m-3.3 %" in lines["off"]
    assert "\x1b[1;31m12.3 s" in lines["stale"]
    assert "rates over 8 s by the robot's clock" in text


def test_a_robot_that_goes_away_is_said_to_be_gone_until_it_comes_back(serve, watch):
    first = serve(Counter())
    port = int(first.url.rpartition(":")[2])
    watching = watch(first.url)
    assert watching.look().lost_for is None
    first.stop()
    gone = look_until(watching, is_lost)
    assert gone.spec.name == "Counter"
    text = shown(gone)
    assert re.search(r"gone for \d+ s: .*looking for it again", text)
    assert "sum" in text
    with RobotServer(Rig(), port=port):
        back = look_until(watching, lambda s: not is_lost(s))
        assert back.spec.name == "Rig"
        watching.close()


def test_for_how_long_it_is_gone_is_counted_from_the_first_failure(serve, watch):
    server = serve(Counter())
    watching = watch(server.url)
    watching.look()
    server.stop()
    first = look_until(watching, is_lost).lost_for
    began_at = time.monotonic()
    assert look_until(watching, lambda s: s.lost_for >= first + 0.2).lost_for < 20.0
    assert time.monotonic() - began_at >= 0.19


@pytest.mark.realtime
def test_a_line_that_is_dead_is_noticed_and_found_again(serve, watch, slowdown):
    with FaultProxy(serve(Rig()).url) as proxy:
        watching = watch(proxy.url)
        watching.look()
        proxy.blackhole()
        began_at = time.monotonic()
        look_until(watching, is_lost, 20 * slowdown)
        assert time.monotonic() - began_at < 5 * slowdown
        proxy.heal()
        look_until(watching, lambda s: not is_lost(s), 20 * slowdown)
        watching.close()


@pytest.mark.realtime
def test_connections_that_are_reset_are_made_again(serve, watch, slowdown):
    with FaultProxy(serve(Rig()).url) as proxy:
        watching = watch(proxy.url)
        look_until(watching, lambda s: streams_of(s)["joint_pos"].hz, 20 * slowdown)
        proxy.reset_connections()
        look_until(watching, is_lost, 10 * slowdown)
        look_until(watching, lambda s: s.lost_for is None and streams_of(s)["joint_pos"].hz)
        watching.close()


def test_why_no_more_observations_come_is_raised_while_statistics_still_do(serve, watch):
    server = serve(Rig())
    watching = watch(server.url)
    observers = server._session.observers._observers
    (peer,) = wait_for(lambda: list(observers))
    peer.give_up(RobotFaultError("the robot's server failed"))
    with pytest.raises(RobotFaultError, match="the robot's server failed"):
        look_until(watching, is_lost)


def test_a_robot_that_goes_away_before_it_was_seen_is_an_error(serve, watch):
    server = serve(Counter())
    watching = watch(server.url)
    server.stop()
    with pytest.raises(TransportError):
        watching.look()


def test_a_robot_that_comes_back_without_the_stream_is_an_error(serve, watch):
    first = serve(Rig())
    port = int(first.url.rpartition(":")[2])
    watching = watch(first.url, streams=["joint_pos"])
    watching.look()
    first.stop()
    look_until(watching, is_lost)
    with (
        RobotServer(Counter(), port=port),
        pytest.raises(ConfigurationError, match="Counter has no stream 'joint_pos'; it offers"),
    ):
        look_until(watching, lambda s: not is_lost(s))


def test_a_robot_that_is_not_there_at_the_beginning_is_an_error():
    with pytest.raises(ConnectFailedError, match="nothing listens"):
        RobotWatch("ws://127.0.0.1:1")


def test_as_many_tables_are_printed_as_asked_for(serve, capsys):
    url = serve(Rig()).url
    assert main(["info", "--watch", url, "--count", "2", "--streams", "joint_pos"]) == 0
    text = capsys.readouterr().out
    assert text.count("published") == 2
    assert text.count("\nRig  realtime, 50 Hz") + text.startswith("Rig  realtime, 50 Hz") == 2
    assert "cam/image" not in text
    assert "200 Hz" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "2"], "are for --watch"),
        (["--streams", "joint_pos"], "are for --watch"),
        (["--watch", "--count", "0"], "--count must be at least 1"),
        (["--watch", "--streams", "nose"], "has no stream 'nose'; it offers"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(serve, capsys, arguments, message):
    assert main(["info", serve(Rig()).url, *arguments]) == 1
    assert message in capsys.readouterr().err


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def type(self, text):
        os.write(self._ours, text.encode())

    def read(self):
        """Take in what came, if anything did within a moment; False at the end."""
        if not select.select([self._ours], [], [], 0.05)[0]:
            return True
        try:
            came = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += came.decode()
        return bool(came)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


# Ctrl-C reaches whom the terminal belongs to.
_TAKE_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from remote_env.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_on_a_terminal_it_is_refreshed_in_place_until_ctrl_c(serve, slowdown):
    terminal = Terminal("info", "--watch", serve(Rig()).url)
    try:
        wait_for(lambda: terminal.read() and terminal.text.count("published") >= 3, 30 * slowdown)
        assert "\x1b[1A\x1b[2K" in terminal.text  # up a line, and erase it
        terminal.type("\x03")
        wait_for(lambda: not terminal.read(), 10 * slowdown)
        assert terminal.process.wait(timeout=10) == 0
    finally:
        terminal.close()
    last = terminal.text.rpartition("\x1b[1A\x1b[2K")[2]
    assert "joint_pos" in last
    assert "Traceback" not in terminal.text
    assert terminal.text.rstrip("\r\n").endswith("\x1b[?25h")  # the cursor is back
