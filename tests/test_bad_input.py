"""Every way to hold it wrong: a clear error that says what to do, and nothing is lost."""

import contextlib
import gc
import logging
import multiprocessing
import socket
import struct
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sample_robots import Counter, Limited, Rig
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosedError
from wires import server_sockets

import remote_env
from remote_env import errors
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, Mode, Outcome, ProprioConfig, Robot, RobotServer
from remote_env_server.logs import wait_for_logs
from remote_env_server.robots import make_robot

# How it fails: a clear error, and nothing is lost


def test_an_unknown_host_is_named(connect):
    with pytest.raises(errors.ConnectFailedError, match="robot.invalid"):
        connect("ws://robot.invalid:8765")


@pytest.mark.parametrize(
    "url",
    [
        "robot:8765",
        "http://robot",
        "ws://",
        "",
        "ws:/robot",
        "ws://h:abc",
        "ws://h:99999",
        "ws://[::1",
    ],
)
def test_a_malformed_url_is_refused_with_an_example(url, connect):
    with pytest.raises(errors.ConfigurationError, match=r"ws://robot.local:8765|no WebSocket addr"):
        connect(url)


def test_a_port_where_nothing_listens_says_how_to_start_a_robot(connect):
    with pytest.raises(errors.ConnectFailedError, match="remote-env serve NAME"):
        connect("ws://127.0.0.1:9")


def test_a_port_that_never_answers_is_given_up_in_time(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(errors.ConnectFailedError, match=r"no answer from .* within 0.3 s"):
            connect(url, connect_timeout=0.3)


def test_a_connection_that_is_reset_within_the_handshake_has_failed(connect, monkeypatch):
    # The plain path is not provoked: it depends on which of the library's threads sees it first.
    def fail(*args, sock, **options):
        sock.close()
        raise ConnectionClosedError(None, None)

    monkeypatch.setenv("REMOTE_ENV_FAST", "0")
    monkeypatch.setattr("remote_env.transport.connecting.websocket_connect", fail)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(errors.ConnectFailedError, match="takes the connection and drops it"),
    ):
        connect(f"ws://127.0.0.1:{server.getsockname()[1]}")


def test_a_connection_that_is_reset_instead_of_an_answer_has_failed(connect):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop():
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        dropping = threading.Thread(target=drop)
        dropping.start()
        with pytest.raises(errors.ConnectFailedError, match="takes the connection and drops it"):
            connect(f"ws://127.0.0.1:{server.getsockname()[1]}")
        dropping.join()


def test_another_websocket_server_is_recognised(connect):
    import asyncio

    port, done, loop = [], threading.Event(), asyncio.new_event_loop()

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def main():
        async with serve_websocket(echo, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            done.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    done.wait(5)
    try:
        with pytest.raises(errors.ConnectFailedError, match="does not speak remote-robot-env"):
            connect(f"ws://127.0.0.1:{port[0]}")
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_step_before_reset_says_what_to_do(env):
    with pytest.raises(errors.LocalProtocolError, match=r"call env.reset\(\) first"):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3, np.float32), r"must have the shape \(2,\), not \(3,\)"),
        (np.zeros((1, 2), np.float32), r"not \(1, 2\)"),
        (1.0, r"not \(\)"),
        ("left", "shape"),
        (np.array(["a", "b"]), "must be float32"),
        (np.array([np.nan, 0], np.float32), "NaN or infinity"),
        (np.array([np.inf, 0], np.float32), "NaN or infinity"),
        (np.array([1e300, 0.0]), "NaN or infinity"),
        (np.array([0, 1.5], np.float32), "out of bounds"),
    ],
)
def test_a_bad_action_is_refused_and_the_episode_goes_on(action, message, counter, env):
    before, _ = env.reset(seed=1)
    with pytest.raises(errors.ActionRefusedError, match=message):
        env.step(action)
    assert counter.actions == []
    after, *_ = env.step(np.array([1.0, 0.0], np.float32))
    assert after["sum"].tolist() == [before["sum"][0] + 1.0, before["sum"][1]]


def test_an_unknown_reset_option_is_refused_and_names_those_there_are(env):
    with pytest.raises(errors.UnknownOptionError, match=r"'begin' is not known.*'start'"):
        env.reset(options={"begin": 1})


def test_an_unknown_stream_is_refused_and_names_those_there_are(counter, connect):
    with pytest.raises(errors.ConfigurationError, match="no stream 'wrist'; it offers 'sum'"):
        connect(counter.server.url, streams=["wrist"])


def test_a_step_after_the_end_says_why_it_ended(serve, connect):
    env = connect(serve(Limited()).url)
    env.reset(seed=1)
    for _ in range(3):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(errors.EpisodeOverError, match=r"after 3 steps \(time_limit\)"):
        env.step(np.zeros(2, np.float32))
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))


class Broken(Counter):
    def apply_action(self, action):
        raise OSError("motor 3 does not answer")


def test_an_exception_of_the_driver_reaches_the_learner_and_the_server_lives(serve, connect):
    env = connect(serve(Broken()).url)
    env.reset(seed=1)
    with pytest.raises(errors.RobotFaultError, match="OSError: motor 3 does not answer"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(errors.EpisodeOverError):
        env.step(np.zeros(2, np.float32))
    env.reset(seed=1)


class NoReset(Counter):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("the arm is locked")


def test_a_reset_that_fails_can_be_tried_again(serve, connect):
    env = connect(serve(NoReset()).url)
    with pytest.raises(errors.RobotFaultError, match="the arm is locked"):
        env.reset()
    with pytest.raises(errors.RobotFaultError, match="the arm is locked"):
        env.reset()


def test_a_camera_that_never_delivers_makes_reset_fail_with_its_name(serve, connect):
    server = serve(Rig(publishes=False), sensor_timeout=0.2)
    with pytest.raises(errors.SensorError, match="'cam/image' .and 1 more. did not deliver once"):
        connect(server.url).reset()
    observation, _ = connect(server.url, streams=["joint_pos"]).reset()
    assert list(observation) == ["joint_pos"]


class Forgetful(Counter):
    def camera_configs(self):
        return [CameraConfig("cam", 4, 4)]


def test_in_lockstep_too_a_camera_that_was_never_published_is_named(serve, connect):
    with pytest.raises(errors.SensorError, match="'cam/image' did not deliver once after"):
        connect(serve(Forgetful()).url).reset()


class DeadSensor(Rig):
    def read_camera(self):
        raise ConnectionError("USB gone")


def test_a_sensor_thread_that_raises_is_reported_with_its_exception(serve, connect):
    with pytest.raises(errors.SensorError, match="sensor 'cam' failed: ConnectionError: USB gone"):
        connect(serve(DeadSensor(), sensor_timeout=1.0).url).reset()


class Unserializable(Counter):
    def outcome(self, observation):
        return Outcome(info={"good": 1, "bad": object(), "nested": {"fine": 2, "lock": set()}})


def test_info_that_the_wire_cannot_carry_is_dropped_and_named_once(serve, connect, caplog):
    env = connect(serve(Unserializable()).url)
    env.reset(seed=1)
    with caplog.at_level(logging.WARNING):
        infos = [env.step(np.zeros(2, np.float32))[4] for _ in range(3)]
    assert [{k: v for k, v in i.items() if k != "remote"} for i in infos] == [
        {"good": 1, "nested": {"fine": 2}}
    ] * 3
    wait_for_logs()
    assert sum("info['bad']" in r.message for r in caplog.records) == 1
    assert sum("info['nested/lock']" in r.message for r in caplog.records) == 1


def test_a_server_that_stops_ends_the_episode_and_reset_finds_its_successor(connect):
    with RobotServer(Counter(), port=0) as first:
        env = connect(first.url)
        before, _ = env.reset(seed=1)
        port = int(first.url.rpartition(":")[2])
    after, reward, terminated, truncated, info = env.step(np.ones(2, np.float32))
    assert after["sum"].tolist() == before["sum"].tolist()
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["remote"]["end_reason"] == "server_shutdown"
    assert "said goodbye" in info["remote"]["end_cause"]
    assert info["remote"]["invalid_transition"] is True
    with pytest.raises(errors.RemoteEnvError, match=r"reset\(\)"):
        env.step(np.zeros(2, np.float32))
    with RobotServer(Counter(), port=port):
        env.reset(seed=1)
        env.step(np.zeros(2, np.float32))


def test_a_server_that_stops_is_a_lost_connection_if_that_is_what_was_asked_for(connect):
    with RobotServer(Counter(), port=0) as server:
        env = connect(server.url, on_link_loss="raise")
        env.reset(seed=1)
    with pytest.raises(errors.ConnectionLostError, match="said goodbye"):
        env.step(np.zeros(2, np.float32))


def test_reset_reconnects_although_nobody_had_noticed_the_loss(connect):
    with RobotServer(Counter(), port=0) as first:
        env = connect(first.url)
        env.reset(seed=1)
        port = int(first.url.rpartition(":")[2])
    with RobotServer(Counter(), port=port):
        env.reset(seed=1)
        env.step(np.zeros(2, np.float32))


def test_a_reset_whose_connection_breaks_is_asked_again_and_executed_once(serve, connect):
    resets = []

    class Breaking(Counter):
        def reset(self, *, seed=None, options=None):
            resets.append(seed)
            for sock in server_sockets(server):
                sock.shutdown(socket.SHUT_RDWR)
            return super().reset(seed=seed, options=options)

    server = serve(Breaking())
    env = connect(server.url)
    observation, info = env.reset(seed=1, options={"start": 2.0})
    assert resets == [1]
    assert info["start"] == 2.0
    assert env.statistics().resumptions == 1
    after, *_ = env.step(np.array([0.25, 0.0], np.float32))
    assert after["sum"].tolist() == (observation["sum"] + [0.25, 0.0]).tolist()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_client_made_before_a_fork_can_connect_after_it(counter):
    client = remote_env.RobotClient(counter.server.url)
    here, there = multiprocessing.Pipe()

    def child():
        there.send(client.connect().name)
        client.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert here.poll(10)
    assert here.recv() == "Counter"
    process.join(10)


def test_an_environment_that_is_dropped_returns_its_lease(serve):
    server = serve(Counter())
    env = remote_env.RemoteRobotEnv(server.url)
    env.reset(seed=1)
    time.sleep(0.6)  # the keeper has seen it
    del env
    gc.collect()
    deadline = time.monotonic() + 5
    while server._session._core.lease.holder is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server._session._core.lease.holder is None


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_leaves_its_parents_environment_alone(env):
    env.reset(seed=1)
    here, there = multiprocessing.Pipe()

    def child():
        try:
            env.step(np.zeros(2, np.float32))
        except errors.LocalProtocolError as error:
            there.send(str(error))
        env.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert here.poll(10)
    assert "make the environment in the process that uses it" in here.recv()
    process.join(10)
    assert process.exitcode == 0
    env.step(np.zeros(2, np.float32))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["close", "step"])
def test_a_fork_in_the_middle_of_a_heartbeat_does_not_wait_for_its_end(env, call):
    env.reset(seed=1)
    calls = {"close": env.close, "step": lambda: env.step(np.zeros(2, np.float32))}

    def child():
        with contextlib.suppress(errors.LocalProtocolError):
            calls[call]()

    is_held, may_go = threading.Event(), threading.Event()

    def beat():
        with env._client._turns.lend():  # as the keeper does while it sends
            is_held.set()
            may_go.wait(20)

    beating = threading.Thread(target=beat)
    beating.start()
    assert is_held.wait(5)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(5)
    may_go.set()
    beating.join()
    assert process.exitcode == 0
    env.step(np.zeros(2, np.float32))


def test_a_client_that_connects_again_and_again_leaves_nothing_behind(counter):
    client = remote_env.RobotClient(counter.server.url)
    client.connect()
    before = len(weakref.finalize._registry)
    for _ in range(5):
        client._channel.drop()  # as a call does that ends without its answer
        client.connect()
    assert len(weakref.finalize._registry) == before
    client.close()


def test_another_session_begins_without_a_clock(counter):
    """The robot's computer may have been started again, and its monotonic clock with it."""
    with remote_env.RobotClient(counter.server.url) as client:
        client.reset(seed=1)
        assert client.statistics().clock is not None
        client._channel.drop()
        client.connect()
        assert client.statistics().clock is None


def test_the_robots_own_code_runs_on_no_network_thread_for_statistics(serve):
    class Own(Counter):
        def make_obs(self, timestamp=None):
            self.threads.add(threading.current_thread().name)
            return super().make_obs(timestamp)

    robot = Own()
    server = serve(robot)
    with remote_env.RobotClient(server.url) as client:
        client.reset(seed=1)
        client.robot_statistics()
    server.statistics()
    assert robot.threads == {"remote-env control"}


def test_after_close_everything_says_so(env):
    env.reset(seed=1)
    env.close()
    with pytest.raises(errors.LocalProtocolError, match="after close; make a new environment"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(errors.LocalProtocolError, match="after close; make a new environment"):
        env.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_timeout": 0}, "step_timeout must be a positive number"),
        ({"connect_timeout": None}, "connect_timeout must be a positive number"),
        ({"reset_timeout": float("inf")}, "reset_timeout must be a positive number"),
        ({"reconnect_timeout": -1.0}, "reconnect_timeout must be a positive number"),
        ({"on_link_loss": "ignore"}, "'truncate' or 'raise', not 'ignore'"),
        ({"on_stale": "ignore"}, "'truncate', 'flag' or 'raise', not 'ignore'"),
        ({"robot": "double-pendulum"}, "give one of them"),
        ({"render_mode": "human"}, "'rgb_array' or None, not 'human'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message, counter, connect):
    with pytest.raises(errors.ConfigurationError, match=message):
        connect(counter.server.url, **options)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_seeds_of_64_bits_are_taken(seed, env):
    env.reset(seed=seed)


def test_a_seed_that_does_not_fit_is_refused_and_nothing_is_lost(env):
    with pytest.raises(errors.ConfigurationError, match=r"from 0 to 2\*\*64 - 1"):
        env.reset(seed=2**64)
    env.reset(seed=1)


@pytest.mark.parametrize("action", [[0.5, -0.5], (0.5, -0.5), torch.tensor([0.5, -0.5])])
def test_actions_may_be_lists_tuples_or_tensors(action, env):
    env.reset(seed=1)
    *_, info = env.step(action)
    executed = info["remote"]["action_executed"]
    assert executed.tolist() == [0.5, -0.5]
    assert executed.dtype == np.float32


def test_a_tensor_that_needs_its_gradient_is_refused(env):
    env.reset(seed=1)
    with pytest.raises(errors.ActionRefusedError, match="detach"):
        env.step(torch.zeros(2, requires_grad=True))


class Slow(Counter):
    def apply_action(self, action):
        self.release.wait(10)

    def __init__(self):
        super().__init__()
        self.release = threading.Event()


def test_a_step_that_takes_too_long_ends_at_its_deadline(serve, connect):
    robot = Slow()
    env = connect(serve(robot).url, step_timeout=0.2)
    env.reset(seed=1)
    with pytest.raises(errors.DeadlineExceededError, match=r"no reply .* within 0.2 s"):
        env.step(np.zeros(2, np.float32))
    robot.release.set()
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))


# Declarations that make no sense


class TwoOfAName(Counter):
    def camera_configs(self):
        return [CameraConfig("cam", 2, 2), CameraConfig("cam", 2, 2)]


def test_a_duplicate_camera_name_is_refused_at_construction():
    with pytest.raises(errors.ConfigurationError, match="declares 'cam' twice"):
        TwoOfAName()


class NoSuper(Robot):
    def __init__(self):
        pass


class NoAction(Robot):
    def proprio_configs(self):
        return [ProprioConfig("force", 1)]


class Nothing(Robot):
    action_space = spaces.Discrete(2)


class Endless(Counter):
    action_space = spaces.Sequence(spaces.Discrete(2))


class Graphs(Counter):
    @property
    def observation_space(self):
        return spaces.Dict({"scene": spaces.Graph(spaces.Box(0, 1, (2,)), None)})


class Timeless(Counter):
    control_hz = 0.0


@pytest.mark.parametrize(
    ("robot_class", "options", "message"),
    [
        (NoSuper, {}, r"must call super\(\).__init__\(\)"),
        (NoAction, {}, "declares no action_space; set one"),
        (Nothing, {}, "declare cameras in camera_configs"),
        (Endless, {}, "'action' is a Sequence space, which has no fixed shape"),
        (Graphs, {}, "'scene' is a Graph space"),
        (Timeless, {"mode": "realtime"}, "control_hz must be positive"),
        (Counter, {"mode": "warp"}, "'lockstep', 'realtime' or 'delayed', not 'warp'"),
        (Rig, {"mode": "lockstep"}, "cannot be served in lockstep, only in realtime"),
        (Counter, {"host": "0.0.0.0"}, "refusing to listen at 0.0.0.0 without a token"),
        (Counter, {"token": "short"}, "needs 16; make one with"),
    ],
)
def test_a_robot_that_cannot_be_served_is_refused_at_start(robot_class, options, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        RobotServer(robot_class(), port=0, **options).start()


def test_a_port_in_use_is_named(counter):
    port = int(counter.server.url.rpartition(":")[2])
    with pytest.raises(errors.ConfigurationError, match=f"cannot listen at 127.0.0.1:{port}"):
        RobotServer(Counter(), port=port).start()


def test_an_environment_that_does_not_exist_is_named():
    with pytest.raises(errors.ConfigurationError, match="NoSuchEnv.*gymnasium:MODULE:ID"):
        make_robot("gymnasium:NoSuchEnv-v0")


class OpensBadly(Counter):
    def open(self):
        raise OSError("no arm on /dev/ttyUSB0")


def test_a_robot_that_does_not_open_says_why_at_start():
    with pytest.raises(OSError, match="no arm on /dev/ttyUSB0"):
        RobotServer(OpensBadly(), port=0).start()


# Tokens and roles

TOKEN = "a token of more than sixteen characters"


@pytest.mark.parametrize(
    ("token", "message"), [(None, "needs a token"), ("wrong", "the token is wrong")]
)
def test_without_the_right_token_nothing_is_told(token, message, serve, connect):
    server = serve(Counter(), token=TOKEN)
    with pytest.raises(errors.AccessDeniedError, match=message):
        connect(server.url, token=token)


def test_with_the_token_everything_works_and_no_log_holds_it(serve, connect, caplog):
    with caplog.at_level(logging.DEBUG):
        env = connect(serve(Counter(), token=TOKEN).url, token=TOKEN)
        env.reset(seed=1)
    assert TOKEN not in caplog.text


def test_an_observer_may_look_and_not_command(counter):
    client = remote_env.RobotClient(counter.server.url, role="observe")
    spec = client.connect()
    assert spec.name == "Counter"
    assert spec.mode is Mode.LOCKSTEP
    with pytest.raises(errors.AccessDeniedError, match="only observes"):
        client.reset()
    client.close()


def test_a_learner_that_is_interrupted_after_it_sent_does_not_mistake_the_robots_clock(counter):
    with FaultProxy(counter.server.url) as proxy, remote_env.RobotClient(proxy.url) as client:
        client.connect()
        proxy.set_latency(0.2, direction=Direction.TO_CLIENT)
        link = client._channel._link

        class Interrupted(type(link)):
            def send(self, frame):
                super().send(frame)
                time.sleep(0.1)  # the system runs somebody else

        link.__class__ = Interrupted
        client.reset(seed=1)
        offset, error = client.age_of(time.monotonic())  # one machine, one clock
        assert error < 0.5
        assert abs(offset) <= error + 0.001
