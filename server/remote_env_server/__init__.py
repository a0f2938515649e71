"""The robot's side: implement a ``Robot``, hand it to a ``RobotServer``."""

from remote_env.goals import GoalReward
from remote_env.protocol.wiretypes import EndReason
from remote_env.spec import ActionLimit, Mode, OutOfBounds
from remote_env_server.app import DEFAULT_PORT, RobotServer
from remote_env_server.configs import CameraConfig, ProprioConfig
from remote_env_server.local import LocalRobotEnv
from remote_env_server.robot import Outcome, Robot
from remote_env_server.snapshot import Snapshot

__all__ = [
    "DEFAULT_PORT",
    "ActionLimit",
    "CameraConfig",
    "EndReason",
    "GoalReward",
    "LocalRobotEnv",
    "Mode",
    "OutOfBounds",
    "Outcome",
    "ProprioConfig",
    "Robot",
    "RobotServer",
    "Snapshot",
]
