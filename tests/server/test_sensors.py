"""What a sensor thread tells of itself."""

import threading
import time

import pytest
from sample_robots import Rig

from remote_env.errors import ConfigurationError
from remote_env_server.logs import wait_for_logs
from remote_env_server.sensors import SensorThread, failed_threads
from remote_env_server.testing import inject


@pytest.fixture
def sense():
    """Start sensors; stops them at the end of the test."""
    sensors = []

    def start(read, *, hz=None, at_end=None):
        sensor = SensorThread(f"s{len(sensors)}", read, hz=hz, at_end=at_end)
        sensors.append(sensor)
        sensor.start()
        return sensor

    yield start
    for sensor in sensors:
        sensor.stop()


def wait_until(condition, slowdown):
    deadline = time.monotonic() + 10 * slowdown
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.realtime
def test_a_function_that_hangs_is_busy_for_ever_longer(sense, slowdown):
    go_on = threading.Event()
    began = time.monotonic()
    sensor = sense(lambda: go_on.wait(60))
    wait_until(lambda: sensor.statistics().busy_for > 0.05, slowdown)
    assert sensor.statistics().busy_for <= time.monotonic() - began
    wait_until(lambda: sensor.statistics().busy_for > 0.1, slowdown)
    assert sensor.statistics().readings == 0
    go_on.set()


@pytest.mark.realtime
def test_a_sensor_is_not_busy_between_calls_nor_after_it_failed(sense, slowdown):
    waiting = sense(lambda: None, hz=0.01)
    wait_until(lambda: waiting.statistics().readings == 1, slowdown)
    assert waiting.statistics().busy_for == 0.0

    def fail():
        raise OSError("no camera")

    failed = sense(fail)
    wait_until(lambda: failed.statistics().failure is not None, slowdown)
    wait_until(lambda: failed.statistics().busy_for == 0.0, slowdown)


@pytest.mark.realtime
def test_threads_that_failed_are_named_by_what_their_captures_carry(sense, slowdown):
    seen = []

    def fail():
        seen.append(threading.get_ident())
        raise OSError("no camera")

    good = sense(lambda: None, hz=0.01)
    bad = sense(fail)
    wait_until(lambda: bad.statistics().failure is not None, slowdown)
    assert failed_threads([good, bad]) == {seen[0]}
    assert bad.statistics().thread == seen[0]
    assert failed_threads([good]) == frozenset()


def test_what_a_thread_made_is_closed_on_it_when_it_is_stopped(sense, slowdown):
    made, closed = [], []
    sensor = sense(
        lambda: made.append(threading.get_ident()),
        hz=100.0,
        at_end=lambda: closed.append(threading.get_ident()),
    )
    wait_until(lambda: made, slowdown)
    assert not closed
    assert sensor.stop()
    assert closed == [made[0]]


def test_a_sensor_that_failed_is_closed_too_and_once_for_each_time_it_ran(sense, slowdown):
    calls = []

    def fail():
        calls.append(("read", threading.get_ident()))
        raise OSError("no camera")

    sensor = sense(fail, at_end=lambda: calls.append(("end", threading.get_ident())))
    wait_until(lambda: len(calls) == 2, slowdown)
    assert isinstance(sensor.statistics().failure, OSError)
    sensor.restart_if_failed()
    wait_until(lambda: len(calls) == 4, slowdown)
    assert [name for name, _ in calls] == ["read", "end", "read", "end"]
    assert calls[0][1] == calls[1][1]
    assert calls[2][1] == calls[3][1]


@pytest.mark.parametrize("leaving", [ValueError("no context"), SystemExit("driver gave up")])
def test_an_end_that_raises_is_logged_and_does_not_hide_why_the_sensor_failed(
    sense, slowdown, caplog, leaving
):
    def fail():
        raise OSError("no camera")

    def end():
        raise leaving

    sensor = sense(fail, at_end=end)
    wait_until(lambda: "at_end of sensor 's0' failed" in caplog.text, slowdown)
    assert str(leaving) in caplog.text
    assert str(sensor.statistics().failure) == "no camera"


def test_a_sensor_that_was_stopped_has_not_failed_if_its_end_raises(sense, caplog):
    def end():
        raise ValueError("no context")

    sensor = sense(lambda: None, hz=100.0, at_end=end)
    assert sensor.stop()
    wait_for_logs()
    assert "no context" in caplog.text
    assert sensor.statistics().failure is None


def test_a_sensor_whose_end_hangs_is_not_started_again(sense, slowdown, caplog):
    reads, go_on = [], threading.Event()

    def fail():
        reads.append(None)
        raise OSError("no camera")

    sensor = sense(fail, at_end=lambda: go_on.wait(60))
    wait_until(lambda: sensor.statistics().failure is not None, slowdown)
    sensor.restart_if_failed(timeout=0.01)
    wait_for_logs()
    assert "at_end still blocks" in caplog.text
    assert sensor.statistics().failure is not None
    go_on.set()
    sensor.restart_if_failed()
    wait_until(lambda: len(reads) == 2, slowdown)


class Closing(Rig):
    def __init__(self):
        super().__init__()
        self.calls = []

    def open(self):
        self.start_sensor("gripper", lambda: None, hz=100.0, at_end=self.end)

    def close(self):
        self.calls.append("close")

    def end(self):
        self.calls.append("end")


@pytest.mark.parametrize("prepare", [lambda robot: None, inject], ids=["plain", "with-faults"])
def test_the_sensors_of_a_robot_end_after_its_close(serve, prepare):
    robot = Closing()
    prepare(robot)
    server = serve(robot)
    assert robot.calls == []
    server.stop()
    assert robot.calls == ["close", "end"]


def test_an_end_must_not_be_async():
    async def end():
        pass

    with pytest.raises(ConfigurationError, match="its at_end .* must be def, not async def"):
        SensorThread("cam", lambda: None, hz=None, at_end=end)
