"""What a sensor thread tells of itself."""

import threading
import time

import pytest

from remote_env_server.sensors import SensorThread, failed_threads


@pytest.fixture
def sense():
    """Start sensors; stops them at the end of the test."""
    sensors = []

    def start(read, *, hz=None):
        sensor = SensorThread(f"s{len(sensors)}", read, hz=hz)
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
