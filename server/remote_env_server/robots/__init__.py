"""The robots that we ship, and how a name finds one."""

from __future__ import annotations

from typing import Any

from remote_env.errors import ConfigurationError
from remote_env_server.robot import Robot
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

def make_robot(name: str) -> Robot:
    return GymnasiumRobot(GymnasiumConfig(name.partition(":")[2]))
