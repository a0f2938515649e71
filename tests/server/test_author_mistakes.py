"""Whatever a robot's author does wrong: the learner is told, the robot holds, the server lives."""

import asyncio
import logging
import queue
import sys
import threading
import time

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sample_robots import Counter, Rig

from remote_env import errors
from remote_env_server import Mode, Outcome, ProprioConfig, RobotServer
from remote_env_server.control import ControlLoop
from remote_env_server.logs import wait_for_logs
from remote_env_server.requests import ResetRequest, Watch

ZERO = np.zeros(2, np.float32)


def reset_request(finish, *, streams=(), is_wanted=lambda: True):
    """A reset as the network would hand it over."""
    return ResetRequest(
        seed=None,
        options=None,
        max_steps=None,
        watch=Watch(streams),
        received_at=time.monotonic(),
        is_wanted=is_wanted,
        tell=lambda fraction, text: None,
        finish=finish,
    )


def make(method, function):
    """A Counter with one method replaced."""
    return type("Mistaken", (Counter,), {method: function})()


def leave(*_, **__):
    sys.exit(3)


class Unshowable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def raise_unshowable(*_, **__):
    raise Unshowable


async def cancel(*_, **__):
    raise asyncio.CancelledError


def step_until_truncated(env):
    """Step a Rig until a stream is too old; return what is said in info["remote"]."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        *_, truncated, info = env.step(np.zeros(3, np.float32))
        if truncated:
            assert info["remote"]["end_reason"] == "stale_sensor"
            return info["remote"]
    raise AssertionError("the episode was not truncated")


STEP_MISTAKES = {
    "outcome returns None": ("outcome", lambda self, o: None),
    "info is None": ("outcome", lambda self, o: Outcome(info=None)),
    "info is a list": ("outcome", lambda self, o: Outcome(info=[1])),
    "a flag is an array": ("outcome", lambda self, o: Outcome(terminated=np.array([True, False]))),
    "an end reason of one's own": (
        "outcome",
        lambda self, o: Outcome(truncated=True, end_reason="bored"),
    ),
    "reward is complex": ("outcome", lambda self, o: Outcome(reward=1j)),
    "an exception cannot be shown": ("apply_action", raise_unshowable),
    "reward is an object": ("outcome", lambda self, o: Outcome(reward=object())),
    "sys.exit in a driver": ("apply_action", leave),
    "cancelled": ("apply_action", cancel),
    "a wrong observation": ("get_obs", lambda self: {"sum": np.zeros(5)}),
    "no observation": ("get_obs", lambda self: None),
}


@pytest.mark.parametrize(("method", "function"), STEP_MISTAKES.values(), ids=STEP_MISTAKES.keys())
def test_a_mistake_is_an_error_of_the_robot_and_the_server_lives(method, function, serve, connect):
    server = serve(make(method, function))
    env = connect(server.url, step_timeout=3.0, reset_timeout=3.0)
    with pytest.raises(errors.RobotError):
        env.reset(seed=1)
        env.step(ZERO)
    setattr(type(server._robot), method, getattr(Counter, method))
    env.reset(seed=1)
    env.step(ZERO)


def test_an_error_that_quotes_what_is_no_unicode_reaches_the_learner(serve, connect, caplog):
    def complain_of_a_path(self, action):
        raise OSError("no such device: \udcff")

    # What is not logged need not be reported by tests that run in several processes.
    caplog.set_level(logging.CRITICAL, "remote_env_server.driver")
    env = connect(serve(make("apply_action", complain_of_a_path)).url)
    env.reset(seed=1)
    with pytest.raises(errors.RobotFaultError, match=r"no such device: \?"):
        env.step(ZERO)


@pytest.mark.parametrize("returned", [np.zeros(2), "ready", 5], ids=repr)
def test_what_reset_must_not_return_is_named(returned, serve, connect):
    env = connect(serve(make("reset", lambda self: returned)).url)
    with pytest.raises(errors.RobotFaultError, match=r"reset\(\) returned .*; it must return None"):
        env.reset()


def test_an_end_reason_may_be_its_text(serve, connect):
    outcome = Outcome(truncated=True, end_reason="operator")
    env = connect(serve(make("outcome", lambda self, o: outcome)).url)
    env.reset(seed=1)
    *_, truncated, info = env.step(ZERO)
    assert truncated
    assert info["remote"]["end_reason"] == "operator"


def test_info_that_is_too_large_is_left_out_and_the_episode_goes_on(serve, connect, caplog):
    text = "x" * (2 << 20)
    env = connect(serve(make("outcome", lambda self, o: Outcome(info={"log": text}))).url)
    env.reset(seed=1)
    for _ in range(3):
        *_, info = env.step(ZERO)
    assert info.keys() == {"remote"}
    wait_for_logs()
    assert sum("is left out" in r.message for r in caplog.records) == 1


def test_a_robot_may_write_into_its_action_as_it_may_locally(serve, connect):
    def apply_action(self, action):
        action *= 2.0
        self.update_proprio("sum", action)

    env = connect(serve(make("apply_action", apply_action)).url)
    env.reset(seed=1)
    observation, *_ = env.step(np.full(2, 0.25, np.float32))
    assert observation["sum"].tolist() == [0.5, 0.5]


def test_a_lockstep_robot_of_ones_own_is_deterministic(serve, connect):
    check_env(connect(serve(Counter()).url), skip_render_check=True, skip_close_check=True)


def test_in_lockstep_the_clock_counts_control_periods(serve, connect):
    env = connect(serve(Counter()).url)
    _, info = env.reset(seed=1)
    times = [info["remote"]["time"]] + [env.step(ZERO)[4]["remote"]["time"] for _ in range(2)]
    assert times == pytest.approx([0.0, 0.02, 0.04])


def test_a_robot_without_hold_is_warned_of_in_real_time(serve, caplog):
    class NoHold(Rig):
        hold = Counter.__mro__[1].hold

    serve(NoHold())
    wait_for_logs()
    assert "has no hold()" in caplog.text


def test_an_image_that_the_driver_did_not_read_is_refused():
    robot = Rig()
    with pytest.raises(ValueError, match="the image is None: the driver read nothing"):
        robot.update_image("cam", None)
    with pytest.raises(ValueError, match="nothing was given to publish"):
        robot.update_camera("cam")


class TwoOfAName(Rig):
    def proprio_configs(self):
        return [ProprioConfig("cam/image", 3)]

    def open(self):
        pass


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        (make("out_of_bounds", "ignore"), "must be 'refuse', 'clip' or 'pass'"),
        (make("get_metadata", lambda self: ["a"]), r"get_metadata\(\) returned list"),
        (make("get_metadata", lambda self: {"map": "x" * (2 << 20)}), "does not fit on the wire"),
        (TwoOfAName(), "two streams are called 'cam/image'"),
    ],
    ids=["policy", "metadata", "large metadata", "names"],
)
def test_what_every_client_would_stumble_over_is_found_at_start(robot, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        RobotServer(robot, port=0).start()


def test_a_server_starts_once_and_a_robot_is_served_once():
    robot = Counter()
    with RobotServer(robot, port=0) as server:
        with pytest.raises(errors.ConfigurationError, match="served already"):
            RobotServer(robot, port=0)
        with pytest.raises(errors.ConfigurationError, match="starts once"):
            server.start()


def test_a_robot_whose_open_exits_is_an_error_at_start():
    robot = make("open", leave)
    with pytest.raises(errors.RobotFaultError, match="SystemExit"):
        RobotServer(robot, port=0).start()


@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_cannot_be_is_named_at_start(port):
    with pytest.raises(errors.ConfigurationError, match=f"cannot listen at 127.0.0.1:{port}"):
        RobotServer(Counter(), port=port).start()


@pytest.mark.realtime
def test_an_action_that_the_driver_refuses_keeps_nothing_alive(serve, connect, slowdown):
    class Refusing(Rig):
        def apply_action(self, action):
            if self.actions:
                raise errors.ActionRefusedError("not from here")
            super().apply_action(action)

    robot = Refusing()
    env = connect(serve(robot).url)
    env.reset()
    env.step(np.zeros(3, np.float32))
    deadline = time.monotonic() + 1.0 * slowdown
    while not robot.holds and time.monotonic() < deadline:
        with pytest.raises(errors.ActionRefusedError):
            env.step(np.zeros(3, np.float32))
    assert robot.holds


@pytest.mark.realtime
def test_a_hold_that_fails_is_tried_again_and_ends_the_episode(serve, connect):
    class Stuck(Rig):
        tries = 0
        held = threading.Event()

        def hold(self):
            self.tries += 1
            if 1 < self.tries < 5:  # the first one is at the start
                raise OSError("brake does not answer")
            if self.tries > 1:
                self.held.set()

    robot = Stuck()
    env = connect(serve(robot).url)
    env.reset()
    env.step(np.zeros(3, np.float32))
    assert robot.held.wait(5)
    actions = len(robot.actions)
    with pytest.raises(
        errors.RobotFaultError, match=r"failed since the last step: hold\(\) failed"
    ):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(errors.EpisodeOverError, match="hold.. failed"):
        env.step(np.zeros(3, np.float32))
    assert len(robot.actions) == actions


@pytest.mark.realtime
def test_the_learner_is_told_when_hold_fails_too(serve, connect):
    class Broken(Rig):
        def apply_action(self, action):
            self.hold = self.apply_action
            raise OSError("serial gone")

    env = connect(serve(Broken()).url)
    env.reset()
    with pytest.raises(errors.RobotFaultError, match="FAILED TOO.*emergency stop"):
        env.step(np.zeros(3, np.float32))


@pytest.mark.realtime
def test_a_stop_during_a_reset_holds_and_closes_the_robot():
    closed = []

    class Silent(Rig):
        def close(self):
            closed.append(list(self.holds))

    control = ControlLoop(Silent(publishes=False), Mode.REALTIME, sensor_timeout=60.0)
    control.start()
    answers = []
    control.submit(reset_request(answers.append, streams=("cam/image",)))
    time.sleep(0.2)
    control.stop()
    assert not control.is_alive
    assert len(closed) == 1
    assert closed[0] != []
    assert isinstance(answers[0], errors.ResetCancelledError)


def test_a_reset_that_nobody_waits_for_any_more_does_not_move_the_robot():
    moved = []
    robot = make("reset", lambda self: moved.append(True))
    control = ControlLoop(robot, Mode.LOCKSTEP, sensor_timeout=1.0)
    control.start()
    answers = queue.SimpleQueue()
    control.submit(reset_request(answers.put, is_wanted=lambda: False))
    assert isinstance(answers.get(timeout=5), errors.LeaseError)
    control.stop()
    assert moved == []


def test_after_the_stop_a_request_is_answered_at_once():
    control = ControlLoop(Counter(), Mode.LOCKSTEP, sensor_timeout=1.0)
    control.start()
    control.stop()
    answers = []
    control.submit(reset_request(answers.append))
    assert isinstance(answers[0], errors.RobotFaultError)


@pytest.mark.realtime
def test_sensors_end_before_their_device_is_closed(caplog):
    class Device(Rig):
        is_open = True

        def read_joints(self):
            assert self.is_open, "read a closed device"
            super().read_joints()

        def close(self):
            self.is_open = False
            time.sleep(0.05)

    with RobotServer(Device(), port=0):
        time.sleep(0.05)
    assert "read a closed device" not in caplog.text


@pytest.mark.realtime
def test_a_sensor_that_failed_is_started_again_by_a_reset(serve, connect):
    class Once(Rig):
        fails = False

        def read_camera(self):
            super().read_camera()
            if self.fails:
                self.fails = False
                sys.exit("driver gave up")

    robot = Once()
    env = connect(serve(robot).url)
    env.reset()
    robot.fails = True
    stale = step_until_truncated(env)["stale"]
    assert stale["cam/image"]["cause"] == stale["cam/depth"]["cause"] == "failed"
    assert "its thread failed, the robot's log has the traceback" in stale["cam/image"]["text"]
    assert "joint_pos" not in stale
    with pytest.raises(errors.EpisodeOverError, match="its thread failed"):
        env.step(np.zeros(3, np.float32))
    env.reset()
    *_, truncated, _ = env.step(np.zeros(3, np.float32))
    assert not truncated


@pytest.mark.realtime
def test_a_sensor_that_failed_and_publishes_nothing_is_an_error_of_its_own(serve, connect):
    class Watched(Rig):
        fails = False

        def open(self):
            super().open()
            self.start_sensor("bumper", self.read_bumper, hz=200.0)

        def read_bumper(self):
            if self.fails:
                self.fails = False
                sys.exit("driver gave up")

    robot = Watched()
    env = connect(serve(robot).url)
    env.reset()
    robot.fails = True
    with pytest.raises(errors.SensorError, match=r"SystemExit: driver gave up.*env.reset\(\)") as e:
        step_until_truncated(env)
    assert e.value.code == "robot.sensor.failed"
    env.reset()
    *_, truncated, _ = env.step(np.zeros(3, np.float32))
    assert not truncated


@pytest.mark.realtime
def test_what_an_earlier_episode_published_is_not_fresh(serve, connect):
    class Lazy(Counter):
        resets = 0

        def reset(self, *, seed=None, options=None):
            self.resets += 1
            if self.resets == 1:
                super().reset(seed=seed)

    env = connect(serve(Lazy(), mode="realtime", sensor_timeout=0.3).url)
    env.reset()
    env.step(ZERO)
    with pytest.raises(errors.SensorError, match="did not deliver again"):
        env.reset()


class GripperError(errors.RobotError):
    def __init__(self, force):
        super().__init__(f"dropped at {force} N")


@pytest.mark.realtime
def test_an_error_class_of_the_authors_own_reaches_the_learner(serve, connect):
    class Dropping(Rig):
        def apply_action(self, action):
            raise GripperError(force=7)

    robot = Dropping()
    env = connect(serve(robot).url)
    env.reset()
    with pytest.raises(errors.RobotError, match="dropped at 7 N. The robot holds"):
        env.step(np.zeros(3, np.float32))
    assert robot.holds
    env.reset()


@pytest.mark.realtime
def test_a_robot_that_fails_to_hold_is_not_reset(serve, connect):
    class Stuck(Rig):
        max_episode_steps = 1
        resets = 0
        is_stuck = False

        def reset(self):
            self.resets += 1
            self.is_stuck = True

        def hold(self):
            if self.is_stuck:
                raise OSError("brake does not answer")

    robot = Stuck()
    env = connect(serve(robot).url)
    env.reset()
    with pytest.raises(errors.RobotFaultError, match=r"hold\(\) failed at the end.*FAILED TOO"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(errors.RobotFaultError, match="a robot that cannot hold is not reset"):
        env.reset()
    assert robot.resets == 1
    robot.is_stuck = False
    env.reset()


@pytest.mark.realtime
def test_a_robot_that_cannot_hold_from_the_start_is_not_reset(serve, connect):
    class Stuck(Rig):
        is_stuck = True

        def hold(self):
            if self.is_stuck:
                raise OSError("brake does not answer")
            super().hold()

    robot = Stuck()
    env = connect(serve(robot).url)
    with pytest.raises(errors.RobotFaultError, match="a robot that cannot hold is not reset"):
        env.reset()
    robot.is_stuck = False
    env.reset()


@pytest.mark.realtime
def test_a_hold_that_fails_for_long_does_not_flood_the_log(serve, connect, caplog):
    class Stuck(Rig):
        tries = 0

        def hold(self):
            self.tries += 1
            raise OSError("brake does not answer")

    robot = Stuck()
    serve(robot)
    deadline = time.monotonic() + 5
    while robot.tries < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert robot.tries >= 10
    wait_for_logs()
    assert sum("FAILED, the robot may move" in r.message for r in caplog.records) == 1


@pytest.mark.realtime
def test_an_observation_that_was_edited_keeps_the_age_of_its_sensors(serve, connect):
    class Filtering(Rig):
        def get_obs(self):
            observation = dict(self.make_obs())
            return {name: observation[name] for name in self.observation_space}

    with pytest.raises(errors.SensorError, match="'cam/image' .and 1 more. did not deliver once"):
        connect(serve(Filtering(publishes=False), sensor_timeout=0.2).url).reset()
    _, info = connect(serve(Filtering()).url).reset()
    assert 0 < info["remote"]["ages"]["cam/image"] < 1


@pytest.mark.realtime
def test_the_robot_holds_also_if_the_network_does_not_stop():
    class Endless:
        url = "endless://"

        def start(self, accept):
            pass

        def stop(self):
            raise KeyboardInterrupt  # a second Ctrl-C, while it waits

    robot = Rig()
    server = RobotServer(robot, listeners=[Endless()])
    server.start()
    robot.holds.clear()
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    assert robot.holds
    assert not server._control.is_alive


def test_a_sensor_function_must_not_be_async():
    async def read():
        pass

    with pytest.raises(errors.ConfigurationError, match="must be def, not async def"):
        Rig().start_sensor("cam", read)


def test_no_listeners_are_no_way_around_the_token():
    with pytest.raises(errors.ConfigurationError, match="would serve nobody"):
        RobotServer(Counter(), "0.0.0.0", listeners=[])
