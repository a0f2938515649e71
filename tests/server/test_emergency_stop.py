"""The emergency stop: it latches, comes before everything else, and a person releases it."""

import errno
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter, Rig

from remote_env import ConfigurationError, RobotClient, emergency_stop, errors, release_stop
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, ProprioConfig, RobotServer, latch
from remote_env_server.core import PressedStop
from remote_env_server.logs import wait_for_logs

ONE = np.ones(2, np.float32)


class Machine(Counter):
    """Counts in any mode, and notes when and on which thread it was stopped."""

    def __init__(self):
        super().__init__()
        self.resets = 0
        self.stops = []

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed, options=options)

    def stop(self):
        self.stops.append((time.monotonic(), threading.current_thread().name))


class Blocking(Machine):
    """Its ``apply_action`` blocks until it is let go."""

    def __init__(self):
        super().__init__()
        self.is_in = threading.Event()
        self.may_go = threading.Event()

    def apply_action(self, action):
        self.is_in.set()
        self.may_go.wait(10)
        super().apply_action(action)


def assert_told(step):
    """The step was not executed, and says why the episode is over."""
    _, reward, terminated, truncated, info = step
    remote = info["remote"]
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert remote["end_reason"] == "emergency_stop"
    assert remote["invalid_transition"] is True
    assert "somebody is in the cell" in remote["end_cause"]


def press(server):
    emergency_stop(server.url, "somebody is in the cell")


def press_in_vain(server):
    """Press it while the robot's code blocks: it latches, and that is not all that is told."""
    with pytest.raises(errors.RobotFaultError, match="HAS NOT CONFIRMED"):
        emergency_stop(server.url, "somebody is in the cell", timeout=0.3)


MODES = ["lockstep", "realtime", "delayed"]


@pytest.mark.parametrize("mode", MODES)
def test_who_stands_beside_the_robot_ends_the_episode_of_who_commands_it(serve, connect, mode):
    robot = Machine()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    env.step(ONE)
    press(server)
    wait_for(lambda: robot.stops)
    moved = len(robot.actions)
    told = env.step(ONE)
    assert_told(told)
    assert told[-1]["remote"]["step"] == len(robot.actions) == moved == 1
    over = r"after 1 steps \(emergency_stop\); call env.reset\(\)"
    with pytest.raises(errors.EpisodeOverError, match=over):
        env.step(ONE)


@pytest.mark.parametrize("mode", MODES)
def test_while_it_is_pressed_no_reset_reaches_the_robot(serve, connect, mode):
    robot = Machine()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    emergency_stop(server.url, "somebody is in the cell")
    for url_of_it in (env, connect(server.url, take=True)):
        with pytest.raises(errors.EmergencyStopError, match="somebody is in the cell.*release"):
            url_of_it.reset(seed=1)
    assert robot.resets == 1
    assert release_stop(server.url) is True
    assert robot.resets == 1  # nothing moves by that
    assert robot.actions == []
    env.reset(seed=1)
    *_, truncated, _ = env.step(ONE)
    assert not truncated
    assert release_stop(server.url) is False


def test_who_only_observes_may_press_it_and_not_release_it(serve, connect):
    robot = Machine()
    server = serve(robot)
    with RobotClient(server.url, role="observe", owner="Ann") as observer:
        observer.emergency_stop("smoke")
        told = observer.robot_statistics()["emergency_stop"]
        assert (told["by"], told["reason"]) == ("Ann", "smoke")
        with pytest.raises(errors.AccessDeniedError, match="only observes"):
            observer.release_stop()
        assert observer.robot_statistics()["emergency_stop"] is not None
    with pytest.raises(errors.EmergencyStopError, match="Ann: smoke"):
        connect(server.url).reset()


def test_who_pressed_it_first_is_who_is_named(serve):
    server = serve(Machine())
    emergency_stop(server.url, "first")
    emergency_stop(server.url, "second")
    assert server.statistics()["emergency_stop"]["reason"] == "first"


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_that_takes_long_is_given_up(serve, connect, mode):
    class Homing(Machine):
        was_cancelled = False

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            try:
                while True:
                    self.progress(0.5, "homing")
                    time.sleep(0.002)
            except errors.ResetCancelledError:
                self.was_cancelled = True
                raise

    robot = Homing()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    resetting = Beside(lambda: env.reset(seed=1))
    wait_for(lambda: robot.resets)
    press(server)
    resetting.join()
    assert isinstance(resetting.error, errors.ResetCancelledError)
    assert robot.was_cancelled
    wait_for(lambda: robot.stops)
    with pytest.raises(errors.EmergencyStopError):
        env.reset(seed=1)
    assert robot.resets == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_that_waits_behind_other_work_is_not_begun(serve, connect, mode):
    robot = Blocking()
    server = serve(robot, mode=mode)
    env, other = connect(server.url), connect(server.url)
    env.reset(seed=1)
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    resetting = Beside(lambda: other.reset(seed=1))
    wait_for(lambda: server.statistics()["lease"]["epoch"] == 2)
    press_in_vain(server)
    robot.may_go.set()
    stepping.join()
    resetting.join()
    assert isinstance(resetting.error, errors.EmergencyStopError)
    assert robot.resets == 1
    assert robot.stops


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_a_step_that_waits_for_its_period_is_answered_at_once(serve, connect, mode, slowdown):
    robot = Machine()
    robot.control_hz = 0.2
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    stepping = Beside(lambda: env.step(ONE))
    wait_for(lambda: server.statistics()["lease"]["sequence"] == 2)  # the reset and the step
    time.sleep(0.05)  # until the control thread has it
    pressed_at = time.monotonic()
    press(server)
    stepping.join()
    assert stepping.ended_at - pressed_at < 1.0 * slowdown
    assert robot.stops[0][0] - pressed_at < 0.5 * slowdown
    assert_told(stepping.result)
    assert len(robot.actions) == (1 if mode == "realtime" else 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_robot_whose_code_blocks_is_stopped_beside_it_if_it_says_that_it_can(
    serve, connect, mode
):
    robot = Blocking()
    robot.stop_is_thread_safe = True
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    press(server)
    wait_for(lambda: robot.stops)
    assert robot.stops[0][1] == "remote-env emergency stop"
    assert stepping.is_running
    robot.may_go.set()
    stepping.join()
    wait_for(lambda: robot.stops[-1][1] == "remote-env control")  # and once more, to be sure
    with pytest.raises(errors.EmergencyStopError):
        env.reset(seed=1)


@pytest.mark.parametrize("mode", MODES)
def test_any_other_robot_is_stopped_as_soon_as_its_code_returns(serve, connect, mode):
    robot = Blocking()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    press_in_vain(server)
    assert robot.stops == []
    robot.may_go.set()
    wait_for(lambda: robot.stops)
    assert robot.stops[0][1] == "remote-env control"
    stepping.join()
    moved = len(robot.actions)
    with pytest.raises(errors.EmergencyStopError):
        env.reset(seed=1)
    assert len(robot.actions) == moved == 1


@pytest.mark.parametrize("mode", MODES)
def test_one_that_is_released_before_the_robot_could_obey_stops_it_all_the_same(
    serve, connect, mode
):
    robot = Blocking()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    press_in_vain(server)
    release_stop(server.url)
    robot.may_go.set()
    wait_for(lambda: robot.stops)
    stepping.join()
    step = stepping.result
    if not step[3]:  # it was done before the stop: then the next one is told
        step = env.step(ONE)
    assert_told(step)
    assert len(robot.actions) == 1
    env.reset(seed=1)


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_that_fails_is_tried_again(serve, connect, mode, caplog):
    class Stuck(Machine):
        tries = 0

        def stop(self):
            self.tries += 1
            if self.tries < 4:
                raise OSError("brake does not answer")
            super().stop()

    robot = Stuck()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    press(server)
    wait_for(lambda: robot.stops)
    wait_for_logs()
    assert sum("Stuck.stop() FAILED, the robot may move" in r.message for r in caplog.records) == 1
    assert_told(env.step(ONE))  # the first reason stays, whatever became of stop()
    release_stop(server.url)
    env.reset(seed=1)
    assert robot.tries == 4


# Across restarts


def test_a_restart_does_not_release_it(connect, tmp_path):
    path = tmp_path / "of its own" / "stop.json"
    with RobotServer(Machine(), port=0, latch_file=path) as server:
        press(server)
    assert path.exists()
    robot = Machine()
    with RobotServer(robot, port=0, latch_file=path) as server:
        wait_for(lambda: robot.stops)
        env = connect(server.url)
        with pytest.raises(errors.EmergencyStopError, match="somebody is in the cell"):
            env.reset()
        assert robot.resets == 0
        release_stop(server.url)
        env.reset()
        wait_for(lambda: not path.exists())
    with RobotServer(Machine(), port=0, latch_file=path) as server:
        connect(server.url).reset()


def test_without_a_file_a_restart_releases_it(connect):
    with RobotServer(Machine(), port=0) as server:
        press(server)
    with RobotServer(Machine(), port=0) as server:
        connect(server.url).reset()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"by": "Ann"}', "\x00", "\xff"])
def test_a_file_that_was_cut_is_a_stop_all_the_same(connect, tmp_path, text):
    path = tmp_path / "stop.json"
    path.write_text(text, encoding="latin-1")
    with (
        RobotServer(Machine(), port=0, latch_file=path) as server,
        pytest.raises(errors.EmergencyStopError, match="before the server was restarted"),
    ):
        connect(server.url).reset()


def test_a_file_that_cannot_be_read_serves_nobody(tmp_path):
    robot = Machine()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        RobotServer(robot, port=0, latch_file=tmp_path).start()
    assert robot.resets == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which also root cannot write")
def test_a_file_that_could_not_be_written_serves_nobody():
    robot = Machine()
    with pytest.raises(ConfigurationError, match="could not be remembered in /proc/stop"):
        RobotServer(robot, port=0, latch_file="/proc/stop.json").start()


def test_a_stop_for_which_the_disk_has_no_room_is_written_when_it_has(tmp_path, monkeypatch):
    tries = []
    write = latch._write

    def fail_twice(path, pressed):
        tries.append(pressed)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, pressed)

    monkeypatch.setattr(latch, "_write", fail_twice)
    monkeypatch.setattr(latch, "_WRITE_AGAIN", 0.01)
    path = tmp_path / "stop.json"
    memory = latch.Latch(path)
    memory.press(PressedStop("Ann", "smoke"))
    wait_for(path.exists)
    memory.close()
    assert latch.Latch(path).pressed == PressedStop("Ann", "smoke")


def test_files_that_differ_behind_a_dot_only_are_two(tmp_path, monkeypatch):
    written = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (written.append(a.name), replace(a, b))[1])
    for name in ("arm.left", "arm.right"):
        memory = latch.Latch(tmp_path / name)
        memory.press(PressedStop("Ann", name))
        memory.close()
    assert written == ["arm.left.new", "arm.right.new"]
    assert latch.Latch(tmp_path / "arm.left").pressed == PressedStop("Ann", "arm.left")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm.left", "arm.right"]


def test_the_file_of_one_robot_is_not_taken_for_what_another_tries_to_write(tmp_path):
    (tmp_path / "arm.try").write_text("somebody else's")
    (tmp_path / "arm.new").write_text("somebody else's")
    memory = latch.Latch(tmp_path / "arm.json")
    memory.press(PressedStop("Ann", "smoke"))
    memory.close()
    assert (tmp_path / "arm.try").read_text() == "somebody else's"
    assert (tmp_path / "arm.new").read_text() == "somebody else's"


def test_without_a_file_nothing_is_kept_of_what_was_pressed():
    class Noted(PressedStop):
        """Can be watched, unlike one with slots."""

    pressed = Noted("Ann", "smoke")
    is_kept = weakref.ref(pressed)
    memory = latch.Latch(None)
    memory.press(pressed)
    memory.release()
    del pressed
    assert is_kept() is None
    memory.close()
    memory.close()


def test_a_file_of_a_robot_has_one_latch_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["arm.py:Arm", "./arm.py:Arm", f"{tmp_path}/arm.py:Arm"]
    assert len({latch.default_latch_file(8765, name) for name in names}) == 1
    others = [latch.default_latch_file(8765, "arm.py:Other"), latch.default_latch_file(1, names[0])]
    assert latch.default_latch_file(8765, names[0]) not in others


def test_a_server_of_ones_own_remembers_it_as_the_command_does(connect, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with RobotServer(Machine(), port=port) as server:
        press(server)
    (file,) = tmp_path.rglob("*.json")
    assert file == latch.default_latch_file(port, f"{Machine.__module__}:Machine")
    with (
        RobotServer(Machine(), port=port) as server,
        pytest.raises(errors.EmergencyStopError, match="somebody is in the cell"),
    ):
        connect(server.url).reset()
    with RobotServer(Machine(), port=port, latch_file=False) as server:
        connect(server.url).reset()


# While much is under way


class Panorama(Machine):
    """Each of its observations has 8 MB."""

    def camera_configs(self):
        return [CameraConfig("cam", 1024, 2731)]

    def proprio_configs(self):
        return [ProprioConfig("sum", 2, np.float64)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.update_image("cam", np.ones((1024, 2731, 3), np.uint8))


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_it_waits_for_no_frame_that_is_on_its_way_to_a_slow_reader(serve, connect, mode, slowdown):
    robot = Panorama()
    server = serve(robot, mode=mode)
    with FaultProxy(server.url) as proxy:
        env = connect(proxy.url, step_timeout=60.0)
        env.reset(seed=1)
        before = proxy.statistics().forwarded_to_client
        proxy.set_rate(500_000, Direction.TO_CLIENT)
        stepping = Beside(lambda: env.step(ONE))
        wait_for(lambda: proxy.statistics().forwarded_to_client > before + 50_000)
        pressed_at = time.monotonic()
        press(server)
        wait_for(lambda: robot.stops)
        assert robot.stops[0][0] - pressed_at < 0.5 * slowdown
        assert stepping.is_running
        proxy.heal()
        stepping.join()
        assert_told(env.step(ONE))


@pytest.mark.realtime
def test_a_robot_without_a_stop_of_its_own_holds(serve, connect):
    robot = Rig()
    server = serve(robot)
    env = connect(server.url)
    env.reset()
    press(server)
    wait_for(lambda: robot.holds)
    assert_told(env.step(np.zeros(3, np.float32)))
