"""What becomes of several robots when one of them fails."""

import multiprocessing
import os
import pkgutil
import signal
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from beside import Beside, wait_for
from gymnasium.wrappers.vector import RecordVideo
from killed_robots import ONES, Served, step_until
from lost_in_reset import lost_in_reset
from sample_robots import Counter, Limited
from seeing import Seeing, Shut

from remote_env import errors
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env.testing import Direction, FaultProxy
from remote_env.vector import RemoteRobotVectorEnv
from remote_env_server import ProprioConfig, RobotServer


@pytest.fixture
def processes():
    robots = [Served() for _ in range(3)]
    yield robots
    for robot in robots:
        robot.end()


@pytest.fixture
def connect_all():
    made = []

    def make(urls, **options):
        made.append(gym.make_vec("RemoteRobot-v0", urls=urls, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def valid(told):
    return told[-1]["remote"]["valid"]


# A robot that is gone, and comes back


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_killed_robot_is_truncated_once_and_comes_back_by_itself(
    processes, connect_all, mode, slowdown
):
    env = connect_all(
        [robot.url for robot in processes], autoreset_mode=mode, step_timeout=0.5 * slowdown
    )
    env.reset(seed=1)
    before, *_ = env.step(ONES)
    processes[1].send(signal.SIGKILL)
    began = time.monotonic()
    fall = env.step(ONES)
    assert time.monotonic() - began < 0.5 * slowdown + 0.05 + 0.1 * slowdown
    assert fall[3].tolist() == [False, True, False]
    assert not fall[2].any()
    assert valid(fall).tolist() == [True, False, True]
    assert fall[1][1] == 0.0
    assert fall[0]["sum"][1].tolist() == before["sum"][1].tolist()
    assert fall[4]["remote"]["end_reason"][1] == "link_lost"
    assert fall[4]["remote"]["invalid_transition"].tolist() == [False, True, False]

    away = [env.step(ONES) for _ in range(20)]
    for told in away:
        assert not told[3].any()
        assert valid(told).tolist() == [True, False, True]
        assert told[1][1] == 0.0
        assert told[0]["sum"][1].tolist() == before["sum"][1].tolist()
    assert (away[-1][0]["sum"][0] == before["sum"][0] + 21).all()

    processes[1].start()
    back = step_until(env, lambda told: not (told[0]["sum"][1] == before["sum"][1]).all())
    assert not any(told[3].any() for told in back)
    assert valid(back[-1]).tolist() == [True, False, True]  # it was reset: no transition
    following = env.step(ONES)
    assert valid(following).all()
    assert (following[0]["sum"][1] == back[-1][0]["sum"][1] + 1).all()
    assert following[4]["steps"].tolist()[1] == 1


@pytest.mark.realtime
def test_a_stopped_robot_holds_nobody_past_its_deadline(processes, connect_all, slowdown):
    env = connect_all([robot.url for robot in processes], step_timeout=0.4 * slowdown)
    env.reset(seed=1)
    env.step(ONES)
    processes[2].send(signal.SIGSTOP)
    began = time.monotonic()
    fall = env.step(ONES)
    assert time.monotonic() - began < 0.4 * slowdown + 0.05 + 0.1 * slowdown
    assert fall[3].tolist() == [False, False, True]
    took = []
    for _ in range(100):
        began = time.monotonic()
        told = env.step(ONES)
        took.append(time.monotonic() - began)
        assert valid(told).tolist() == [True, True, False]
    assert np.median(took) < 0.05 * slowdown
    processes[2].send(signal.SIGCONT)
    back = step_until(env, lambda told: valid(told).all())
    assert not any(told[3].any() for told in back)


@pytest.mark.realtime
def test_whoever_is_ready_is_received_while_a_robot_is_stopped(processes, connect_all, slowdown):
    env = connect_all([robot.url for robot in processes], step_timeout=1.0 * slowdown)
    env.reset(seed=1)
    processes[0].send(signal.SIGSTOP)
    env.send(ONES, [0, 1, 2])
    fallen = []
    deadline = time.monotonic() + 20
    while not fallen:
        assert time.monotonic() < deadline
        began = time.monotonic()
        ready = env.recv(1)
        assert time.monotonic() - began < 0.3 * slowdown
        fallen += [i for i, t in zip(ready.env_ids, ready.truncations, strict=True) if t]
        env.send(ONES[: len(ready.env_ids)], ready.env_ids)
    assert fallen == [0]
    processes[0].send(signal.SIGCONT)
    rows = []
    while not rows:
        assert time.monotonic() < deadline
        ready = env.recv(1)
        flags = zip(ready.env_ids.tolist(), ready.infos["remote"]["valid"].tolist(), strict=True)
        rows += [flag for i, flag in flags if i == 0]
        env.send(ONES[: len(ready.env_ids)], ready.env_ids)
    assert rows[0] is False  # it was reset


def test_a_connection_that_is_lost_and_resumed_is_no_fall(serve, connect_all):
    servers = [serve(Counter()) for _ in range(3)]
    with FaultProxy(servers[1].url) as proxy:
        env = connect_all([servers[0].url, proxy.url, servers[2].url])
        env.reset(seed=1)
        for number in range(1, 6):
            proxy.reset_connections()
            told = env.step(ONES)
            assert valid(told).all()
            assert told[4]["steps"].tolist() == [number] * 3
        assert env.statistics()[1].resumptions == 5


@pytest.mark.realtime
def test_a_reset_that_begins_again_with_a_new_server_keeps_its_deadline(
    serve, connect_all, slowdown
):
    class Endless(Counter):
        in_reset = False

        def reset(self, *, seed=None, options=None):
            self.in_reset = True
            while True:
                self.progress(0.5)
                time.sleep(0.002)

    limit, robot = 3.0 * slowdown, Endless()
    other = serve(robot)
    with FaultProxy(serve(Endless()).url) as proxy:
        env = connect_all([proxy.url], reset_timeout=limit, min_envs=0)
        began = time.monotonic()

        def replace():
            wait_for(lambda: time.monotonic() > began + 0.6 * limit, timeout=limit)
            proxy.stop()
            proxy._target = ("127.0.0.1", int(other.url.rsplit(":", 1)[1]))
            proxy.start()

        beside = Beside(replace)
        infos = env.reset()[1]
        took = time.monotonic() - began
        assert beside.join().error is None
    assert robot.in_reset
    assert took < 1.3 * limit
    assert "no reply" in infos["remote"]["end_cause"][0]


@pytest.mark.realtime
def test_who_comes_late_has_time_to_fetch_what_lies_behind_a_link_that_broke(
    serve, connect_all, slowdown
):
    robot = Counter()
    with FaultProxy(serve(robot).url) as proxy:
        env = connect_all([proxy.url, serve(Counter()).url], step_timeout=0.5 * slowdown)
        env.reset(seed=1)
        proxy.stall(Direction.TO_CLIENT)
        env.send(ONES[:1], [0])
        wait_for(lambda: robot.actions)
        proxy.reset_connections()
        proxy.stall(Direction.TO_CLIENT, is_on=False)
        time.sleep(0.8 * slowdown)
        ready = env.recv()
        assert (ready.env_ids.tolist(), valid(ready).tolist()) == ([0], [True])
        assert env.statistics()[0].resumptions == 1


@pytest.fixture
def stuck(connect_all, serve, slowdown):
    """Two robots that were sent a step, and a heartbeat to the second one that is stuck."""
    env = connect_all(
        [serve(Counter()).url for _ in range(2)],
        connect_timeout=0.5 * slowdown,
        step_timeout=1.0 * slowdown,
    )
    env.reset(seed=1)
    env.send(ONES[:2], [0, 1])
    env.is_stuck, env.may_go = threading.Event(), threading.Event()

    def beat():
        with env.envs[1]._client._turns.lend() as may_use:
            assert may_use
            env.is_stuck.set()
            assert env.may_go.wait(20)

    env.beating = Beside(beat)
    assert env.is_stuck.wait(5)
    yield env
    env.may_go.set()
    env.beating.join()


@pytest.mark.realtime
def test_a_heartbeat_that_is_held_up_keeps_nobody_else_waiting(stuck, slowdown):
    began = time.monotonic()
    assert stuck.recv(1, timeout=5.0).env_ids.tolist() == [0]
    assert time.monotonic() - began < 0.3 * slowdown
    stuck.may_go.set()
    ready = stuck.recv(1)
    assert (ready.env_ids.tolist(), valid(ready).tolist()) == ([1], [True])


@pytest.mark.realtime
def test_a_robot_whose_heartbeat_is_stuck_is_down_alone_and_comes_back(stuck):
    ready = stuck.recv(2)
    assert dict(zip(ready.env_ids, ready.truncations, strict=True)) == {0: False, 1: True}
    assert valid(stuck.step(ONES[:2])).tolist() == [True, False]
    stuck.may_go.set()
    assert not any(told[3].any() for told in step_until(stuck, lambda t: valid(t).all(), ONES[:2]))


# Where the learner resets


@pytest.mark.realtime
def test_without_autoreset_a_robot_that_was_lost_is_back_with_its_mask(
    processes, connect_all, slowdown
):
    env = connect_all(
        [robot.url for robot in processes],
        autoreset_mode="Disabled",
        step_timeout=0.5 * slowdown,
        reconnect_timeout=1.0,
    )
    env.reset(seed=1)
    before, *_ = env.step(ONES)
    processes[0].send(signal.SIGKILL)
    assert env.step(ONES)[3].tolist() == [True, False, False]
    only = {"reset_mask": np.array([True, False, False])}
    began = time.monotonic()
    observations, infos = env.reset(seed=5, options=only)
    assert time.monotonic() - began < 1.0 + 0.5 * slowdown
    assert infos["remote"]["valid"].tolist() == [False, True, True]
    assert observations["sum"][0].tolist() == before["sum"][0].tolist()
    processes[0].start()
    deadline = time.monotonic() + 20
    while not infos["remote"]["valid"][0]:
        assert time.monotonic() < deadline
        assert valid(env.step(ONES)).tolist() == [False, True, True]
        observations, infos = env.reset(seed=5, options=only)
    expected = np.random.default_rng(5).normal(size=2)
    assert observations["sum"][0].tolist() == expected.tolist()
    assert valid(env.step(ONES)).all()


def test_a_step_after_the_end_is_refused_where_the_learner_resets(serve, connect_all):
    env = connect_all(
        [serve(robot).url for robot in (Counter(), Limited())], autoreset_mode="Disabled"
    )
    env.reset(seed=1)
    for _ in range(3):
        told = env.step(ONES[:2])
    assert told[3].tolist() == [False, True]
    with pytest.raises(errors.EpisodeOverError, match="robot 1 .*reset_mask"):
        env.step(ONES[:2])
    env.reset(options={"reset_mask": told[3]})
    assert env.step(ONES[:2])[4]["steps"].tolist() == [4, 1]


# The robot's own code


class Failing(Counter):
    fails = True

    def apply_action(self, action):
        if self.fails and self._steps == 1:
            raise OSError("the gearbox")
        super().apply_action(action)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_robot_whose_code_fails_is_reset_and_the_others_lose_nothing(serve, connect_all, mode):
    failing = Failing()
    env = connect_all(
        [serve(robot).url for robot in (Counter(), failing, Counter())], autoreset_mode=mode
    )
    env.reset(seed=1)
    env.step(ONES)
    fall = env.step(ONES)
    assert fall[3].tolist() == [False, True, False]
    assert fall[4]["steps"].tolist()[::2] == [2, 2]
    assert fall[4]["remote"]["end_reason"][1] == "robot"
    assert "gearbox" in fall[4]["remote"]["end_cause"][1]
    failing.fails = False
    told = step_until(env, lambda told: valid(told).all())
    assert told[-1][4]["steps"][0] == 2 + len(told)


class Short(Counter):
    max_episode_steps = 2


@pytest.mark.parametrize("other", [Counter, Short], ids=["alone", "beside an end"])
def test_in_the_same_step_a_robot_that_falls_has_a_final_observation_too(serve, connect_all, other):
    urls = [serve(robot).url for robot in (Failing(), other())]
    env = connect_all(urls, autoreset_mode="SameStep")
    env.reset(seed=1)
    before = env.step(ONES[:2])[0]["sum"][0].tolist()
    fall = env.step(ONES[:2])
    infos = fall[-1]
    assert fall[3].tolist() == infos["_final_obs"].tolist() == [True, other is Short]
    assert infos["_final_info"].tolist() == [True, other is Short]
    assert infos["final_obs"][0]["sum"].tolist() == fall[0]["sum"][0].tolist() == before
    assert infos["final_info"]["remote"]["end_reason"][0] == "robot"
    assert infos["final_info"]["remote"]["invalid_transition"][0]
    assert valid(fall).tolist() == [False, True]
    assert "final_obs" not in env.step(ONES[:2])[-1]


def test_the_only_robot_is_told_to_have_failed_and_then_waited_for(serve, connect_all):
    failing = Failing()
    env = connect_all([serve(failing).url], reconnect_timeout=20.0)
    env.reset(seed=1)
    env.step(ONES[:1])
    assert env.step(ONES[:1])[3].tolist() == [True]
    failing.fails = False
    told = env.step(ONES[:1])
    assert not told[3].any()
    assert not valid(told).any()  # it was reset
    assert env.step(ONES[:1])[4]["steps"].tolist() == [1]


def test_the_only_robot_that_stays_away_is_an_error(serve, connect_all):
    server = serve(Counter())
    env = connect_all([server.url], reconnect_timeout=0.3)
    env.reset(seed=1)
    server.stop()
    assert env.step(ONES[:1])[3].tolist() == [True]
    with pytest.raises(errors.TooFewRobotsError, match="0 of 1"):
        env.step(ONES[:1])


@pytest.mark.parametrize("min_envs", [0, 1])
def test_nobody_waits_for_ever_for_robots_that_are_away(serve, connect_all, min_envs):
    server = serve(Counter())
    env = connect_all([server.url], reconnect_timeout=0.3, min_envs=min_envs)
    env.reset(seed=1)
    server.stop()
    env.send(ONES[:1], [0])
    assert env.recv().truncations.tolist() == [True]
    env.send(ONES[:1], [0])
    for _ in range(2):
        with pytest.raises(errors.TooFewRobotsError, match=server.url):
            env.recv()
    assert env.recv(timeout=0.05).env_ids.tolist() == []


def test_who_is_ready_does_not_wait_for_robots_that_are_away(serve, connect_all):
    servers = [serve(Counter()) for _ in range(2)]
    env = connect_all([server.url for server in servers], reconnect_timeout=60.0)
    env.reset(seed=1)
    servers[1].stop()
    env.send(ONES[:2], [0, 1])
    assert env.recv(2).truncations.tolist() == [False, True]
    for _ in range(3):
        env.send(ONES[:1], [0])
        assert env.recv(2).env_ids.tolist() == [0]
        if not env._fleet.slots[1].is_asked:
            env.send(ONES[:1], [1])


def test_one_robot_that_comes_back_is_waited_for(serve, connect_all):
    failing = Failing()
    env = connect_all([serve(robot).url for robot in (Counter(), failing)])
    env.reset(seed=1)
    env.step(ONES[:2])
    assert env.step(ONES[:2])[3].tolist() == [False, True]
    env.send(ONES[:1], [1])
    back = threading.Timer(0.5, setattr, (failing, "fails", False))
    back.start()
    ready = env.recv()
    assert (ready.env_ids.tolist(), valid(ready).tolist()) == ([1], [False])
    back.join()


def test_who_is_back_before_its_fall_is_received_shows_both(serve, connect_all):
    with lost_in_reset(serve, connect_all) as (env, during):

        def move():
            env.send(ONES[:2], [0, 1])
            return env.recv(2)

        env.reset(seed=1)
        before = [env.step(ONES[:2]) for _ in range(3)][-1][0]["sum"][0].tolist()
        fall, back = during(move), move()
        assert fall.observations["sum"][0].tolist() == before
        assert back.observations["sum"][0].tolist() != before
        assert valid(fall).tolist() == valid(back).tolist() == [False, True]


def test_without_autoreset_nothing_is_sent_to_a_robot_that_is_down(serve, connect_all):
    failing = Failing()
    env = connect_all(
        [serve(robot).url for robot in (Counter(), failing)], autoreset_mode="Disabled"
    )
    env.reset(seed=1)
    env.step(ONES[:2])
    assert env.step(ONES[:2])[3].tolist() == [False, True]
    with pytest.raises(errors.EpisodeOverError, match="robot 1"):
        env.send(ONES[:2], [0, 1])
    assert not env.step(ONES[:2])[3].any()  # where it has a row
    failing.fails = False
    env.reset(options={"reset_mask": np.array([False, True])})
    env.send(ONES[:2], [0, 1])
    assert valid(env.recv(2)).all()


def test_a_robot_that_is_back_while_nobody_asked_for_it_shows_its_reset(serve, connect_all):
    failing = Failing()
    env = connect_all([serve(robot).url for robot in (Counter(), failing)])
    env.reset(seed=1)
    env.step(ONES[:2])
    env.step(ONES[:2])
    failing.fails = False
    gone = env.step(ONES[:2])[0]["sum"][1].tolist()
    deadline = time.monotonic() + 20
    while env._fleet.count_up < 2:
        assert time.monotonic() < deadline
        env.send(ONES[:1], [0])
        env.recv()
    moved = len(failing.actions)
    told = env.step(ONES[:2])
    assert valid(told).tolist() == [True, False]
    assert told[0]["sum"][1].tolist() not in ([0.0, 0.0], gone)
    assert len(failing.actions) == moved
    assert (env.step(ONES[:2])[0]["sum"][1] == told[0]["sum"][1] + 1).all()


class Wider(Counter):
    def proprio_configs(self):
        return [ProprioConfig("sum", 3, np.float64)]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_robot_that_comes_back_with_other_spaces_stays_away(serve, connect_all, mode):
    servers = [serve(Counter()) for _ in range(2)]
    env = connect_all([server.url for server in servers], autoreset_mode=mode, step_timeout=2.0)
    env.reset(seed=1)
    port = int(servers[1].url.rsplit(":", 1)[1])
    servers[1].stop()
    assert env.step(ONES[:2])[3].tolist() == [False, True]
    with RobotServer(Wider(), port=port):
        step_until(
            env,
            lambda told: isinstance(env._fleet.slots[1].error, errors.ConfigurationError),
            actions=ONES[:2],
        )
        looked, reconnect = [], env.envs[1].reconnect
        env.envs[1].reconnect = lambda: looked.append(0) or reconnect()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert not valid(env.step(ONES[:2]))[1]
        assert len(looked) <= 2  # not as often as it can
        for _ in range(2):
            assert env.reset(seed=1)[1]["remote"]["valid"].tolist() == [True, False]
            assert valid(env.step(ONES[:2])).tolist() == [True, False]


def test_too_few_robots_are_told_which_has_other_spaces(serve, connect_all):
    server = serve(Counter())
    env = connect_all([server.url], step_timeout=2.0)
    env.reset(seed=1)
    server.stop()
    assert env.step(ONES[:1])[3].tolist() == [True]
    wider = RobotServer(Wider(), port=int(server.url.rsplit(":", 1)[1]))
    with wider, pytest.raises(errors.TooFewRobotsError, match="other spaces"):
        env.reset()


def test_a_robot_that_fails_in_its_autoreset_ends_no_second_episode(serve, connect_all):
    class Stuck(Limited):
        resets = 0

        def reset(self, *, seed=None, options=None):
            self.resets += 1
            if self.resets == 2:
                raise OSError("the door")
            return super().reset(seed=seed, options=options)

    env = connect_all([serve(robot).url for robot in (Counter(), Stuck())])
    env.reset(seed=1)
    ends = [env.step(ONES[:2])[3].tolist() for _ in range(3)]
    assert ends == [[False, False], [False, False], [False, True]]
    told = step_until(env, lambda told: valid(told).all(), actions=ONES[:2])
    assert not any(t[3].any() for t in told)
    assert "the door" in told[0][4]["remote"]["end_cause"][1]


def test_a_reset_that_one_robot_refuses_goes_on_with_the_others(serve, connect_all):
    class Broken(Counter):
        def reset(self, *, seed=None, options=None):
            raise OSError("the door")

    env = connect_all([serve(robot).url for robot in (Broken(), Counter())])
    observations, infos = env.reset(seed=1)
    assert infos["remote"]["valid"].tolist() == [False, True]
    assert observations["sum"][0].tolist() == [0.0, 0.0]
    assert valid(env.step(ONES[:2])).tolist() == [False, True]


def test_a_robot_that_was_never_reset_is_black_in_pictures_and_videos(serve, connect_all, tmp_path):
    pytest.importorskip("moviepy", reason="Gymnasium's RecordVideo needs moviepy")
    urls = [serve(robot, mode="lockstep").url for robot in (Shut(), Seeing(), Shut())]
    env = connect_all(urls, render_mode="rgb_array")
    with pytest.raises(errors.LocalProtocolError, match="render before reset"):
        env.render()
    video = RecordVideo(env, tmp_path / "videos", video_length=2)
    video.reset(seed=1)
    video.step(ONES)
    video.step(ONES)
    first, second, third = env.render()
    assert first.shape == second.shape == third.shape
    assert second.any()
    assert not first.any()
    assert not third.any()
    assert next((tmp_path / "videos").glob("*.mp4")).stat().st_size > 0


def test_too_few_robots_are_an_error_that_says_why(serve, connect_all):
    class Broken(Counter):
        def reset(self, *, seed=None, options=None):
            raise OSError("the door")

    urls = [serve(robot).url for robot in (Broken(), Counter())]
    env = connect_all(urls, min_envs=2)
    with pytest.raises(errors.TooFewRobotsError, match=rf"1 of 2 .* {urls[0]}: .*the door"):
        env.reset(seed=1)
    with pytest.raises(errors.LocalProtocolError, match="call send first"):
        env.recv()  # the rows of the reset are for nobody


def test_an_option_that_no_robot_knows_is_the_callers_error(serve, connect_all):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    with pytest.raises(errors.UnknownOptionError, match="colour"):
        env.reset(options={"colour": 1})
    with pytest.raises(errors.ConfigurationError, match="seed"):
        env.reset(seed=-3)
    env.reset(seed=1)
    assert valid(env.step(ONES[:2])).all()


def test_an_error_that_is_none_of_ours_in_a_reset_leaves_robots_that_can_be_reset(
    serve, connect_all, monkeypatch
):
    env = connect_all([serve(Counter()).url for _ in range(2)])

    def fail(**given):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(env.envs[1], "send_reset", fail)
        with pytest.raises(RuntimeError, match="thread"):
            env.reset(seed=1)
    assert Beside(lambda: env.reset(seed=1)).join().error is None
    assert valid(env.step(ONES[:2])).all()


def test_an_action_that_one_robot_refuses_loses_nothing_of_the_others(serve, connect_all):
    env = connect_all([serve(Counter()).url for _ in range(3)])
    env.reset(seed=1)
    actions = ONES.copy()
    actions[1] = 5.0
    fall = env.step(actions)
    assert fall[3].tolist() == [False, True, False]
    assert fall[4]["steps"].tolist()[::2] == [1, 1]
    assert valid(step_until(env, lambda told: valid(told).all())[-1]).all()


# Its end


class Hanging(Counter):
    def __init__(self):
        super().__init__()
        self.is_in, self.may_go = threading.Event(), threading.Event()

    def apply_action(self, action):
        self.is_in.set()
        assert self.may_go.wait(20)


@pytest.mark.realtime
def test_closing_waits_for_no_robot_that_hangs(serve, connect_all, slowdown):
    robots = [Hanging() for _ in range(3)]
    env = connect_all([serve(robot).url for robot in robots])
    env.reset()
    waiting = Beside(lambda: env.step(ONES))
    assert all(robot.is_in.wait(5) for robot in robots)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 2.5 + 0.5 * slowdown
    for robot in robots:
        robot.may_go.set()
    assert isinstance(waiting.join().error, errors.RemoteEnvError)


def test_closing_just_before_who_receives_is_said_to_be_that(serve, connect_all, monkeypatch):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    env.reset()
    env.send(ONES[:2], [0, 1])
    may_end, close = threading.Event(), env._fleet._gatherer.close
    monkeypatch.setattr(env._fleet._gatherer, "close", lambda: may_end.wait(20) and close())
    closing = Beside(env.close)
    wait_for(lambda: not any(one.is_stepping for one in env.envs))
    with pytest.raises(errors.ConnectionLostError, match=r"close\(\) was called"):
        env.recv()
    may_end.set()
    closing.join()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_in_a_fork_all_is_refused_and_nobody_falls(serve, connect_all):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    env.reset(seed=1)

    def child():
        for call in (env.step, lambda _: env.reset(), env.step):
            with pytest.raises(errors.LocalProtocolError, match="forked"):
                call(ONES[:2])
        os._exit(7)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 7
    assert valid(env.step(ONES[:2])).all()


@pytest.mark.realtime
def test_closing_while_a_robot_is_lost_leaves_no_thread(processes, connect_all, slowdown):
    env = connect_all([robot.url for robot in processes], step_timeout=0.3 * slowdown)
    env.reset()
    processes[0].send(signal.SIGKILL)
    env.step(ONES)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 2.5 + 0.5 * slowdown
    wait_for(lambda: not [t for t in threading.enumerate() if "member" in t.name])


def test_ctrl_c_in_a_step_leaves_an_environment_that_can_be_reset(serve, connect_all):
    robots = [Hanging() for _ in range(2)]
    env = connect_all([serve(robot).url for robot in robots])
    env.reset(seed=1)

    def interrupt():
        assert all(robot.is_in.wait(5) for robot in robots)
        for robot in robots:
            robot.may_go.set()
        os.kill(os.getpid(), signal.SIGINT)

    beside = Beside(interrupt)
    with pytest.raises(KeyboardInterrupt):
        while True:
            env.step(ONES[:2])
    beside.join()
    env.reset(seed=1)
    assert valid(env.step(ONES[:2])).all()


def test_an_answer_that_ctrl_c_took_is_waited_for_by_nobody(serve, connect_all, monkeypatch):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    env.reset(seed=1)

    def interrupt(fleet, member, outcome):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("remote_env.fleet.Fleet._take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.step(ONES[:2])
    env.reset(seed=1)
    assert valid(step_until(env, lambda told: valid(told).all(), actions=ONES[:2])[-1]).all()


def interrupt_second(patched, call, *, is_before):
    """Press Ctrl-C before or after the second call of a function."""
    owner, name = pkgutil.resolve_name(f"remote_env.{call.rsplit('.', 1)[0]}"), call.split(".")[-1]
    original, called = getattr(owner, name), []

    def interrupt(*given, **named):
        called.append(given)
        if len(called) == 2 and is_before:
            raise KeyboardInterrupt
        result = original(*given, **named)
        if len(called) == 2:
            raise KeyboardInterrupt
        return result

    patched.setattr(owner, name, interrupt)


SENDING = [
    ("reset", "member.Member.send_reset"),
    ("reset", "polled_client.PolledClient.begin_reset"),
    ("step", "member.Member.send_prepared"),
    ("step", "polled_client.PolledClient.begin_step"),
]
MOMENTS = [
    "turns.Turns.wait_for",
    "turns.Turns.park",
    "turns.Turns.take_back",
    "turns.Turns.release",
    "polling.PolledChannel.come",
    "polling.PolledChannel.poll",
    "member.Member._arrive",
]


@pytest.mark.parametrize("make", [RemoteRobotVectorEnv, RemoteRobotVecEnv])
@pytest.mark.parametrize(
    ("what", "moment"), [*SENDING, *((what, m) for what in ("reset", "step") for m in MOMENTS)]
)
@pytest.mark.parametrize("is_before", [True, False])
def test_ctrl_c_at_any_moment_leaves_an_environment_that_can_be_reset(
    serve, monkeypatch, make, what, moment, is_before
):
    env = make([serve(Counter()).url for _ in range(3)])
    env.reset()
    with monkeypatch.context() as patched:
        interrupt_second(patched, moment, is_before=is_before)
        with pytest.raises(KeyboardInterrupt):
            env.reset() if what == "reset" else env.step(ONES)
    env.reset()
    assert not env.step(ONES)[2].any()
    assert not any(slot.is_down for slot in env._fleet.slots)
    env.close()


def test_ctrl_c_before_a_thread_looks_for_a_robot_leaves_one_that_comes_back(
    serve, connect_all, monkeypatch
):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    env.reset(seed=1)
    env.envs[1]._client._channel.drop()

    def interrupt(thread):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Thread.start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(ONES[:2])
    env.reset(seed=1)
    assert valid(env.step(ONES[:2])).all()


def test_a_call_from_a_signal_handler_is_refused_and_the_other_goes_on(
    serve, connect_all, monkeypatch
):
    env = connect_all([serve(Counter()).url for _ in range(2)])
    env.reset(seed=1)
    step, refused = env.envs[1].poll, []

    def handle(timeout=0.0):
        with pytest.raises(errors.LocalProtocolError, match="middle of another"):
            env.reset(seed=1)
        refused.append(True)
        return step(timeout)

    with monkeypatch.context() as patched:
        patched.setattr(env.envs[1], "poll", handle)
        told = env.step(ONES[:2])
    assert refused
    assert valid(told).all()
    assert valid(env.step(ONES[:2])).all()


@pytest.mark.realtime
def test_a_reset_after_one_that_ctrl_c_ended_looks_for_a_lost_robot_once(
    serve, connect_all, slowdown
):
    servers = [serve(Counter()) for _ in range(2)]
    env = connect_all([server.url for server in servers], reconnect_timeout=1.5)
    env.reset(seed=1)
    env.envs[0]._client._channel.break_link()
    servers[0].stop()
    main = threading.main_thread().ident
    pressing = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        env.reset(seed=2)
    pressing.join()
    began = time.monotonic()
    assert env.reset(seed=3)[1]["remote"]["valid"].tolist() == [False, True]
    assert time.monotonic() - began < 1.5 + 0.5 * slowdown
