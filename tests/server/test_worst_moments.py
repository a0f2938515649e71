"""What happens at the worst moment: nothing moves that should hold."""

import logging
import threading
import time

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter

from remote_env import RobotClient, emergency_stop, errors
from remote_env.protocol import Release
from remote_env.testing import Direction, FaultProxy
from remote_env_server import core
from remote_env_server.requests import HoldRequest

ONE = np.ones(2, np.float32)


class Machine(Counter):
    """Any of its methods blocks, once, when it is told to; ``log`` has what was called."""

    def __init__(self):
        super().__init__()
        self.log = []
        self.blocks_in = ""
        self.is_in = threading.Event()
        self.may_go = threading.Event()

    def note(self, name):
        self.log.append(name)
        if name == self.blocks_in:
            self.blocks_in = ""
            self.is_in.set()
            self.may_go.wait(10)

    def reset(self, *, seed=None, options=None):
        self.note("reset")
        return super().reset(seed=seed, options=options)

    def get_obs(self):
        self.note("get_obs")
        return super().get_obs()

    def apply_action(self, action):
        self.note("apply_action")
        super().apply_action(action)

    def hold(self):
        self.note("hold")

    def stop(self):
        self.note("stop")


@pytest.fixture
def robot():
    robot = Machine()
    yield robot
    robot.may_go.set()


# The emergency stop


def press_in_vain(server):
    """Press it while the robot's code blocks: it latches, and that is not all that is told."""
    with pytest.raises(errors.RobotFaultError, match="HAS NOT CONFIRMED"):
        emergency_stop(server.url, "smoke", timeout=0.3)


def test_a_stop_that_is_pressed_while_the_robot_holds_for_a_reset_lets_no_reset_begin(
    robot, serve, connect
):
    server = serve(robot, mode="realtime")
    env = connect(server.url)
    env.reset(seed=1)
    env.step(ONE)
    robot.blocks_in = "hold"
    resetting = Beside(lambda: env.reset(seed=1))
    assert robot.is_in.wait(5)
    press_in_vain(server)
    robot.may_go.set()
    resetting.join()
    wait_for(lambda: "stop" in robot.log)
    assert isinstance(resetting.error, (errors.EmergencyStopError, errors.ResetCancelledError))
    assert robot.log.count("reset") == 1


def test_a_stop_that_is_pressed_while_a_delayed_step_observes_lets_nothing_move(
    robot, serve, connect
):
    server = serve(robot, mode="delayed")
    env = connect(server.url)
    env.reset(seed=1)
    robot.blocks_in = "get_obs"
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    press_in_vain(server)
    robot.may_go.set()
    *_, truncated, info = stepping.join().result
    assert truncated
    assert info["remote"]["end_reason"] == "emergency_stop"
    assert "apply_action" not in robot.log
    assert "stop" in robot.log


def test_a_stop_beside_the_robots_code_is_repeated_until_that_code_returns(robot, serve, connect):
    """A servo loop in ``reset`` would command the motors again; and a stop may fail once."""
    robot.stop_is_thread_safe = True
    stop, tries = robot.stop, []

    def fail_first():
        tries.append(threading.current_thread().name)
        if len(tries) == 1:
            raise OSError("the bus is busy")
        stop()

    robot.stop = fail_first
    server = serve(robot)
    env = connect(server.url)
    env.reset(seed=1)
    robot.blocks_in = "apply_action"
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    emergency_stop(server.url)
    wait_for(lambda: robot.log.count("stop") >= 2)
    assert set(tries) == {"remote-env emergency stop"}
    robot.may_go.set()
    stepping.join()
    wait_for(lambda: tries[-1] == "remote-env control")
    wait_for(lambda: "remote-env emergency stop" not in {t.name for t in threading.enumerate()})


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_a_stop_that_is_pressed_again_stops_again(robot, serve, connect, mode):
    server = serve(robot, mode=mode)
    connect(server.url).reset(seed=1)
    for times in (1, 2, 3):
        emergency_stop(server.url, f"press {times}")
        wait_for(lambda: robot.log.count("stop") == times)  # noqa: B023
    assert server.statistics()["emergency_stop"]["reason"] == "press 1"


def test_a_stop_does_not_wait_for_a_log_that_blocks(robot, serve, connect):
    """A terminal that was stopped with Ctrl-S takes no line."""
    server = serve(robot)
    connect(server.url).reset(seed=1)
    may_log, was_asked = threading.Event(), threading.Event()

    class Frozen(logging.Handler):
        def emit(self, record):
            if record.levelno >= logging.CRITICAL:
                was_asked.set()
                may_log.wait(10)

    handler = Frozen()
    logging.getLogger("remote_env_server").addHandler(handler)
    try:
        pressing = Beside(lambda: emergency_stop(server.url, timeout=10))
        assert was_asked.wait(5)
        wait_for(lambda: "stop" in robot.log, timeout=2.0)
    finally:
        may_log.set()
        pressing.join()
        logging.getLogger("remote_env_server").removeHandler(handler)


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_it_is_told_whether_the_robot_obeyed(robot, serve, connect, mode):
    def fail():
        robot.note("stop")
        raise OSError("the bus is busy")

    def has_obeyed():
        return server.statistics()["emergency_stop"]["obeyed"]

    server = serve(robot, mode=mode)
    connect(server.url).reset(seed=1)
    stop, robot.stop = robot.stop, fail
    with RobotClient(server.url, role="observe") as observer:
        observer.emergency_stop()
        wait_for(lambda: robot.log.count("stop") >= 2)
        assert not has_obeyed()
        robot.stop = stop
        wait_for(has_obeyed)
        robot.stop = fail
        observer.emergency_stop()
        assert not has_obeyed()
        robot.stop = stop
        wait_for(has_obeyed)


def test_a_stop_over_a_link_that_breaks_is_pressed_all_the_same(robot, serve):
    server = serve(robot)
    with FaultProxy(server.url) as proxy:
        # The server's hello comes through, and then the link breaks, once.
        emergency_stop(proxy.url, timeout=5.0)
        passed = proxy.statistics().forwarded_to_client
        proxy.cut_after(passed - 20, Direction.TO_CLIENT)
        emergency_stop(proxy.url, "smoke", timeout=5.0)
    assert server.statistics()["emergency_stop"] is not None


# Steps and holds


@pytest.mark.parametrize(
    "error",
    [errors.EmergencyStopError("its own button"), errors.LeaseError("by somebody else")],
    ids=lambda error: type(error).__name__,
)
def test_the_robot_holds_after_a_reset_that_failed_half_way_whatever_it_raised(
    robot, serve, connect, error
):
    server = serve(robot, mode="realtime")
    env = connect(server.url)
    env.reset(seed=1)
    reset = robot.reset

    def fail(**options):
        reset(**options)
        raise error

    robot.reset = fail
    del robot.log[:]
    with pytest.raises(type(error)):
        env.reset(seed=1)
    assert robot.log[-1] == "hold"
    assert robot.log.index("reset") < len(robot.log) - 1


def test_a_delayed_action_is_not_applied_to_a_robot_that_could_not_hold(robot, serve, connect):
    robot.control_hz = 2.0
    server = serve(robot, mode="delayed")

    def fail():
        robot.note("hold")
        raise OSError("the bus is busy")

    with RobotClient(server.url) as client:
        done = client.reset(seed=1)
        hold, robot.hold = robot.hold, fail
        stepping = Beside(
            lambda: client.step([ONE], episode=done.episode, step=1, tick=done.tick, timeout=5)
        )
        wait_for(lambda: server.statistics()["lease"]["sequence"] == 2)
        time.sleep(0.05)  # until the control thread has it
        server._control.submit(HoldRequest(None))  # as when the link is lost
        stepping.join()
        robot.hold = hold
    assert "apply_action" not in robot.log
    assert isinstance(stepping.error, errors.RobotFaultError)


def test_an_action_that_waited_for_the_robots_code_for_long_is_not_executed(robot, serve, connect):
    server = serve(robot, mode="realtime")
    env = connect(server.url)
    env.reset(seed=1)
    env.step(ONE)
    robot.blocks_in = "hold"  # the watchdog's
    assert robot.is_in.wait(5)
    moved = robot.log.count("apply_action")
    stepping = Beside(lambda: env.step(ONE))
    time.sleep(1.2)  # what is waited for is that this time passes
    robot.may_go.set()
    *_, truncated, info = stepping.join().result
    assert truncated
    assert info["remote"]["invalid_transition"]
    assert "waited" in info["remote"]["end_cause"]
    assert robot.log.count("apply_action") == moved


def test_a_delayed_action_is_not_applied_once_its_learner_is_lost(robot, serve):
    robot.control_hz = 2.0
    server = serve(robot, mode="delayed")
    with FaultProxy(server.url) as proxy, RobotClient(proxy.url) as client:
        done = client.reset(seed=1)
        step = {"episode": done.episode, "step": 1, "tick": done.tick, "timeout": 0.4}
        del robot.log[:]
        stepping = Beside(lambda: client.step([ONE], **step))
        wait_for(lambda: server.statistics()["lease"]["sequence"] == 2)
        proxy.blackhole()
        proxy.reset_connections()
        wait_for(lambda: "hold" in robot.log)
        stepping.join()
        time.sleep(0.6)  # what is waited for is that a tick passes
    assert "apply_action" not in robot.log


def test_a_delayed_action_that_nobody_could_apply_in_time_is_refused(robot, serve, connect):
    robot.control_hz = 20.0
    server = serve(robot, mode="delayed")
    env = connect(server.url)
    env.reset(seed=1)
    robot.blocks_in = "get_obs"  # at the tick, right before it would be applied
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    time.sleep(0.5)  # twice its lifetime
    robot.may_go.set()
    *_, truncated, info = stepping.join().result
    assert truncated
    assert "too old" in info["remote"]["end_cause"]
    assert "apply_action" not in robot.log


# Resets that nobody waits for


class Homing(Machine):
    """Its reset is a servo loop that looks whether anybody waits for it."""

    def reset(self, *, seed=None, options=None):
        self.note("reset")
        until = time.monotonic() + 8
        while time.monotonic() < until:
            if self.is_cancelled:
                self.note("given up")
                return super().reset(seed=seed, options=options)
            time.sleep(0.005)
        self.note("homed")
        return None


def test_a_server_that_stops_ends_the_reset_of_a_robot_and_holds(serve):
    robot = Homing()
    server = serve(robot, mode="realtime")
    with RobotClient(server.url) as client:
        client.connect()
        resetting = Beside(lambda: client.reset(seed=1, timeout=20))
        wait_for(lambda: "reset" in robot.log)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 3.0
        resetting.join()
    assert "given up" in robot.log
    assert robot.log[-1] == "hold"


def test_a_learner_that_returns_the_robot_in_its_reset_ends_that(serve):
    robot = Homing()
    server = serve(robot, mode="realtime")
    with RobotClient(server.url) as client:
        resetting = Beside(lambda: client.reset(seed=1, timeout=20))
        wait_for(lambda: "reset" in robot.log)
        channel = client._channel
        channel.say(Release(channel._connection.next_id()))
        wait_for(lambda: "given up" in robot.log, timeout=5)
        resetting.join()
    assert isinstance(resetting.error, errors.ResetCancelledError)


def test_a_reset_ends_when_its_learner_may_not_resume_any_more(serve, monkeypatch):
    monkeypatch.setattr(core, "RESUME_WITHIN", 0.5)
    robot = Homing()
    server = serve(robot, mode="realtime")
    with FaultProxy(server.url) as proxy:
        client = RobotClient(proxy.url)
        client.connect()
        resetting = Beside(lambda: client.reset(seed=1, timeout=1))
        wait_for(lambda: "reset" in robot.log)
        proxy.blackhole()
        proxy.reset_connections()
        wait_for(lambda: "given up" in robot.log, timeout=5)
        resetting.join()


def test_a_robots_code_that_blocks_at_the_end_is_stopped_beside_it(robot, serve, connect):
    robot.stop_is_thread_safe = True
    server = serve(robot, mode="realtime")
    env = connect(server.url)
    env.reset(seed=1)
    robot.blocks_in = "apply_action"
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    server._control.stop(timeout=0.2)
    assert robot.log[-1] == "stop"
    robot.may_go.set()
    stepping.join()


def test_pressing_often_starts_one_thread(robot, serve, connect):
    robot.stop_is_thread_safe = True
    server = serve(robot, mode="realtime")
    env = connect(server.url)
    env.reset(seed=1)
    robot.blocks_in = "apply_action"
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    for _ in range(5):
        emergency_stop(server.url)
    names = [t.name for t in threading.enumerate()]
    assert names.count("remote-env emergency stop") == 1
    robot.may_go.set()
    stepping.join()
    wait_for(lambda: "remote-env emergency stop" not in [t.name for t in threading.enumerate()])
    robot.may_go.clear()
    robot.is_in.clear()
    del robot.log[:]
    robot.blocks_in = "stop"  # on whichever thread comes first
    emergency_stop(server.url)
    wait_for(lambda: robot.log.count("stop") >= 2)
