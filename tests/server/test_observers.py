"""The server's side of observers, over real connections: what is sent to whom, and when."""

import threading
import time
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from beside import wait_for
from gymnasium import spaces
from sample_robots import Rig
from watching import RawObserver, threads
from wires import waiting_for

from remote_env.errors import AccessDeniedError, ConfigurationError
from remote_env.protocol import EmergencyStop, Observe, Observing, Ping, Pong
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, Mode, Robot
from remote_env_server.observers import MAX_HZ
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

FRAME = 480 * 640 * 3


class Cinema(Robot):
    """A new picture of 0.9 MB for every step, in lockstep."""

    modes: ClassVar = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        super().__init__()
        self.shown = 0

    def camera_configs(self):
        return [CameraConfig("cam", 480, 640), CameraConfig("side", 2, 2, on_request=True)]

    def reset(self):
        self.show()

    def apply_action(self, action):
        self.show()

    def show(self):
        self.shown += 1
        self.update_image("cam", np.full((480, 640, 3), self.shown % 256, np.uint8))
        self.update_image("side", np.zeros((2, 2, 3), np.uint8))


class InPlace(gymnasium.Env):
    """Returns the very same array each time, and may be slow at writing to it."""

    observation_space = spaces.Box(0.0, 1e9, (1000,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.state = np.zeros(1000)
        self.is_half_done = threading.Event()
        self.may_go_on = threading.Event()

    def reset(self, *, seed=None, options=None):
        return self.state, {}

    def step(self, action):
        self.state[:500] += 1
        self.is_half_done.set()
        assert self.may_go_on.wait(10)
        self.state[500:] += 1
        return self.state, 0.0, False, False, {}


# Gymnasium's own checker warns of it.
UNCHECKED = '{"disable_env_checker": true}'
gymnasium.register("InPlace-v0", entry_point=InPlace)


@pytest.fixture
def watch():
    """Make raw observers; closes them at the end of the test."""
    observers = []

    def make(url, *, hz=50.0, streams=None):
        observer = RawObserver(url, streams=streams)
        observers.append(observer)
        assert isinstance(observer.observe(hz=hz), Observing)
        return observer

    yield make
    for observer in observers:
        observer.close()


def observers_of(server):
    return server.statistics()["observers"]


def test_the_first_observation_comes_at_once_from_the_newest_data(serve, watch):
    robot = Rig()
    server = serve(robot)
    wait_for(lambda: robot.images["cam"].any())
    started = time.monotonic()
    seen = watch(server.url, hz=0.1, streams=["cam/image", "joint_pos"]).receive()
    assert time.monotonic() - started < 5, "not a period later"
    assert (seen.episode, seen.step, seen.dropped) == (0, 0, 0)
    assert all(seen.sequences)
    image, joints = seen.observation
    assert image.any()
    assert joints.shape == (3,)
    assert 0 <= seen.time - seen.stamps[0] < 5


@pytest.mark.realtime
def test_an_observer_has_its_own_rate(serve, watch, slowdown):
    server = serve(Rig())
    slow, fast = (watch(server.url, hz=hz, streams=["joint_pos"]) for hz in (5.0, 50.0))
    moments = {slow: [], fast: []}
    ends_at = time.monotonic() + 1.0
    while time.monotonic() < ends_at:
        for observer, times in moments.items():
            if observer.receive(timeout=0.001) is not None:
                times.append(time.monotonic())
    assert 3 / slowdown <= len(moments[slow]) <= 7
    assert 20 / slowdown <= len(moments[fast]) <= 53


def test_only_the_chosen_streams_are_sent_in_the_chosen_order(serve, watch):
    server = serve(Rig())
    seen = watch(server.url, streams=["joint_pos", "cam/depth"]).receive()
    assert [array.shape for array in seen.observation] == [(3,), (24, 32)]
    assert len(seen.sequences) == len(seen.stamps) == 2


def test_nothing_is_sent_before_anything_was_delivered_nor_twice(counter, env, watch):
    observer = watch(counter.server.url)
    assert observer.receive(timeout=0.2) is None
    first, _ = env.reset(seed=3)
    seen = observer.receive()
    assert (seen.episode, seen.step) == (1, 0)
    np.testing.assert_array_equal(seen.observation[0], first["sum"])
    assert observer.receive(timeout=0.2) is None
    second, *_ = env.step(np.ones(2, np.float32))
    seen = observer.receive()
    assert (seen.episode, seen.step) == (1, 1)
    np.testing.assert_array_equal(seen.observation[0], second["sum"])


def test_what_only_the_control_thread_can_make_is_sent_too(serve, connect, watch):
    server = serve(GymnasiumRobot(GymnasiumConfig("CartPole-v1", camera=False)))
    observer = watch(server.url)
    assert observer.receive(timeout=0.1) is None
    env = connect(server.url)
    first, _ = env.reset(seed=1)
    np.testing.assert_array_equal(observer.receive().observation[0], first)
    second, *_ = env.step(1)
    seen = observer.receive()
    np.testing.assert_array_equal(seen.observation[0], second)
    assert (seen.episode, seen.step) == (1, 1)


def test_what_an_environment_is_writing_to_is_not_sent(serve, connect, watch):
    robot = GymnasiumRobot(GymnasiumConfig("InPlace-v0", kwargs=UNCHECKED))
    server = serve(robot)
    env = connect(server.url)
    env.reset()
    assert watch(server.url).receive().step == 0
    simulator = robot._env.unwrapped
    thread = threading.Thread(target=env.step, args=(1,))
    thread.start()
    assert simulator.is_half_done.wait(5)
    seen = watch(server.url).receive()
    simulator.may_go_on.set()
    thread.join()
    assert seen.step == 0
    assert not seen.observation[0].any()


def test_a_stream_on_request_is_rendered_for_an_observer(serve, connect, watch):
    server = serve(GymnasiumRobot(GymnasiumConfig("CartPole-v1")))
    env = connect(server.url)
    env.reset(seed=1)
    observer = watch(server.url, streams=["render/image"])
    assert observer.receive(timeout=0.1) is None
    env.step(1)
    assert observer.receive().observation[0].any()


def test_the_robot_hears_what_observers_watch_and_when_they_left(serve, watch):
    robot = Cinema()
    server = serve(robot)
    one = watch(server.url, streams=["side/image"])
    other = watch(server.url, streams=["cam/image"])
    wait_for(lambda: robot.subscribed == {"side/image", "cam/image"})
    one.close()
    wait_for(lambda: robot.subscribed == {"cam/image"})
    other.close()
    wait_for(lambda: robot.subscribed == frozenset())
    assert observers_of(server)["observers"] == 0


def test_a_stalled_observer_costs_one_frame_and_what_it_misses_is_counted(serve, connect, watch):
    robot = Cinema()
    server = serve(robot)
    env = connect(server.url)
    env.reset()
    with FaultProxy(server.url) as proxy:
        observer = watch(proxy.url, hz=1000.0)
        assert observer.receive() is not None
        proxy.stall(Direction.TO_CLIENT)
        (peer,) = server._session.observers._observers
        largest = 0

        def step_until_dropped():
            nonlocal largest
            env.step(np.zeros(1, np.float32))
            largest = max(largest, waiting_for(peer._sink))
            return observers_of(server)["dropped"] > 20

        wait_for(step_until_dropped, timeout=30)
        assert peer.backlog() > 0
        assert largest <= FRAME + 2000
        proxy.heal()
        newest = env.step(np.zeros(1, np.float32))[0]["cam/image"][0, 0, 0]

        def last_seen():
            seen = observer.receive()
            return seen if seen.observation[0][0, 0, 0] == newest else None

        seen = wait_for(last_seen)
        assert seen.dropped > 20
        wait_for(lambda: peer.backlog() == 0)


def test_everything_due_is_either_sent_or_counted_as_dropped(serve, connect, watch):
    robot = Cinema()
    server = serve(robot)
    env = connect(server.url)
    env.reset()
    with FaultProxy(server.url) as proxy:
        observer = watch(proxy.url, hz=1000.0)
        assert observer.receive().step == 0
        proxy.stall(Direction.TO_CLIENT)
        (state,) = server._session.observers._observers.values()
        for step in range(1, 41):
            env.step(np.zeros(1, np.float32))
            # The hub has looked at this one: sent it, or found no room for it.
            wait_for(lambda step=step: step in {i and i[1] for i in (state.sent, state.waiting)})
        assert state.dropped > 0
        proxy.heal()
        steps = []
        while not steps or steps[-1] < 40:
            seen = observer.receive()
            steps.append(seen.step)
        assert steps == sorted(set(steps))
        assert len(steps) + seen.dropped == 40


def test_one_that_stalls_does_not_hold_up_another(serve, connect, watch):
    server = serve(Cinema())
    env = connect(server.url)
    env.reset()
    with FaultProxy(server.url) as proxy:
        watch(proxy.url, hz=1000.0)
        proxy.stall(Direction.TO_CLIENT)
        healthy = watch(server.url, hz=1000.0)
        for _ in range(30):
            env.step(np.zeros(1, np.float32))
            assert healthy.receive() is not None
    assert observers_of(server)["dropped"] > 0


def trajectory(env, *, between=lambda step: None):
    sums = [env.reset(seed=7)[0]["sum"]]
    for step in range(40):
        between(step)
        sums.append(env.step(np.full(2, 0.1, np.float32))[0]["sum"])
    return np.array(sums)


def test_observers_that_come_and_leave_change_nothing(counter, env, serve, connect):
    alone = trajectory(env)
    url, robot = counter.server.url, counter
    robot.actions.clear()
    crowd = []

    def come_and_leave(step):
        if step < 8:
            crowd.append(RawObserver(url))
            crowd[-1].observe(hz=1000.0)
        elif step >= 32:
            gone = crowd.pop()
            if step % 2:
                gone.close()
            else:
                gone.link.abort()  # without a word

    watched = trajectory(env, between=come_and_leave)
    np.testing.assert_array_equal(watched, alone)
    assert len(robot.actions) == 40
    wait_for(lambda: observers_of(counter.server)["observers"] == 0)


def test_an_observer_is_told_who_commands_and_whether_the_robot_is_stopped(counter, connect, watch):
    env = connect(counter.server.url, owner="Ada")
    env.reset()
    observer = watch(counter.server.url)
    seen = observer.receive()
    assert seen.remote["owner"] == "Ada"
    assert seen.remote["emergency_stop"] is None
    observer.ask(EmergencyStop(observer.connection.next_id(), reason="smoke"))
    seen = observer.receive()
    assert "smoke" in seen.remote["emergency_stop"]


@pytest.mark.parametrize("hz", [0, 0.0, -1.0])
def test_a_rate_that_is_no_rate_is_refused_and_another_can_be_asked_for(counter, env, hz):
    env.reset()
    observer = RawObserver(counter.server.url)
    with pytest.raises(ConfigurationError, match="hz must be positive"):
        observer.observe(hz=hz)
    observer.observe(hz=10)
    assert observer.receive().episode == 1
    observer.close()


def test_who_may_command_cannot_observe_on_the_same_connection(counter):
    observer = RawObserver(counter.server.url, role="control")
    with pytest.raises(AccessDeniedError, match="role='observe'"):
        observer.observe()
    observer.close()


def test_a_rate_beyond_the_limit_is_served_at_the_limit(serve, watch):
    server = serve(Rig())
    observer = watch(server.url, hz=1e12, streams=["joint_pos"])
    for _ in range(3):
        assert observer.receive() is not None
    (state,) = server._session.observers._observers.values()
    assert state.ticks.next_after(state.due)[1] - state.due > 0.9 / MAX_HZ


def test_requests_out_of_band_are_answered_between_observations(serve, watch):
    server = serve(Rig())
    observer = watch(server.url, hz=200.0, streams=["joint_pos"])
    for _ in range(20):
        assert isinstance(observer.ask(Ping(observer.connection.next_id())), Pong)


def test_observing_twice_on_one_connection_breaks_the_protocol(counter, watch):
    observer = watch(counter.server.url)
    observer.connection.state = type(observer.connection.state).READY
    observer.send(Observe(observer.connection.next_id(), hz=1.0))
    answer = observer.receive()
    assert answer.id == 0
    assert "Observe" in answer.message


def test_the_thread_begins_with_the_first_observer_and_ends_with_the_server(serve, watch):
    server = serve(Rig())
    assert not threads("remote-env observers")
    watch(server.url)
    watch(server.url)
    assert len(threads("remote-env observers")) == 1
    server.stop()
    assert not threads("remote-env observers")
