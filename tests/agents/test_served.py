"""Robots served by processes of their own."""

import gc

import pytest

import remote_env
from remote_env import ConfigurationError, ConnectFailedError
from remote_env_agents import ServedRobots


def is_there(url):
    client = remote_env.RobotClient(url, role="observe")
    try:
        client.connect()
    except ConnectFailedError:
        return False
    else:
        return True
    finally:
        client.close()


def test_robots_are_there_while_the_block_lasts():
    robots = ServedRobots("double-pendulum", count=2)
    with robots as urls:
        assert len(set(urls)) == 2
        assert all(map(is_there, urls))
    assert not any(map(is_there, urls))


def test_robots_that_nobody_refers_to_any_more_are_stopped():
    robots = ServedRobots("double-pendulum")
    (url,) = robots.urls
    assert is_there(url)
    del robots
    gc.collect()
    assert not is_there(url)


def test_a_robot_that_cannot_be_served_says_why():
    with (
        pytest.raises(ConfigurationError, match=r"nobody cannot be served: .*'nobody'"),
        ServedRobots("nobody"),
    ):
        pass
