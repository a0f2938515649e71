"""The field's own checkers, in full. Warnings are errors."""

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import remote_env  # noqa: F401 (registers the environment)
from remote_env_server.robots import make_robot

# What the served environment's own spaces are warned for, served or not.
OF_THE_ENVIRONMENT = "ignore:.*(infinity|symmetric and normalized).*:UserWarning"


def test_the_embedded_robot_passes_both_checkers_without_a_warning():
    with gym.make("RemoteRobot-v0") as env:
        check_env(env.unwrapped)
        check_env_for_sb3(env)


def test_the_embedded_robot_with_pictures_passes_both_checkers_without_a_warning():
    streams = ["joint_pos", "joint_vel", "camera/image"]
    with gym.make("RemoteRobot-v0", streams=streams) as env:
        check_env(env.unwrapped)
        check_env_for_sb3(env)


def test_a_double_pendulum_behind_a_url_passes_both_checkers_without_a_warning(serve):
    server = serve(make_robot("double-pendulum"))
    with gym.make("RemoteRobot-v0", url=server.url) as env:
        check_env(env.unwrapped)
        check_env_for_sb3(env)


@pytest.mark.filterwarnings(OF_THE_ENVIRONMENT)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_a_served_environment_passes_both_checkers(env_id, serve):
    server = serve(make_robot(f"gymnasium:{env_id}"))
    with gym.make("RemoteRobot-v0", url=server.url) as env:
        check_env(env.unwrapped)
        check_env_for_sb3(env)


def test_an_arm_passes_both_checkers_without_a_warning(serve):
    pytest.importorskip("mujoco")
    server = serve(make_robot("arm"))
    with gym.make("RemoteRobot-v0", url=server.url) as env:
        check_env(env.unwrapped)
        check_env_for_sb3(env.unwrapped)
