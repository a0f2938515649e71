"""Every call ends by its own timeout: the robot is lost half-way, or another call is going on."""

import dataclasses
import logging
import threading
import time

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter

import remote_env
from remote_env import RobotClient, errors
from remote_env.testing import Direction, FaultProxy

ONE = np.ones(2, np.float32)


@pytest.fixture
def proxy(serve):
    with FaultProxy(serve(Counter()).url) as proxy:
        yield proxy


@pytest.mark.realtime
def test_a_reset_of_a_robot_that_is_lost_ends_by_its_timeout(proxy, connect, slowdown):
    env = connect(proxy.url, reset_timeout=1.0)
    env.reset()
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(remote_env.TransportError):
        env.reset()
    assert time.monotonic() - began < 1.0 + 0.08 * slowdown


@pytest.mark.realtime
def test_connecting_and_subscribing_share_one_timeout(proxy, connect, slowdown):
    with remote_env.RobotClient(proxy.url):
        welcomed = proxy.statistics().forwarded_to_client
    proxy.set_latency(0.15, Direction.TO_CLIENT)
    proxy.cut_after(welcomed, Direction.TO_CLIENT, how="blackhole")
    began = time.monotonic()
    with pytest.raises(remote_env.TransportError):
        connect(proxy.url, connect_timeout=0.5)
    assert time.monotonic() - began < 0.5 + 0.2 * slowdown


class Homing(Counter):
    """Homes until it is let go, or nobody wants it any more."""

    def __init__(self):
        super().__init__()
        self.is_in = threading.Event()
        self.may_go = threading.Event()
        self.resets = self.cancelled = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.is_in.set()
        try:
            while not self.may_go.is_set():
                self.progress(0.25, "homing")
                time.sleep(0.002)
        except errors.ResetCancelledError:
            self.cancelled += 1
            raise
        return super().reset(seed=seed, options=options)


@pytest.fixture
def robot():
    robot = Homing()
    yield robot
    robot.may_go.set()


@pytest.fixture
def client(robot, serve):
    robot.server = serve(robot)
    with RobotClient(robot.server.url) as client:
        yield client


# Several threads


CALLS = {
    "ping": lambda client: client.ping(timeout=0.3),
    "emergency_stop": lambda client: client.emergency_stop(timeout=0.3),
    "robot_statistics": lambda client: client.robot_statistics(timeout=0.3),
    "reset": lambda client: client.reset(timeout=0.3),
}


@pytest.mark.realtime
@pytest.mark.parametrize("name", CALLS)
def test_a_call_waits_for_the_one_of_another_thread_no_longer_than_its_timeout(
    robot, client, slowdown, name
):
    resetting = Beside(lambda: client.reset(seed=1))
    assert robot.is_in.wait(5)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError, match=rf"{name}\(\) had no turn .*reset\(\)"):
        CALLS[name](client)
    assert time.monotonic() - began < 0.3 + 0.1 * slowdown
    robot.may_go.set()
    assert resetting.join().error is None
    assert client.is_connected
    client.ping()


@pytest.mark.realtime
def test_closing_ends_the_reset_of_another_thread_and_the_robot_gives_it_up(
    robot, client, slowdown
):
    resetting = Beside(lambda: client.reset(seed=1))
    assert robot.is_in.wait(5)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 2.0 + 0.1 * slowdown
    resetting.join()
    assert isinstance(resetting.error, errors.ConnectionLostError)
    assert "close()" in str(resetting.error)
    assert not client.is_connected
    wait_for(lambda: robot.cancelled == 1)
    wait_for(lambda: robot.server.statistics()["lease"]["owner"] is None)
    robot.may_go.set()
    client.connect()  # and it can be used again
    client.reset(seed=1)


@pytest.mark.realtime
def test_closing_does_not_wait_for_a_callback_that_hangs(robot, client, slowdown):
    hangs = threading.Event()
    is_in = threading.Event()

    def hang(fraction, text):
        is_in.set()
        hangs.wait(20)

    resetting = Beside(lambda: client.reset(seed=1, on_progress=hang))
    assert is_in.wait(5)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 2.0 + 0.1 * slowdown
    hangs.set()
    assert isinstance(resetting.join().error, errors.ConnectionLostError)
    assert not client.is_connected


@pytest.mark.realtime
def test_an_environment_that_is_closed_in_the_middle_of_a_reset_does_not_begin_anew(
    robot, serve, connect
):
    server = serve(robot)
    env = connect(server.url)
    resetting = Beside(lambda: env.reset(seed=1))
    assert robot.is_in.wait(5)
    env.close()
    robot.may_go.set()
    assert isinstance(resetting.join().error, errors.ConnectionLostError)
    assert robot.resets == 1
    wait_for(lambda: server.statistics()["connections"] == 0)


@pytest.mark.parametrize(
    "call", [lambda c: c.robot_statistics(), lambda c: c.reset()], ids=["statistics", "reset"]
)
def test_a_call_from_a_callback_is_refused_and_swallows_no_answer(robot, client, call):
    refused = []

    def call_back(fraction, text):
        with pytest.raises(errors.LocalProtocolError, match=r"in the middle of reset\(\)") as error:
            call(client)
        refused.append(error)
        robot.may_go.set()

    client.reset(seed=1, on_progress=call_back, timeout=10.0)
    assert refused
    assert client.is_connected
    client.ping()


def test_what_a_callback_raises_of_our_own_errors_ends_the_reset_too(robot, client):
    def complain(fraction, text):
        raise errors.ConnectFailedError("another robot")

    with pytest.raises(errors.ConnectFailedError, match="another robot"):
        client.reset(on_progress=complain)
    wait_for(lambda: robot.cancelled)
    assert not client.is_connected


def test_closing_from_a_callback_ends_the_reset(robot, client):
    with pytest.raises(errors.ConnectionLostError, match=r"close\(\)"):
        client.reset(on_progress=lambda fraction, text: client.close(), timeout=10.0)
    wait_for(lambda: robot.cancelled)
    assert not client.is_connected


def test_a_reset_that_is_cancelled_while_it_waits_for_the_lease_does_not_begin(robot, client):
    robot.may_go.set()
    client.reset(seed=1)
    other = RobotClient(client.url)
    make_hello = other._channel._make_hello
    other._channel._make_hello = lambda **which: dataclasses.replace(
        make_hello(**which), process="another"
    )
    other.connect()
    refused = threading.Event()
    request = other._channel.request

    def note(make, *, timeout):
        try:
            return request(make, timeout=timeout)
        except errors.LeaseError:
            refused.set()
            raise

    other._channel.request = note
    resetting = Beside(lambda: other.reset(seed=1))
    assert refused.wait(5)
    other.cancel_reset()
    client.close()  # returns the lease
    resetting.join()
    other.close()
    assert isinstance(resetting.error, errors.ResetCancelledError)
    assert robot.resets == 1


# Links


@pytest.mark.realtime
@pytest.mark.parametrize("step_timeout", [0.05, 0.15, 0.25])
def test_a_short_timeout_is_enough_to_find_a_link_lost(proxy, connect, step_timeout):
    env = connect(proxy.url, step_timeout=step_timeout)
    env.reset()
    proxy.blackhole()
    *_, truncated, info = env.step(ONE)
    assert truncated
    assert info["remote"]["end_reason"] == "link_lost"


@pytest.mark.realtime
def test_who_does_not_know_whether_the_link_stands_does_not_say_so(serve, connect):
    class Stuck(Counter):
        def apply_action(self, action):
            is_in.set()
            may_go.wait(20)

    is_in, may_go = threading.Event(), threading.Event()
    with FaultProxy(serve(Stuck()).url) as proxy:
        env = connect(proxy.url, step_timeout=0.36)
        env.reset()
        stepping = Beside(lambda: env.step(ONE))
        assert is_in.wait(5)
        time.sleep(0.11)  # a ping came back, and after 0.3 s of silence the link is lost
        proxy.blackhole()
        error = stepping.join().error
        may_go.set()
        proxy.heal()
    assert isinstance(error, errors.DeadlineExceededError)
    assert "the connection stands" not in str(error)
    assert "link was just lost" in str(error)


@pytest.mark.realtime
def test_a_reset_looks_for_a_lost_robot_for_its_reconnect_timeout_and_says_so(
    proxy, connect, caplog, slowdown
):
    env = connect(proxy.url, reset_timeout=20.0, reconnect_timeout=1.5)
    env.reset()
    proxy.blackhole()
    began = time.monotonic()
    with pytest.raises(errors.ConnectionLostError):
        env.reset()
    assert 1.5 <= time.monotonic() - began < 1.5 + 0.7 + 0.5 * slowdown  # 0.7 to notice
    told = [r for r in caplog.records if "looking for" in r.getMessage()]
    assert [r.levelno for r in told] == [logging.WARNING]


@pytest.mark.realtime
@pytest.mark.parametrize("ends", ["session", "link"])
def test_a_robot_whose_link_became_slow_is_found_again(proxy, connect, ends):
    env = connect(proxy.url, step_timeout=0.8 if ends == "session" else 20.0)
    env.reset()
    env.step(ONE)
    if ends == "session":
        proxy.blackhole()
        *_, truncated, _ = env.step(ONE)
        assert truncated
        proxy.heal()
    else:
        proxy.reset_connections()
    proxy.set_latency(0.35)  # a round trip over two satellites
    env._step_timeout = 20.0
    began = time.monotonic()
    if ends == "session":
        env.reset()
    *_, truncated, _ = env.step(ONE)
    assert not truncated
    assert time.monotonic() - began < 15.0


@pytest.mark.realtime
def test_a_lost_link_is_noticed_soon_also_after_a_long_wait_on_a_slow_one(serve, slowdown):
    class Silent(Counter):
        def reset(self, *, seed=None, options=None):
            is_in.set()
            may_go.wait(20)
            return super().reset(seed=seed, options=options)

    is_in, may_go = threading.Event(), threading.Event()
    with FaultProxy(serve(Silent()).url) as proxy:
        proxy.set_latency(0.13)  # a round trip takes longer than from one ping to the next
        with RobotClient(proxy.url) as client:
            resetting = Beside(lambda: client.reset(seed=1, reconnect_timeout=0.3))
            assert is_in.wait(5)
            time.sleep(3.0)
            proxy.blackhole()
            began = time.monotonic()
            resetting.join()
            may_go.set()
            assert isinstance(resetting.error, errors.ConnectionLostError)
            assert time.monotonic() - began < 2.0 + 1.0 * slowdown


@pytest.mark.realtime
def test_a_late_answer_to_a_ping_of_the_call_before_tells_nothing_wrong_of_the_clock(serve):
    class Slow(Counter):
        def apply_action(self, action):
            time.sleep(0.25)  # the pong of the second ping comes after the answer
            super().apply_action(action)

    with FaultProxy(serve(Slow()).url) as proxy, RobotClient(proxy.url) as client:
        client.subscribe(["sum"])
        proxy.set_latency(0.25, Direction.TO_CLIENT)
        done = client.reset(seed=1)
        for step in range(1, 6):
            done = client.step([ONE], episode=done.episode, step=step, tick=done.tick, timeout=5.0)
            offset, error = client.age_of(time.monotonic())  # one machine, one clock
            assert abs(offset) <= error + 0.001
