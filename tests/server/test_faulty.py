"""Robots that fail when they are told to, alone and behind a real server."""

import asyncio
import inspect
import logging
import math
import threading
import time

import numpy as np
import pytest
from beside import wait_for
from gymnasium import spaces
from sample_robots import Counter, Rig

from remote_env import errors
from remote_env_server import CameraConfig, ProprioConfig, Robot, RobotServer
from remote_env_server.testing import inject

ZERO = np.zeros(2, np.float32)


class Plain(Robot):
    """One camera, one stream; publishes when it is told to, from its own clock."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        super().__init__()
        self.clock = 0.0
        self.applied = []

    def now(self):
        return self.clock

    def camera_configs(self):
        return [CameraConfig("cam", 2, 2, has_depth=True), CameraConfig("gray", 2, 2)]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 2), ProprioConfig("buttons", 1, np.int8)]

    def reset(self, *, seed=None):
        return None

    def apply_action(self, action):
        self.applied.append(action)

    async def hold(self):
        return "held"

    def update_proprio(self, name, data, quality=1.0, *, stamp=None):
        super().update_proprio(name, data, stamp=stamp)
        return quality

    def publish(self, value):
        self.clock = float(value)
        self.update_camera(
            "cam",
            image=np.full((2, 2, 3), value, np.uint8),
            depth=np.full((2, 2), value, np.float32),
            extrinsics=np.full((4, 4), value),
        )
        self.update_proprio("joint_pos", np.full(2, value, np.float32))

    def shown(self, name):
        """Value, stamp and sequence of a stream."""
        field = self.make_obs().fields[name]
        return float(field.array.flat[0]), field.stamp, field.sequence


@pytest.fixture
def robot():
    return Plain()


@pytest.fixture
def faults(robot):
    with inject(robot) as faults:
        yield faults


def start(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


# Without a fault


def test_a_robot_without_a_fault_is_as_it_was(robot, faults):
    assert robot.apply_action(ZERO) is None
    assert robot.applied == [ZERO]
    assert robot.applied[0] is ZERO
    assert asyncio.run(robot.hold()) == "held"
    robot.publish(3)
    assert robot.shown("cam/image") == (3.0, 3.0, 1)
    assert robot.shown("joint_pos") == (3.0, 3.0, 1)
    assert robot.update_proprio("joint_pos", np.zeros(2, np.float32), 0.5) == 0.5
    with pytest.raises(ValueError, match="must have the shape"):
        robot.update_image("cam", np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no camera is called 'other'"):
        robot.update_image("other", np.zeros((2, 2, 3)))


def test_the_server_finds_what_it_looks_for(robot, faults):
    assert list(inspect.signature(robot.reset).parameters) == ["seed"]
    assert robot.apply_action.__qualname__ == "Plain.apply_action"
    assert robot.hold.__qualname__ == "Plain.hold"
    assert inspect.iscoroutinefunction(robot.hold)
    assert not inspect.iscoroutinefunction(robot.apply_action)
    assert type(robot).hold is Plain.hold


def test_another_robot_of_the_class_is_healthy(faults):
    faults.throw("apply_action", OSError)
    Plain().apply_action(ZERO)


def test_calls_and_actions_are_noted(robot, faults):
    before = time.monotonic()
    action = np.ones(2, np.float32)
    robot.apply_action(action)
    action[:] = 7.0
    robot.apply_action(action=action)
    first, second = faults.calls("apply_action")
    assert before <= first <= second <= time.monotonic()
    assert [a.tolist() for a in faults.actions] == [[1.0, 1.0], [7.0, 7.0]]
    assert faults.calls("hold") == ()


# Calls


def test_a_call_throws_as_often_as_it_is_told(robot, faults):
    faults.throw("apply_action", OSError("no answer"), times=2)
    for _ in range(2):
        with pytest.raises(OSError, match="no answer"):
            robot.apply_action(ZERO)
    robot.apply_action(ZERO)
    assert len(robot.applied) == 1
    assert len(faults.calls("apply_action")) == len(faults.actions) == 3


def test_a_call_throws_until_it_is_healed_and_a_class_will_do(robot, faults):
    faults.throw("hold", KeyboardInterrupt)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(robot.hold())
    faults.heal("hold")
    assert asyncio.run(robot.hold()) == "held"


def test_a_call_hangs_until_it_is_healed_and_then_does_its_work(robot, faults):
    faults.hang("apply_action")
    thread = start(robot.apply_action, ZERO)
    wait_for(lambda: faults.calls("apply_action"))
    assert robot.applied == []
    faults.heal("apply_action")
    thread.join(5)
    assert len(robot.applied) == 1


def test_an_async_call_that_hangs_does_not_block_the_loop(robot, faults):
    faults.hang("hold")

    async def hold_and_heal():
        holding = asyncio.create_task(robot.hold())
        await asyncio.sleep(0.01)
        assert not holding.done()
        faults.heal()
        return await asyncio.wait_for(holding, 5)

    assert asyncio.run(hold_and_heal()) == "held"


def test_a_hang_ends_by_itself_at_last(robot, faults):
    faults.hang("apply_action", timeout=0.01)
    robot.apply_action(ZERO)
    assert len(robot.applied) == 1


def test_closing_the_robot_frees_calls_that_hang(robot, faults):
    faults.hang("apply_action")
    thread = start(robot.apply_action, ZERO)
    wait_for(lambda: faults.calls("apply_action"))
    robot.close()
    thread.join(5)
    assert not thread.is_alive()


def test_the_end_of_the_block_heals(robot):
    with inject(robot) as faults:
        faults.hang("apply_action")
        faults.silence("joint_pos")
        thread = start(robot.apply_action, ZERO)
    thread.join(5)
    assert not thread.is_alive()
    robot.publish(1)
    assert robot.shown("joint_pos") == (1.0, 1.0, 1)


def test_a_slow_call_is_slow_and_works(robot, faults):
    faults.slow("apply_action", 0.03)
    faults.slow("hold", 0.03)
    started = time.monotonic()
    robot.apply_action(ZERO)
    assert time.monotonic() - started >= 0.03
    started = time.monotonic()
    assert asyncio.run(robot.hold()) == "held"
    assert time.monotonic() - started >= 0.03
    assert len(robot.applied) == 1


def test_a_call_may_hang_and_then_fail(robot, faults):
    faults.slow("get_obs", 0.01)
    faults.throw("get_obs", TimeoutError("bus"), times=1)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="bus"):
        robot.get_obs()
    assert time.monotonic() - started >= 0.01


# What is published


def test_a_frozen_stream_is_fresh_and_old(robot, faults):
    robot.publish(1)
    faults.freeze("cam")
    faults.freeze("joint_pos")
    robot.publish(2)
    robot.publish(3)
    assert robot.shown("cam/image") == (1.0, 3.0, 3)
    assert robot.shown("cam/depth") == (1.0, 3.0, 3)
    assert robot.shown("cam/extrinsics") == (1.0, 3.0, 3)
    assert robot.shown("joint_pos") == (1.0, 3.0, 3)
    faults.heal("cam")
    robot.publish(4)
    assert robot.shown("cam/image") == (4.0, 4.0, 4)
    assert robot.shown("joint_pos") == (1.0, 4.0, 4)


def test_a_stream_that_was_frozen_from_the_beginning_keeps_its_first_content(robot, faults):
    faults.freeze("cam")
    robot.publish(1)
    robot.publish(2)
    assert robot.shown("cam/image") == (1.0, 2.0, 2)


def test_a_silent_stream_publishes_nothing(robot, faults):
    robot.publish(1)
    faults.silence("cam")
    faults.silence("joint_pos")
    robot.publish(2)
    robot.update_depth("cam", np.zeros((2, 2), np.float32))
    assert robot.shown("cam/image") == (1.0, 1.0, 1)
    assert robot.shown("cam/depth") == (1.0, 1.0, 1)
    assert robot.shown("joint_pos") == (1.0, 1.0, 1)
    faults.heal()
    robot.publish(3)
    assert robot.shown("cam/image") == (3.0, 3.0, 2)


def test_nan_is_published_where_there_is_floating_point(robot, faults):
    faults.nan("cam")
    faults.nan("joint_pos")
    robot.publish(2)
    assert robot.shown("cam/image") == (2.0, 2.0, 1)
    assert robot.shown("cam/extrinsics") == (2.0, 2.0, 1)
    for name in ("cam/depth", "joint_pos"):
        assert np.isnan(robot.make_obs()[name]).all()
        assert robot.shown(name)[1:] == (2.0, 1)
    faults.heal("joint_pos")
    robot.publish(3)
    assert robot.shown("joint_pos") == (3.0, 3.0, 2)


@pytest.mark.parametrize("name", ["gray", "buttons"])
def test_nan_is_refused_where_there_is_none(faults, name):
    with pytest.raises(errors.ConfigurationError, match=f"'{name}' has no floating point"):
        faults.nan(name)


def test_a_clock_that_stands_stamps_new_content_with_the_old_time(robot, faults):
    robot.publish(1)
    faults.stop_clock("cam")
    faults.stop_clock("joint_pos")
    robot.publish(2)
    robot.update_proprio("joint_pos", np.full(2, 3, np.float32), stamp=3.0)
    assert robot.shown("cam/image") == (2.0, 1.0, 2)
    assert robot.shown("joint_pos") == (3.0, 1.0, 3)
    faults.heal("joint_pos")
    robot.publish(4)
    assert robot.shown("joint_pos") == (4.0, 4.0, 4)


def test_a_clock_that_stands_from_the_beginning_has_the_first_time(robot, faults):
    faults.stop_clock("joint_pos")
    robot.publish(1)
    robot.publish(2)
    assert robot.shown("joint_pos") == (2.0, 1.0, 2)


def test_faults_of_one_stream_combine(robot, faults):
    robot.publish(1)
    faults.freeze("joint_pos")
    faults.stop_clock("joint_pos")
    robot.publish(2)
    assert robot.shown("joint_pos") == (1.0, 1.0, 2)


# Names


@pytest.mark.parametrize(
    "use",
    [
        lambda f: f.throw("holds", OSError),
        lambda f: f.hang("cam"),  # no sensor of that name was started
        lambda f: f.slow("x", 1.0),
        lambda f: f.calls("x"),
        lambda f: f.heal("x"),
    ],
)
def test_a_call_that_nobody_makes_is_refused(faults, use):
    with pytest.raises(errors.ConfigurationError, match="no method and no sensor"):
        use(faults)


@pytest.mark.parametrize("fault", ["freeze", "silence", "nan", "stop_clock"])
def test_a_stream_that_nobody_publishes_is_refused(faults, fault):
    with pytest.raises(errors.ConfigurationError, match="no camera and no stream 'cam/image'"):
        getattr(faults, fault)("cam/image")


@pytest.mark.parametrize(
    "use",
    [
        lambda f: f.throw("hold", OSError, times=0),
        lambda f: f.slow("hold", 0.0),
        lambda f: f.hang("hold", timeout=math.nan),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(faults, use):
    with pytest.raises(errors.ConfigurationError, match="must be"):
        use(faults)


def test_faults_are_injected_once_and_before_the_sensors_run(robot):
    inject(robot)
    with pytest.raises(errors.ConfigurationError, match="has its faults already"):
        inject(robot)
    rig = Rig()
    rig.open()
    with pytest.raises(errors.ConfigurationError, match="run already; inject.. before open"):
        inject(rig)
    rig.stop_sensors()


# Behind a server


def test_a_driver_that_fails_once_is_reported_and_the_next_episode_works(serve, connect, caplog):
    caplog.set_level(logging.CRITICAL, "remote_env_server.driver")
    robot = Counter()
    with inject(robot) as faults:
        env = connect(serve(robot).url)
        env.reset(seed=1)
        faults.throw("apply_action", OSError("no answer"), times=1)
        with pytest.raises(errors.RobotFaultError, match=r"Counter.apply_action\(\) .*no answer"):
            env.step(ZERO)
        env.reset(seed=1)
        env.step(ZERO)
        assert len(faults.actions) == 2
        assert len(faults.calls("reset")) == 2


# Of a Rig, whose camera says 100 Hz: 3 periods and 50 ms.
MAX_AGE = 0.08
PERIOD = 0.02
STILL = np.zeros(3, np.float32)


def step_until_stale(env, since, slowdown):
    """Step until a stream is stale; return the last step, checked to be in time."""
    while True:
        observation, _, terminated, truncated, info = env.step(STILL)
        after = time.monotonic() - since
        if "stale" in info["remote"]:
            break
        assert not terminated
        assert not truncated
        # Not later than the end of the period in which it became stale.
        assert after <= MAX_AGE + PERIOD + 0.1 * slowdown
    assert after >= MAX_AGE - 0.011  # the newest capture was a period of the camera old
    return observation, truncated, info["remote"]


@pytest.mark.realtime
def test_a_sensor_that_fails_is_reported_and_started_again_by_a_reset(serve, connect, slowdown):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url)
        env.reset()
        faults.throw("cam", OSError("usb"), times=1)
        wait_for(lambda: robot.sensors[0].statistics().failure is not None)
        _, truncated, remote = step_until_stale(env, time.monotonic() - 0.01, slowdown)
        assert truncated
        assert remote["end_reason"] == "stale_sensor"
        assert remote["stale"]["cam/image"]["cause"] == "failed"
        env.reset()
        *_, truncated, info = env.step(STILL)
        assert not truncated
        assert "stale" not in info["remote"]


CAUSES = {"silence": "silent", "hang": "silent", "stop_clock": "clock", "freeze": "frozen"}


@pytest.mark.realtime
@pytest.mark.parametrize(("fault", "cause"), CAUSES.items())
def test_a_camera_with_a_fault_ends_the_episode_in_time(serve, connect, slowdown, fault, cause):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url)
        env.reset()
        env.step(STILL)
        getattr(faults, fault)("cam")
        _, truncated, remote = step_until_stale(env, time.monotonic(), slowdown)
        assert truncated
        assert remote["end_reason"] == "stale_sensor"
        # Not the joints, which are fine, and not the calibration, which has no age.
        assert remote["stale"].keys() == {"cam/image", "cam/depth"}
        told = remote["stale"]["cam/image"]
        assert told["cause"] == cause
        assert told["age"] > told["max_age"] == pytest.approx(MAX_AGE)
        assert "'cam/image'" in told["text"]
        assert robot.holds
        with pytest.raises(errors.EpisodeOverError, match="stale_sensor: 'cam/image'"):
            env.step(STILL)
        faults.heal()
        env.reset()
        *_, truncated, info = env.step(STILL)
        assert not truncated
        assert "stale" not in info["remote"]


@pytest.mark.realtime
@pytest.mark.parametrize(("fault", "cause"), CAUSES.items())
def test_a_camera_with_a_fault_is_only_flagged_if_that_was_asked_for(
    serve, connect, slowdown, fault, cause
):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url, on_stale="flag")
        env.reset()
        env.step(STILL)
        getattr(faults, fault)("cam")
        _, truncated, remote = step_until_stale(env, time.monotonic(), slowdown)
        assert not truncated
        assert "end_reason" not in remote
        assert remote["stale"]["cam/image"]["cause"] == cause
        faults.heal()
        wait_for(lambda: "stale" not in env.step(STILL)[-1]["remote"])


@pytest.mark.realtime
def test_a_camera_with_a_fault_is_an_error_if_that_was_asked_for(serve, connect, slowdown):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url, on_stale="raise")
        env.reset()
        env.step(STILL)
        faults.freeze("cam")
        with pytest.raises(errors.SensorError, match="'cam/image' has delivered the same") as e:
            step_until_stale(env, time.monotonic(), slowdown)
        assert e.value.code == "robot.sensor.stale"
        assert robot.holds
        with pytest.raises(errors.EpisodeOverError, match="stale_sensor"):
            env.step(STILL)
        faults.heal()
        env.reset()
        env.step(STILL)


@pytest.mark.realtime
def test_how_old_a_stream_may_be_is_the_learners_choice(serve, connect, slowdown):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url, max_age={"cam/image": 1.0, "cam/depth": 0.5})
        env.reset()
        env.step(STILL)
        faults.silence("cam")
        silent_at = time.monotonic()
        truncated = False
        while not truncated:
            *_, truncated, info = env.step(STILL)
            assert time.monotonic() - silent_at <= 0.5 + PERIOD + 0.1 * slowdown
        assert time.monotonic() - silent_at >= 0.48
        assert info["remote"]["stale"].keys() == {"cam/depth"}
        assert info["remote"]["stale"]["cam/depth"]["max_age"] == 0.5


@pytest.mark.realtime
def test_what_is_not_observed_may_be_stale(serve, connect):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url, streams=["joint_pos"])
        env.reset()
        faults.silence("cam")
        silent_at = time.monotonic()
        while time.monotonic() - silent_at < 3 * MAX_AGE:
            *_, truncated, info = env.step(STILL)
            assert not truncated
            assert "stale" not in info["remote"]


@pytest.mark.realtime
def test_a_frozen_camera_looks_fresh_and_is_told_from_one_that_sees(serve, connect, slowdown):
    robot = Rig()
    with inject(robot) as faults:
        env = connect(serve(robot).url, on_stale="flag")
        env.reset()
        faults.freeze("cam")
        seen = [env.step(STILL) for _ in range(20)]
        ages = [info["remote"]["ages"]["cam/image"] for *_, info in seen]
        assert len({int(observation["cam/image"][0, 0, 0]) for observation, *_ in seen}) == 1
        assert max(ages) < 0.1 * slowdown  # by its stamps
        assert seen[-1][-1]["remote"]["stale"]["cam/image"]["cause"] == "frozen"


@pytest.mark.realtime
def test_a_hold_that_hangs_keeps_no_server_from_stopping(caplog):
    robot = Rig()
    server = RobotServer(robot, port=0)
    with inject(robot) as faults:
        server.start()
        before = faults.calls("hold")
        robot.holds.clear()
        faults.hang("hold")
        stopping = start(server.stop)
        wait_for(lambda: faults.calls("hold") > before)
    stopping.join(5)
    assert not stopping.is_alive()
    assert robot.holds
    assert not server._control.is_alive
