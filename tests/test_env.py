"""The learner's environment against real servers: what it promises, and how it fails."""

import logging
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sample_robots import Clipping, Counter, Limited, Rig

import remote_env
from remote_env import errors
from remote_env_server.logs import wait_for_logs

# What it promises


def test_the_first_line_a_newcomer_types_works(caplog):
    with caplog.at_level(logging.WARNING), gym.make("RemoteRobot-v0") as env:
        observation, info = env.reset(seed=1)
        assert env.observation_space.contains(observation)
        assert info["remote"]["seed_applied"] is True
    wait_for_logs()
    assert [r.message for r in caplog.records if "no url was given" in r.message] != []


def test_spaces_come_from_the_robot(env):
    assert env.observation_space == spaces.Dict({"sum": spaces.Box(-1e6, 1e6, (2,), np.float64)})
    assert env.action_space == Counter.action_space


def test_the_same_seed_gives_the_same_episode(env):
    first = env.reset(seed=7)[0]["sum"]
    assert np.array_equal(env.reset(seed=7)[0]["sum"], first)
    assert not np.array_equal(env.reset(seed=8)[0]["sum"], first)


def test_every_array_is_the_callers_own_and_writable(env):
    first, _ = env.reset(seed=1)
    second, *_ = env.step(np.zeros(2, np.float32))
    first["sum"][:] = 99.0
    assert not np.shares_memory(first["sum"], second["sum"])
    assert second["sum"][0] != 99.0


def test_the_robots_own_info_stays_as_it_is(env):
    _, info = env.reset(seed=1, options={"start": 2.0})
    assert info.pop("remote")["seed_applied"] is True
    assert info == {"start": 2.0}


def test_info_tells_what_was_executed(serve, connect):
    env = connect(serve(Clipping()).url)
    env.reset(seed=1)
    *_, info = env.step(np.array([0.5, 3.0], np.float32))
    assert info["remote"]["action_executed"].tolist() == [0.5, 1.0]


def test_the_robots_code_runs_on_the_control_thread_alone(counter, env):
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))
    assert counter.threads == {"remote-env control"}


def test_the_time_limit_of_the_robot_truncates_and_is_in_the_spec(serve, connect):
    env = connect(serve(Limited()).url)
    env.reset(seed=1)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(2)]
    *_, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert flags == [(False, False), (False, False)]
    assert (terminated, truncated) == (False, True)
    assert info["remote"]["end_reason"] == "time_limit"
    assert env.spec_of_robot.max_episode_steps == 3


def test_streams_choose_the_observation_and_calibration_comes_in_info(connect, serve):
    env = connect(serve(Rig()).url, streams=["cam/depth"])
    observation, info = env.reset()
    assert list(observation) == ["cam/depth"]
    assert env.observation_space.contains(observation)
    assert info["remote"]["cameras"]["cam"]["extrinsics"].tolist() == np.eye(4).tolist()
    assert "intrinsics" not in info["remote"]["cameras"]["cam"]  # neither declared nor updated


def test_render_tiles_the_newest_pictures(serve, connect):
    env = connect(serve(Rig()).url, render_mode="rgb_array")
    env.reset()
    picture = env.render()
    assert picture.shape == (24, 32, 3)
    assert picture.dtype == np.uint8
    assert picture.max() > 0


def test_render_shows_a_camera_that_is_not_observed(serve, connect):
    env = connect(serve(Rig()).url, render_mode="rgb_array", streams=["joint_pos"])
    observation, _ = env.reset()
    assert list(observation) == ["joint_pos"]
    assert env.render().shape == (24, 32, 3)


def test_render_without_any_camera_is_a_clear_error(counter, connect):
    with pytest.raises(errors.ConfigurationError, match="needs a camera, and Counter offers none"):
        connect(counter.server.url, render_mode="rgb_array")


def test_close_is_idempotent_and_leaves_no_thread(serve):
    server = serve(Counter())
    before = set(threading.enumerate())
    env = remote_env.RemoteRobotEnv(server.url)
    env.reset(seed=1)
    env.close()
    env.close()
    left = {t for t in set(threading.enumerate()) - before if t.name != "remote-env keeper"}
    assert left == set()


def test_closing_an_embedded_robot_stops_its_server():
    before = set(threading.enumerate())  # other tests may have left some that are just ending
    env = gym.make("RemoteRobot-v0", robot="gymnasium:CartPole-v1")
    env.reset(seed=1)
    env.close()
    names = {thread.name for thread in threading.enumerate() if thread not in before}
    assert "remote-env control" not in names
    assert "remote-env network" not in names


def test_a_spec_can_be_saved_and_gives_spaces_without_a_robot(env, tmp_path):
    env.spec_of_robot.save(tmp_path / "robot.spec")
    loaded = remote_env.RobotSpec.load(tmp_path / "robot.spec")
    assert loaded.space_of(None) == env.observation_space
    assert loaded.action_space == env.action_space
    assert loaded.hash() == env.spec_of_robot.hash()


def test_vector_environments_of_gymnasium_work(counter):
    urls = [counter.server.url]
    envs = gym.vector.SyncVectorEnv([lambda: remote_env.RemoteRobotEnv(urls[0])])
    observations, _ = envs.reset(seed=1)
    assert observations["sum"].shape == (1, 2)
    envs.close()
