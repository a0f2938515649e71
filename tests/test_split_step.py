"""A step in two halves: sent, and received later. All that holds for a step holds for it."""

import dataclasses
import signal
import threading
import time

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter, Gated
from wires import knows_its_end

from remote_env import RobotClient, errors
from remote_env.testing import Direction, FaultProxy

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
ONE = np.ones(2, np.float32)


@pytest.fixture
def robot():
    robot = Gated()
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
    env = connect(proxy.url, step_timeout=5.0, reconnect_timeout=5.0)
    env.before, _ = env.reset(seed=1)
    return env


def assert_counted(env, received):
    observation, _, terminated, truncated, info = received
    assert not terminated
    assert not truncated
    assert info["remote"]["step"] == 1
    assert observation["sum"].tolist() == (env.before["sum"] + 1.0).tolist()


def assert_goes_on(env):
    *_, truncated, _ = env.step(ONE)
    assert not truncated


def test_a_step_in_two_halves_is_a_step(serve, connect):
    whole, halves = connect(serve(Counter()).url), connect(serve(Counter()).url)
    whole.reset(seed=3)
    halves.reset(seed=3)
    for _ in range(3):
        expected = whole.step(ONE)
        halves.send_step(ONE)
        received = halves.receive_step()
        assert received[0]["sum"].tolist() == expected[0]["sum"].tolist()
        assert received[1:4] == expected[1:4]
        expected[4]["remote"].pop("action_executed")
        assert received[4]["remote"].pop("action_executed").tolist() == ONE.tolist()
        assert received[4] == expected[4]


@pytest.mark.parametrize("is_cut", [False, True])
def test_what_was_sent_is_told_whatever_becomes_of_the_learners_array(env, robot, proxy, is_cut):
    action = ONE.copy()
    if is_cut:
        proxy.reset_connections()
    env.send_step(action)
    action[:] = 0.0
    received = env.receive_step()
    assert_counted(env, received)
    assert received[4]["remote"]["action_executed"].tolist() == [1.0, 1.0]


def test_several_robots_move_at_once(serve, connect):
    robots = [Gated(), Gated(), Gated()]
    for robot in robots:
        robot.may_go.clear()
    envs = [connect(serve(robot).url) for robot in robots]
    for env in envs:
        env.reset(seed=1)
        env.send_step(ONE)
    assert all(robot.is_in.wait(5) for robot in robots)
    for robot in robots:
        robot.may_go.set()
    assert [env.receive_step()[3] for env in envs] == [False] * 3


# In the wrong order


BETWEEN = {
    "send_step": lambda env: env.send_step(ONE),
    "step": lambda env: env.step(ONE),
    "reset": lambda env: env.reset(seed=1),
    "client.reset": lambda env: env._client.reset(seed=1),
    "client.ping": lambda env: env._client.ping(),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_call_between_the_two_is_refused_and_the_session_goes_on(env, robot, name):
    env.send_step(ONE)
    with pytest.raises(errors.LocalProtocolError, match=r"call (env\.)?receive_step\(\)"):
        BETWEEN[name](env)
    assert_counted(env, env.receive_step())
    assert_goes_on(env)
    assert len(robot.actions) == 2
    assert env.statistics().resumptions == 0


def test_receiving_what_was_not_sent_is_refused_and_the_session_goes_on(env):
    with pytest.raises(errors.LocalProtocolError, match=r"call env\.send_step\(action\) first"):
        env.receive_step()
    env.send_step(ONE)
    assert_counted(env, env.receive_step())
    with pytest.raises(errors.LocalProtocolError, match="send_step"):
        env.receive_step()


def test_an_action_of_the_wrong_shape_is_not_sent(env, robot):
    with pytest.raises(errors.ActionRefusedError, match="shape"):
        env.send_step(np.ones(3, np.float32))
    env.send_step(ONE)
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1


def test_what_the_robot_refuses_is_told_when_it_is_received(env, robot):
    env.send_step(3 * ONE)
    with pytest.raises(errors.ActionRefusedError, match="out of bounds"):
        env.receive_step()
    env.send_step(ONE)
    assert_counted(env, env.receive_step())


def test_a_call_of_another_thread_waits_for_its_turn(env):
    env.send_step(ONE)
    pinging = Beside(lambda: env._client.ping(timeout=10.0))
    late = Beside(lambda: env._client.ping(timeout=0.05)).join()
    assert isinstance(late.error, errors.DeadlineExceededError)
    assert pinging.is_running
    assert_counted(env, env.receive_step())
    assert pinging.join().error is None


def test_another_thread_may_receive(env):
    env.send_step(ONE)
    assert_counted(env, Beside(env.receive_step).join().result)
    assert_goes_on(env)


# Links that break


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT], ids=["to_server", "to_client"])
@pytest.mark.parametrize("offset", [0, 1, 7, 30, 100, 180])
def test_a_link_that_is_cut_at_any_byte_executes_it_once(robot, env, proxy, direction, offset, how):
    proxy.cut_after(offset, direction, how=how)
    env.send_step(ONE)
    time.sleep(0.02)  # so that some are cut before it is received
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1
    assert_goes_on(env)
    assert len(robot.actions) == 2


BREAKS = {
    "rst": FaultProxy.reset_connections,
    "fin": FaultProxy.close_connections,
    "outage": lambda proxy: proxy.outage(0.3),
}


@pytest.mark.parametrize("name", [*BREAKS, "rst, noticed", "fin, noticed"])
def test_a_link_that_breaks_before_it_is_sent_is_resumed_when_it_is_received(
    robot, env, proxy, name
):
    BREAKS[name[:3] if "noticed" in name else name](proxy)
    if "noticed" in name:
        wait_for(lambda: env._client.heartbeat() or not env._client._channel.has_link)
    began = time.monotonic()
    env.send_step(ONE)
    assert time.monotonic() - began < 1.0  # it does not look for the robot
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1
    assert env.statistics().resumptions == 1


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("beats", [False, True], ids=["silent", "heartbeat"])
def test_a_link_that_breaks_after_the_robot_moved_costs_nothing(robot, env, proxy, break_it, beats):
    proxy.stall(TO_CLIENT)
    env.send_step(ONE)
    wait_for(lambda: robot.actions)
    break_it(proxy)
    proxy.stall(TO_CLIENT, is_on=False)
    for _ in range(3 * beats):
        env._client.heartbeat()
        time.sleep(0.01)
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1


def test_a_heartbeat_into_a_link_that_broke_does_not_lose_the_answer(robot, server, connect):
    env = connect(server.url)
    env.before, _ = env.reset(seed=1)
    env.send_step(ONE)
    wait_for(lambda: robot.actions)
    server.stop()
    wait_for(lambda: knows_its_end(env._client._channel._link))
    env._client.heartbeat()
    assert_counted(env, env.receive_step())


def test_a_robot_that_is_lost_ends_the_episode_when_it_is_received(proxy, connect):
    env = connect(proxy.url, step_timeout=0.6)
    before, _ = env.reset(seed=1)
    proxy.blackhole()
    env.send_step(ONE)
    observation, _, _, truncated, info = env.receive_step()
    assert truncated
    assert info["remote"]["end_reason"] == "link_lost"
    assert observation["sum"].tolist() == before["sum"].tolist()
    with pytest.raises(errors.EpisodeOverError, match="link_lost"):
        env.send_step(ONE)
    proxy.heal()
    env.reset(seed=1)
    assert_goes_on(env)


def test_who_is_not_connected_any_more_is_told_when_it_receives(proxy, connect):
    env = connect(proxy.url)
    env.reset(seed=1)
    env._client._channel.drop()
    env.send_step(ONE)
    *_, truncated, info = env.receive_step()
    assert truncated
    assert info["remote"]["end_reason"] == "link_lost"


# Late


@pytest.mark.realtime
def test_an_answer_that_came_in_time_is_received_also_after_the_deadline(proxy, connect, robot):
    env = connect(proxy.url, step_timeout=0.2)
    env.before, _ = env.reset(seed=1)
    env.send_step(ONE)
    time.sleep(0.4)
    assert_counted(env, env.receive_step())


@pytest.mark.realtime
def test_an_answer_behind_a_link_that_broke_is_received_also_after_the_deadline(
    proxy, connect, robot
):
    env = connect(proxy.url, step_timeout=0.2)
    env.before, _ = env.reset(seed=1)
    proxy.stall(TO_CLIENT)
    env.send_step(ONE)
    wait_for(lambda: robot.actions)
    proxy.reset_connections()
    proxy.stall(TO_CLIENT, is_on=False)
    time.sleep(0.4)
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1


@pytest.mark.realtime
def test_a_robot_that_is_busy_is_not_taken_for_lost_by_who_comes_late(robot, env):
    robot.may_go.clear()
    env.send_step(ONE)
    time.sleep(1.0)  # in which nothing came
    threading.Timer(0.5, robot.may_go.set).start()
    assert_counted(env, env.receive_step())
    assert env.statistics().resumptions == 0


@pytest.mark.realtime
def test_receiving_ends_by_the_deadline_that_counts_from_the_sending(robot, env, slowdown):
    robot.may_go.clear()
    began = time.monotonic()
    env.send_step(ONE)
    time.sleep(0.3)
    with pytest.raises(errors.DeadlineExceededError, match="the connection stands"):
        env.receive_step(timeout=0.5)
    # Who was away for 0.3 s has so much more, and no more.
    assert 0.5 <= time.monotonic() - began < 0.8 + 0.2 * slowdown
    assert not env._client.is_stepping
    robot.may_go.set()


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_a_learner_that_trains_between_the_two_keeps_its_lease(serve, connect, mode, monkeypatch):
    monkeypatch.setattr("remote_env.client._LEASE_PATIENCE", 0.0)
    robot = Counter()
    server = serve(robot, mode=mode)
    env = connect(server.url)
    env.before, _ = env.reset(seed=1)
    other = RobotClient(server.url)
    make_hello = other._channel._make_hello
    other._channel._make_hello = lambda **which: dataclasses.replace(
        make_hello(**which), process="another"
    )
    other.connect()
    env.send_step(ONE)
    time.sleep(2.6)  # a lease is stale after 2 s
    with pytest.raises(errors.LeaseError):
        other.reset(timeout=10.0)
    other.close()
    assert_counted(env, env.receive_step())
    assert len(robot.actions) == 1
    assert_goes_on(env)
    assert env.statistics().resumptions == 0


@pytest.mark.realtime
def test_an_action_that_could_not_be_sent_is_not_executed_when_it_is_old(serve, connect):
    robot = Counter()  # its actions live for 0.1 s
    with FaultProxy(serve(robot, mode="realtime").url) as proxy:
        env = connect(proxy.url)
        env.reset(seed=1)
        proxy.reset_connections()
        wait_for(lambda: env._client.heartbeat() or not env._client._channel.has_link)
        env.send_step(ONE)
        time.sleep(0.5)
        *_, truncated, info = env.receive_step()
        assert truncated
        assert info["remote"]["invalid_transition"]
        assert robot.actions == []


# Giving up


@pytest.mark.parametrize("from_thread", [False, True], ids=["same", "another"])
def test_closing_between_the_two_ends_it_cleanly(env, server, from_thread, slowdown, caplog):
    caplog.set_level("DEBUG", "remote_env.shared_session")
    env.send_step(ONE)
    began = time.monotonic()
    if from_thread:
        Beside(env.close).join()
    else:
        env.close()
    assert time.monotonic() - began < 0.9 * slowdown  # it waits for nobody
    assert server.statistics()["lease"]["owner"] is None
    assert "could not be returned" not in caplog.text
    wait_for(lambda: server.statistics()["connections"] == 0)
    with pytest.raises(errors.LocalProtocolError, match="after close"):
        env.receive_step()


def test_closing_while_another_thread_receives_ends_that(env, robot, server):
    robot.may_go.clear()
    env.send_step(ONE)
    receiving = Beside(env.receive_step)
    wait_for(lambda: not env._client.is_stepping)
    env.close()
    assert isinstance(receiving.join().error, errors.ConnectionLostError)
    robot.may_go.set()
    wait_for(lambda: server.statistics()["connections"] == 0)


def test_ctrl_c_between_the_halves_of_a_step_leaves_nothing_behind(env, server, robot, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(env._client._channel, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.step(ONE)
    wait_for(lambda: server.statistics()["lease"]["owner"] is None)
    wait_for(lambda: server.statistics()["connections"] == 0)
    env.reset(seed=1)
    assert_goes_on(env)


@pytest.mark.parametrize("moment", ["channel", "turn"])
def test_ctrl_c_while_it_is_sent_leaves_nothing_behind(env, server, monkeypatch, moment):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        where = {
            "channel": (env._client._channel, "_hand_over"),
            "turn": (env._client._turns, "park"),
        }
        patched.setattr(*where[moment], interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.send_step(ONE)
    wait_for(lambda: server.statistics()["lease"]["owner"] is None)
    assert not env._client.is_stepping
    env.reset(seed=1)
    assert_goes_on(env)


def test_ctrl_c_while_it_is_received_leaves_nothing_behind(env, server, robot):
    robot.may_go.clear()
    env.send_step(ONE)
    assert robot.is_in.wait(5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        env.receive_step()
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: server.statistics()["lease"]["owner"] is None)
    robot.may_go.set()
    env.reset(seed=1)
    assert_goes_on(env)


IN_ONE = ["_turns.wait_for", "_channel.begin", "_channel.finish", "_turns.release"]
IN_HALVES = ["_turns.take_back", "_channel.finish", "_turns.release"]


@pytest.mark.parametrize(
    ("call", "moment"),
    [
        *(("step", moment) for moment in IN_ONE),
        *(("reset", moment) for moment in IN_ONE),
        *(("receive_step", moment) for moment in IN_HALVES),
    ],
)
@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
def test_ctrl_c_between_two_lines_leaves_no_turn_behind(env, monkeypatch, call, moment, is_before):
    if call == "receive_step":
        env.send_step(ONE)
    owner, name = moment.split(".")
    owner = getattr(env._client, owner)
    original = getattr(owner, name)

    def interrupt(*given, **named):
        monkeypatch.undo()
        if not is_before:
            original(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(ONE) if call == "step" else getattr(env, call)()
    if env.is_stepping:  # it had not begun
        env.receive_step()
    env.reset(seed=1)
    assert_goes_on(env)


def test_an_environment_that_is_forgotten_between_the_two_returns_its_lease(server):
    client = RobotClient(server.url)
    client.connect()
    done = client.reset(seed=1)
    client.begin_step([ONE], episode=done.episode, step=1, tick=done.tick, timeout=5.0)
    del client
    wait_for(lambda: server.statistics()["connections"] == 0)
    assert server.statistics()["lease"]["owner"] is None
