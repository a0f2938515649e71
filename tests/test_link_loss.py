"""A link that breaks: what was asked is executed once, or the learner is told that it is lost."""

import logging
import math
import signal
import threading
import time

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter, Gated

from remote_env import RobotClient, errors
from remote_env.testing import Direction, FaultProxy

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
ONE = np.ones(2, np.float32)


class Machine(Gated):
    """A gated robot that also waits in a reset, and tells how often it was reset."""

    def __init__(self):
        super().__init__()
        self.resets = 0
        self.cancelled = 0
        self.is_homing = False

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.is_in.set()
        try:
            while self.is_homing or not self.may_go.is_set():
                self.progress(0.25, "homing")
                time.sleep(0.002)
        except errors.ResetCancelledError:
            self.cancelled += 1
            raise
        return super().reset(seed=seed, options=options)

    def block(self):
        self.is_in.clear()
        self.may_go.clear()


@pytest.fixture
def robot():
    robot = Machine()
    yield robot
    robot.may_go.set()


@pytest.fixture
def server(robot, serve):
    return serve(robot)


@pytest.fixture
def proxy(server):
    with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def env(proxy, connect):
    return connect(proxy.url, step_timeout=5.0, connect_timeout=2.0, reconnect_timeout=2.0)


def after(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def assert_lost(step, observation, reason="link_lost"):
    again, reward, terminated, truncated, info = step
    assert again["sum"].tolist() == observation["sum"].tolist()
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["remote"]["end_reason"] == reason
    assert info["remote"]["invalid_transition"] is True
    assert info["remote"]["end_cause"]


# Resumed


BREAKS = {
    "rst": FaultProxy.reset_connections,
    "fin": FaultProxy.close_connections,
    "outage": lambda proxy: proxy.outage(0.3),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_an_episode_goes_on_over_links_that_break_between_its_steps(robot, env, proxy, break_it):
    observation, _ = env.reset(seed=1)
    expected = observation["sum"]
    for number in range(1, 6):
        break_it(proxy)
        observation, _, _, truncated, info = env.step(ONE)
        expected = expected + ONE
        assert not truncated
        assert observation["sum"].tolist() == expected.tolist()
        assert info["remote"]["step"] == number
    assert len(robot.actions) == 5
    assert robot.resets == 1
    assert env.statistics().resumptions >= 4


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_a_link_that_breaks_while_the_robot_moves_costs_nothing(robot, env, proxy, break_it):
    before, _ = env.reset(seed=1)
    robot.block()
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    break_it(proxy)
    wait_for(lambda: proxy.statistics().accepted >= 2)
    robot.may_go.set()
    observation, _, _, truncated, _ = stepping.join().result
    assert not truncated
    assert observation["sum"].tolist() == (before["sum"] + 1.0).tolist()
    env.step(ONE)
    assert len(robot.actions) == 2


def test_an_answer_that_was_ready_while_nobody_was_there_is_kept(robot, env, proxy):
    before, _ = env.reset(seed=1)
    robot.block()
    stepping = Beside(lambda: env.step(ONE))
    assert robot.is_in.wait(5)
    proxy.blackhole()
    robot.may_go.set()
    wait_for(lambda: robot.actions)
    after(0.5, proxy.heal)
    observation, _, _, truncated, _ = stepping.join().result
    assert not truncated
    assert observation["sum"].tolist() == (before["sum"] + 1.0).tolist()
    assert len(robot.actions) == 1


def test_a_reset_that_takes_long_outlives_its_links(robot, env, proxy):
    robot.is_homing = True
    resetting = Beside(lambda: env.reset(seed=1, options={"start": 3.0}))
    assert robot.is_in.wait(5)
    for count in (2, 3):
        proxy.reset_connections()
        wait_for(lambda count=count: proxy.statistics().accepted >= count)
    robot.is_homing = False
    _, info = resetting.join().result
    assert info["start"] == 3.0
    assert robot.resets == 1
    assert robot.cancelled == 0
    env.step(ONE)


def test_a_frame_that_comes_twice_over_links_that_break_is_executed_once(robot, env, proxy):
    env.reset(seed=1)
    proxy.duplicate()
    for _ in range(5):
        proxy.reset_connections()
        *_, truncated, _ = env.step(ONE)
        assert not truncated
    assert len(robot.actions) == 5


# Lost


def test_a_robot_that_is_lost_for_good_ends_the_episode_and_reset_finds_it_again(
    robot, proxy, connect
):
    env = connect(proxy.url, step_timeout=0.8, reconnect_timeout=0.5)
    env.reset(seed=1)
    observation, *_ = env.step(ONE)
    as_it_was = {"sum": observation["sum"].copy()}
    observation["sum"][:] = np.nan  # it is the caller's own
    proxy.blackhole()
    assert_lost(env.step(ONE), as_it_was)
    with pytest.raises(errors.EpisodeOverError, match=r"after 1 steps .link_lost.*env.reset\(\)"):
        env.step(ONE)
    with pytest.raises(errors.TransportError):
        env.reset()
    proxy.heal()
    env.reset(seed=1)
    *_, truncated, _ = env.step(ONE)
    assert not truncated
    assert len(robot.actions) == 2


@pytest.mark.realtime
@pytest.mark.parametrize("step_timeout", [0.5, 0.62, 0.8, 1.2])
def test_a_link_that_is_lost_until_the_deadline_is_no_robot_that_is_busy(
    proxy, connect, step_timeout
):
    env = connect(proxy.url, step_timeout=step_timeout)
    observation, _ = env.reset(seed=1)
    proxy.blackhole()
    assert_lost(env.step(ONE), observation)


@pytest.mark.realtime
@pytest.mark.parametrize("step_timeout", [0.1, 0.5, 0.9])
def test_a_robot_that_is_busy_until_the_deadline_is_no_link_that_is_lost(
    robot, proxy, connect, step_timeout
):
    env = connect(proxy.url, step_timeout=step_timeout)
    env.reset(seed=1)
    robot.block()
    with pytest.raises(errors.DeadlineExceededError, match="the connection stands"):
        env.step(ONE)


def test_a_robot_that_is_lost_is_an_error_if_that_was_asked_for(robot, proxy, connect):
    env = connect(proxy.url, step_timeout=0.8, on_link_loss="raise")
    env.reset(seed=1)
    proxy.blackhole()
    with pytest.raises(errors.ConnectionLostError, match="could not resume"):
        env.step(ONE)
    with pytest.raises(errors.EpisodeOverError, match="link_lost"):
        env.step(ONE)
    proxy.heal()
    env.reset(seed=1)
    env.step(ONE)


def test_a_machine_on_which_nothing_listens_any_more_is_given_up_early(connect, serve, slowdown):
    server = serve(Machine())
    with FaultProxy(server.url) as proxy:
        env = connect(proxy.url, step_timeout=30.0)
        observation, _ = env.reset(seed=1)
    started = time.monotonic()
    assert_lost(env.step(ONE), observation)
    assert time.monotonic() - started < 1.0 + 2.0 * slowdown


def test_a_server_that_is_started_again_knows_nothing_of_the_episode(connect, serve, slowdown):
    first, second = serve(Machine()), serve(Machine())
    with FaultProxy(first.url) as proxy:
        env = connect(proxy.url, step_timeout=30.0)
        observation, _ = env.reset(seed=1)
        proxy.reset_connections()
        proxy._loop._target = _address(second)
        started = time.monotonic()
        step = env.step(ONE)
        assert_lost(step, observation)
        assert "does not know this session" in step[-1]["remote"]["end_cause"]
        assert time.monotonic() - started < 1.0 * slowdown
        env.reset(seed=1)
        env.step(ONE)


def _address(server):
    host, _, port = server.url.removeprefix("ws://").rpartition(":")
    return host, int(port)


# Late, in real time


class Slow(Machine):
    """Its actions live for 0.5 s."""

    control_hz = 10.0


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_an_action_that_was_held_up_for_too_long_is_not_executed(serve, connect, mode, slowdown):
    robot = Slow()
    with FaultProxy(serve(robot, mode=mode).url) as proxy:
        env = connect(proxy.url, step_timeout=20.0)
        env.reset(seed=1)
        observation, *_ = env.step(ONE)
        proxy.stall(TO_SERVER)  # nothing is lost: all of it comes, and too late
        after(1.5 * slowdown, proxy.heal)
        assert_lost(env.step(ONE), observation)
        assert len(robot.actions) == 1
        assert robot.holds
        env.reset(seed=1)
        *_, truncated, _ = env.step(ONE)
        assert not truncated
        assert len(robot.actions) == 2


@pytest.mark.realtime
def test_an_action_that_is_asked_for_again_too_late_is_not_executed(serve, connect):
    robot = Machine()  # its actions live for 0.1 s: it is late before it counts as silent
    with FaultProxy(serve(robot, mode="realtime").url) as proxy:
        env = connect(proxy.url, step_timeout=20.0)
        env.reset(seed=1)
        observation, *_ = env.step(ONE)
        proxy.cut_after(10, TO_SERVER)
        proxy.refuse()
        after(0.4, proxy.heal)
        assert_lost(env.step(ONE), observation)
        assert len(robot.actions) == 1


@pytest.mark.realtime
def test_an_action_whose_link_broke_is_executed_if_it_comes_in_time(serve, connect):
    robot = Slow()
    with FaultProxy(serve(robot, mode="realtime").url) as proxy:
        env = connect(proxy.url, step_timeout=20.0)
        env.reset(seed=1)
        env.step(ONE)
        proxy.cut_after(10, TO_SERVER)
        *_, truncated, _ = env.step(ONE)
        assert not truncated
        assert env.statistics().resumptions == 1
        assert len(robot.actions) == 2


@pytest.mark.realtime
def test_an_action_whose_answer_was_lost_is_not_executed_again(serve, connect):
    robot = Slow()
    with FaultProxy(serve(robot, mode="realtime").url) as proxy:
        env = connect(proxy.url, step_timeout=20.0)
        env.reset(seed=1)
        first, *_ = env.step(ONE)
        proxy.cut_after(10, TO_CLIENT)
        second, _, _, truncated, _ = env.step(ONE)
        assert not truncated
        assert second["sum"].tolist() == (first["sum"] + 1.0).tolist()
        assert len(robot.actions) == 2


@pytest.mark.realtime
def test_a_learner_that_thought_for_long_is_not_late(serve, connect):
    robot = Slow()
    with FaultProxy(serve(robot, mode="realtime").url) as proxy:
        env = connect(proxy.url)
        env.reset(seed=1)
        env.step(ONE)
        time.sleep(1.3)
        *_, truncated, info = env.step(ONE)
        assert not truncated
        assert info["remote"]["held"] > 0.5
        proxy.reset_connections()
        time.sleep(1.3)  # nobody noticed: then it resumes first
        *_, truncated, info = env.step(ONE)
        assert not truncated
        assert len(robot.actions) == 3


# Damage


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT], ids=["to_server", "to_client"])
@pytest.mark.parametrize("offset", [0, 1, 5, 9, 11, 18, 24, 25, 27, 30, 33, 50, 80, 120, 150])
def test_damage_executes_nothing_twice(robot, proxy, connect, direction, offset):
    env = connect(proxy.url, step_timeout=3.0, reconnect_timeout=5.0)
    env.reset(seed=1)
    env.step(ONE)
    proxy.corrupt(offset, direction, bit=1)
    try:
        *_, truncated, info = env.step(ONE)
    except errors.RemoteEnvError:
        least = 0
    else:
        least = 0 if truncated else 1
        assert info["remote"]["step"] == (2 if not truncated else 1)
    assert least <= len(robot.actions) - 1 <= 1
    proxy.heal()
    env.reset(seed=1)
    moved = len(robot.actions)
    *_, truncated, _ = env.step(ONE)
    assert not truncated
    assert len(robot.actions) == moved + 1


# Giving up


@pytest.fixture
def press_ctrl_c_once():
    """Interrupt the main thread as soon as something is so."""
    # A shell starts what runs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield _press_ctrl_c_once
    signal.signal(signal.SIGINT, before)


def _press_ctrl_c_once(is_ready):
    def wait_and_press():
        wait_for(is_ready)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    return Beside(wait_and_press)


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_ctrl_c_in_a_step_leaves_nothing_behind(robot, serve, connect, press_ctrl_c_once, mode):
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.reset(seed=1)
    robot.block()
    pressing = press_ctrl_c_once(robot.is_in.is_set)
    with pytest.raises(KeyboardInterrupt):
        env.step(ONE)
    pressing.join()
    wait_for(lambda: server.statistics()["lease"]["owner"] is None)
    robot.may_go.set()
    wait_for(lambda: robot.actions)
    wait_for(lambda: mode == "lockstep" or robot.holds)
    wait_for(lambda: server.statistics()["connections"] == 0)
    env.reset(seed=1)
    *_, truncated, _ = env.step(ONE)
    assert not truncated
    assert len(robot.actions) == 2


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_ctrl_c_in_a_reset_gives_it_up(robot, serve, connect, press_ctrl_c_once, mode):
    server = serve(robot, mode=mode)
    env = connect(server.url)
    robot.is_homing = True
    pressing = press_ctrl_c_once(robot.is_in.is_set)
    with pytest.raises(KeyboardInterrupt):
        env.reset(seed=1)
    pressing.join()
    wait_for(lambda: robot.cancelled)
    wait_for(lambda: server.statistics()["lease"]["owner"] is None)
    robot.is_homing = False
    env.reset(seed=1)
    env.step(ONE)
    assert robot.resets == 2


def test_a_reset_is_cancelled_from_another_thread_and_the_session_goes_on(robot, server):
    robot.is_homing = True
    with RobotClient(server.url) as client:
        resetting = Beside(lambda: client.reset(seed=1))
        assert robot.is_in.wait(5)
        client.cancel_reset()
        resetting.join()
        assert isinstance(resetting.error, errors.ResetCancelledError)
        assert robot.cancelled == 1
        assert client.is_connected
        assert server.statistics()["connections"] == 1
        robot.is_homing = False
        client.reset(seed=1)
        assert robot.resets == 2


def test_a_reset_is_cancelled_although_the_link_is_down(robot, proxy):
    robot.is_homing = True
    with RobotClient(proxy.url) as client:
        resetting = Beside(lambda: client.reset(seed=1))
        assert robot.is_in.wait(5)
        proxy.blackhole()
        client.cancel_reset()
        time.sleep(0.3)  # until it was said, to nobody
        proxy.heal()
        resetting.join()
        assert isinstance(resetting.error, errors.ResetCancelledError)
        assert robot.cancelled == 1
        assert client.is_connected


def test_a_cancel_that_comes_too_late_cancels_no_later_reset(robot, server):
    with RobotClient(server.url) as client:
        client.reset(seed=1)
        client.cancel_reset()
        client.reset(seed=1)
        assert robot.cancelled == 0


# Progress


class Told(Counter):
    """Tells how far it is, and waits until it was heard."""

    def __init__(self, told, heard):
        super().__init__()
        self._told, self._heard = told, heard

    def reset(self, *, seed=None, options=None):
        for count, (fraction, text) in enumerate(self._told, 1):
            deadline = time.monotonic() + 5
            # Ten times a second at most; what comes between is left out.
            while len(self._heard) < count and time.monotonic() < deadline:
                self.progress(fraction, text)
                time.sleep(0.005)
        return super().reset(seed=seed)


def test_a_reset_tells_how_far_it_is(serve):
    heard = []
    told = [(0.0, "brakes"), (0.5, "homing, größtenteils"), (math.nan, "?")]
    server = serve(Told(told, heard))
    with RobotClient(server.url) as client:
        client.reset(on_progress=lambda *said: heard.append(said))
    assert repr(heard[:3]) == repr(told)


def test_progress_is_logged_if_nobody_else_wants_it(serve, connect, caplog):
    caplog.set_level(logging.INFO, "remote_env.client")

    class Logged(list):
        def __len__(self):
            return sum("homing" in r.getMessage() for r in caplog.records)

    connect(serve(Told([(0.5, "homing")], Logged())).url).reset()
    assert "50% homing" in caplog.text


def test_what_a_callback_raises_ends_the_reset_and_the_robot_gives_it_up(robot, server):
    robot.is_homing = True

    def complain(fraction, text):
        raise ZeroDivisionError(text)

    with RobotClient(server.url) as client:
        with pytest.raises(ZeroDivisionError, match="homing"):
            client.reset(on_progress=complain)
        wait_for(lambda: robot.cancelled)
        assert not client.is_connected
        robot.is_homing = False
        client.connect()
        client.reset(seed=1)
