"""What Stable-Baselines3 sees of robots that fail: nothing false."""

import signal
import time

import numpy as np
import pytest
from killed_robots import ONES, Served, step_until
from lost_in_reset import lost_in_reset
from sample_robots import Counter, Limited
from seeing import Seeing, Shut
from stable_baselines3.common.vec_env import VecMonitor, VecVideoRecorder

from remote_env import ConfigurationError, errors
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_server import Mode, ProprioConfig


@pytest.fixture
def connect_all():
    made = []

    def make(urls, *, min_envs=1, **options):
        made.append(RemoteRobotVecEnv(urls, env_kwargs=options, min_envs=min_envs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(autouse=True)
def tries_again_soon(monkeypatch):
    """A robot whose reset failed is reset again, in less than the second that it may take."""
    monkeypatch.setattr("remote_env.fleet._RETRY", 0.05)


@pytest.fixture
def processes():
    robots = [Served() for _ in range(3)]
    yield robots
    for robot in robots:
        robot.end()


def is_invalid(told, index):
    return told[3][index]["remote"].get("invalid_transition", False)


class Failing(Counter):
    """Its second action breaks it, until it is mended."""

    fails = True

    def apply_action(self, action):
        if self.fails and self._steps == 1:
            raise OSError("the gearbox")
        super().apply_action(action)

    def reset(self, *, seed=None, options=None):
        if self.fails and self.actions:
            raise OSError("the door")
        return super().reset(seed=seed, options=options)


# A robot that is gone, and comes back


@pytest.mark.realtime
def test_a_killed_robot_ends_its_episode_and_comes_back_with_a_new_one(
    processes, connect_all, slowdown
):
    env = VecMonitor(connect_all([robot.url for robot in processes], step_timeout=0.5 * slowdown))
    env.reset()
    before, *_ = env.step(ONES)
    last = before["sum"][1].tolist()
    processes[1].send(signal.SIGKILL)
    began = time.monotonic()
    fall = env.step(ONES)
    assert time.monotonic() - began < 0.5 * slowdown + 0.05 + 0.1 * slowdown
    assert fall[2].tolist() == [False, True, False]
    assert [is_invalid(fall, i) for i in range(3)] == [False, True, False]
    assert fall[1][1] == 0.0
    assert fall[0]["sum"][1].tolist() == last
    assert fall[3][1]["terminal_observation"]["sum"].tolist() == last
    assert fall[3][1]["TimeLimit.truncated"] is True
    assert fall[3][1]["remote"]["end_reason"] == "link_lost"

    away = [env.step(ONES) for _ in range(20)]
    for told in away:
        assert not told[2].any()
        assert [is_invalid(told, i) for i in range(3)] == [False, True, False]
        assert told[1][1] == 0.0
        assert told[0]["sum"][1].tolist() == last
        assert told[3][1]["TimeLimit.truncated"] is False
        assert "terminal_observation" not in told[3][1]
    assert away[-1][0]["sum"][0] == pytest.approx(before["sum"][0] + 21)

    processes[1].start()
    back = step_until(env, lambda told: told[0]["sum"][1].tolist() != last, ONES)[-1]
    assert back[2].tolist() == [False, True, False]  # as always: then comes a new episode
    assert is_invalid(back, 1)
    assert back[1][1] == 0.0
    assert back[3][1]["TimeLimit.truncated"] is True
    assert back[3][1]["terminal_observation"]["sum"].tolist() == last
    assert env.venv.reset_infos[1]["start"] == 0.0
    following = env.step(ONES)
    assert not following[2].any()
    assert not any(is_invalid(following, i) for i in range(3))
    assert (following[0]["sum"][1] == back[0]["sum"][1] + 1).all()
    assert following[3][1]["steps"] == 1
    assert env.episode_lengths[1] == 1  # of VecMonitor: the rows while it was away are none


@pytest.mark.realtime
def test_a_stopped_robot_holds_nobody_past_its_deadline(processes, connect_all, slowdown):
    env = connect_all([robot.url for robot in processes], step_timeout=0.4 * slowdown)
    env.reset()
    processes[2].send(signal.SIGSTOP)
    began = time.monotonic()
    fall = env.step(ONES)
    assert time.monotonic() - began < 0.4 * slowdown + 0.05 + 0.1 * slowdown
    assert fall[2].tolist() == [False, False, True]
    took = []
    for _ in range(50):
        began = time.monotonic()
        assert is_invalid(env.step(ONES), 2)
        took.append(time.monotonic() - began)
    assert np.median(took) < 0.05 * slowdown
    processes[2].send(signal.SIGCONT)
    told = step_until(env, lambda told: not is_invalid(told, 2), ONES)
    assert sum(t[2][2] for t in told) == 1  # with the row that begins the new episode


def test_a_robot_whose_code_fails_is_reset_and_the_others_lose_nothing(serve, connect_all):
    failing = Failing()
    env = connect_all([serve(robot).url for robot in (Counter(), failing, Counter())])
    env.reset()
    env.step(ONES)
    fall = env.step(ONES)
    assert fall[2].tolist() == [False, True, False]
    assert [fall[3][i]["steps"] for i in (0, 2)] == [2, 2]
    assert "gearbox" in fall[3][1]["remote"]["end_cause"]
    failing.fails = False
    told = step_until(env, lambda told: not is_invalid(told, 1), ONES)
    assert [t[2][1] for t in told].count(True) == 1
    assert told[-2][2][1]
    assert told[-1][3][0]["steps"] == 2 + len(told)


def test_an_end_before_a_failed_reset_is_a_transition_and_the_end_of_an_episode(serve, connect_all):
    class Stuck(Limited):
        is_stuck = False

        def reset(self, *, seed=None, options=None):
            if self.is_stuck:
                raise OSError("the door")
            return super().reset(seed=seed, options=options)

    stuck = Stuck()
    env = connect_all([serve(robot).url for robot in (Counter(), stuck)])
    env.reset()
    stuck.is_stuck = True
    told = [env.step(ONES[:2]) for _ in range(5)]
    assert [bool(t[2][1]) for t in told] == [False, False, True, False, False]
    assert [is_invalid(t, 1) for t in told] == [False, False, False, True, True]
    end = told[2][3][1]
    assert end["remote"]["end_reason"] == "time_limit"
    last = told[2][0]["sum"][1].tolist()
    assert end["terminal_observation"]["sum"].tolist() == last
    assert told[2][1][1] == np.float32(last[0])  # its reward
    stuck.is_stuck = False
    back = step_until(env, lambda told: told[2][1], ONES[:2])[-1]
    assert back[0]["sum"][1].tolist() != last


def test_a_robot_that_falls_and_is_back_in_one_step_shows_both(serve, connect_all):
    """It is lost in a reset, which is done while another one still moves."""
    with lost_in_reset(serve, connect_all) as (env, during):
        env.reset()
        env.step(ONES[:2])
        env.step(ONES[:2])
        end = during(lambda: env.step(ONES[:2]))
        assert end[2].tolist() == [True, False]
        assert not is_invalid(end, 0)
        back = env.step(ONES[:2])
        assert back[2].tolist() == [True, False]
        assert is_invalid(back, 0)
        last = back[3][0]["terminal_observation"]["sum"].tolist()
        assert last == end[0]["sum"][0].tolist() != back[0]["sum"][0].tolist()
        after = env.step(ONES[:2])
        assert not is_invalid(after, 0)
        assert (after[0]["sum"][0] == back[0]["sum"][0] + 1).all()


# Too few


def test_the_only_robot_is_told_to_have_failed_and_then_waited_for(serve, connect_all):
    failing = Failing()
    env = connect_all([serve(failing).url], reconnect_timeout=20.0)
    env.reset()
    env.step(ONES[:1])
    assert env.step(ONES[:1])[2].tolist() == [True]
    failing.fails = False
    back = env.step(ONES[:1])
    assert back[2].tolist() == [True]
    assert is_invalid(back, 0)
    assert env.step(ONES[:1])[3][0]["steps"] == 1


@pytest.mark.parametrize("min_envs", [1, 2])
def test_too_few_robots_are_an_error_that_says_why(serve, connect_all, min_envs):
    robots = (Failing(), Counter())[:min_envs]
    env = connect_all(
        [serve(robot).url for robot in robots], min_envs=min_envs, reconnect_timeout=1.0
    )
    env.reset()
    env.step(ONES[:min_envs])
    assert env.step(ONES[:min_envs])[2][0]  # told first
    with pytest.raises(errors.TooFewRobotsError, match=rf"{min_envs - 1} of .* {env.urls[0]}: "):
        env.step(ONES[:min_envs])
    with pytest.raises(errors.TooFewRobotsError, match="the door"):
        env.reset()
    with pytest.raises(errors.LocalProtocolError, match="call step_async"):
        env.step_wait()  # the rows of the reset are for nobody
    robots[0].fails = False
    env.reset()
    assert not is_invalid(env.step(ONES[:min_envs]), 0)


def test_who_is_back_in_a_step_that_was_waited_for_twice_ends_what_was_before(serve, connect_all):
    robots = [Failing(), Failing()]
    urls = [serve(robot).url for robot in robots]
    env = connect_all(urls, min_envs=2, reconnect_timeout=2.0)
    env.reset()
    env.step(ONES[:2])
    fall = env.step(ONES[:2])
    assert fall[2].tolist() == [True, True]
    robots[0].fails = False
    env.step_async(ONES[:2])
    with pytest.raises(errors.TooFewRobotsError):
        env.step_wait()
    robots[1].fails = False
    back = env.step_wait()
    assert back[2].tolist() == [True, True]
    last = [info["terminal_observation"]["sum"].tolist() for info in back[3]]
    assert last == fall[0]["sum"].tolist() != back[0]["sum"].tolist()


def test_a_robot_that_was_never_reset_is_black_in_videos(serve, connect_all, tmp_path):
    pytest.importorskip("moviepy", reason="VecVideoRecorder needs moviepy")
    urls = [serve(robot, mode="lockstep").url for robot in (Shut(), Seeing())]
    env = connect_all(urls, render_mode="rgb_array")
    video = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=2)
    video.reset()
    video.step(ONES[:2])
    video.step(ONES[:2])
    first, second = env.get_images()
    assert first.shape == second.shape
    assert second.any()
    assert not first.any()
    assert next(tmp_path.glob("*.mp4")).stat().st_size > 0


def test_a_robot_that_is_down_at_the_start_comes_later(serve, connect_all):
    class Closed(Counter):
        is_closed_now = True

        def reset(self, *, seed=None, options=None):
            if self.is_closed_now:
                raise OSError("the door")
            return super().reset(seed=seed, options=options)

    closed = Closed()
    env = connect_all([serve(robot).url for robot in (closed, Counter())])
    assert env.reset()["sum"][0].tolist() == [0.0, 0.0]
    assert env.reset_infos[0]["remote"]["invalid_transition"]
    assert is_invalid(env.step(ONES[:2]), 0)
    closed.is_closed_now = False
    back = step_until(env, lambda told: told[2][0], ONES[:2])[-1]
    assert back[0]["sum"][0].tolist() != [0.0, 0.0]
    assert is_invalid(back, 0)
    assert back[3][0]["terminal_observation"]["sum"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("options", [{"min_envs": 3}, {"on_link_loss": "raise"}])
def test_what_makes_no_sense_is_refused(serve, connect_all, options):
    urls = [serve(Counter()).url for _ in range(2)]
    with pytest.raises(ConfigurationError, match="min_envs"):
        connect_all(urls, **options)


def test_actions_that_are_no_numbers_are_sent_to_nobody(serve, connect_all):
    robots = [Counter() for _ in range(3)]
    env = connect_all([serve(robot).url for robot in robots])
    env.reset()
    actions = ONES.copy()
    actions[1, 0] = np.nan
    with pytest.raises(errors.ActionRefusedError, match="row 1 .*not finite"):
        env.step(actions)
    assert [len(robot.actions) for robot in robots] == [0, 0, 0]
    assert not env.step(ONES)[2].any()


# Sensors


class Forgetful(Counter):
    """Its only sensor says nothing for a while."""

    modes = (Mode.REALTIME,)
    is_silent = False

    def reset(self, *, seed=None, options=None):
        self.is_silent = False
        return super().reset(seed=seed, options=options)

    def proprio_configs(self):
        bounds = {"low": -1e6, "high": 1e6}
        return [ProprioConfig("sum", 2, np.float64, hz=50.0, max_age=0.15, **bounds)]

    def update_proprio(self, name, value, **options):
        if not self.is_silent:
            super().update_proprio(name, value, **options)


@pytest.mark.parametrize("on_stale", ["flag", "truncate"])
def test_what_ends_or_begins_with_a_stale_observation_is_marked(serve, connect_all, on_stale):
    robot = Forgetful()
    env = connect_all([serve(robot).url], on_stale=on_stale)
    env.reset()

    def look(told):
        info = told[3][0]
        return bool(info["remote"].get("stale")), bool(told[2][0]), is_invalid(told, 0)

    told = [look(env.step(ONES[:1])) for _ in range(3)]
    robot.is_silent = True
    told += [look(t) for t in step_until(env, lambda told: look(told)[0], ONES[:1])]
    if on_stale == "flag":
        told += [look(env.step(ONES[:1])) for _ in range(2)]
        robot.is_silent = False
        told += [look(t) for t in step_until(env, lambda told: not look(told)[2], ONES[:1])]
    else:
        told += [look(env.step(ONES[:1]))]
    stale, dones, invalid = np.array(told).T
    assert stale.any()
    began_stale = np.concatenate([[False], stale[:-1] & ~dones[:-1]])
    assert invalid.tolist() == (stale | began_stale).tolist()
    assert (dones == (stale if on_stale == "truncate" else np.zeros_like(stale))).all()
    assert not invalid[:3].any()
    assert began_stale.any() == (on_stale == "flag")


@pytest.mark.parametrize("ended", [False, True], ids=["reset", "autoreset"])
def test_what_begins_with_a_stale_observation_of_a_reset_is_marked(serve, connect_all, ended):
    class Late(Forgetful):
        resets = 0
        max_episode_steps = 2

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed, options=options)
            self.resets += 1
            if self.resets == 1 + ended:
                time.sleep(0.4)

    env = connect_all([serve(Late()).url], on_stale="flag")
    env.reset()
    for _ in range(2 * ended):
        told = env.step(ONES[:1])
        assert not is_invalid(told, 0)
    assert env.reset_infos[0]["remote"]["stale"]
    told = env.step(ONES[:1])
    assert not told[3][0]["remote"].get("stale")
    assert is_invalid(told, 0)
    assert not is_invalid(env.step(ONES[:1]), 0)
