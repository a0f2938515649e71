"""Any robot, anywhere on the network, as a Gymnasium environment that behaves.

Importing this registers ``RemoteRobot-v0`` with Gymnasium.
"""

import gymnasium

from remote_env.client import RobotClient
from remote_env.env import RemoteRobotEnv
from remote_env.errors import (
    AccessDeniedError,
    ActionRefusedError,
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EpisodeOverError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    RobotError,
    RobotFaultError,
    SensorError,
    TransportError,
    UnknownOptionError,
    UnsupportedSpaceError,
    VersionMismatchError,
)
from remote_env.protocol.wiretypes import EndReason
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind, StreamSpec

__all__ = [
    "AccessDeniedError",
    "ActionRefusedError",
    "ConfigurationError",
    "ConnectFailedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EndReason",
    "EpisodeOverError",
    "LeaseError",
    "LocalProtocolError",
    "Mode",
    "OutOfBounds",
    "RemoteEnvError",
    "RemoteProtocolError",
    "RemoteRobotEnv",
    "RobotClient",
    "RobotError",
    "RobotFaultError",
    "RobotSpec",
    "SensorError",
    "StreamKind",
    "StreamSpec",
    "TransportError",
    "UnknownOptionError",
    "UnsupportedSpaceError",
    "VersionMismatchError",
]

gymnasium.register(id="RemoteRobot-v0", entry_point="remote_env.env:RemoteRobotEnv")
