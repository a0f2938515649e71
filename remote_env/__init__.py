"""Any robot, anywhere on the network, as a Gymnasium environment that behaves.

Importing this registers ``RemoteRobot-v0`` with Gymnasium.
"""

import gymnasium

from remote_env.client import RobotClient
from remote_env.emergency import emergency_stop, release_stop
from remote_env.env import RemoteRobotEnv
from remote_env.errors import (
    AccessDeniedError,
    ActionRefusedError,
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    EmergencyStopError,
    EpisodeOverError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    ResetCancelledError,
    RobotError,
    RobotFaultError,
    SensorError,
    TooFewRobotsError,
    TransportError,
    UnknownOptionError,
    UnsupportedSpaceError,
    VersionMismatchError,
)
from remote_env.goals import GoalReward
from remote_env.observer import Observed, Observer, observe
from remote_env.protocol.wiretypes import EndReason
from remote_env.spec import (
    ActionLimit,
    Mode,
    OnStale,
    OutOfBounds,
    RobotSpec,
    StreamKind,
    StreamSpec,
)
from remote_env.stream_requests import StreamRequest
from remote_env.timing import ClientStatistics
from remote_env.vector import Ready, RemoteRobotVectorEnv

__all__ = [
    "AccessDeniedError",
    "ActionLimit",
    "ActionRefusedError",
    "ClientStatistics",
    "ConfigurationError",
    "ConnectFailedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EmergencyStopError",
    "EndReason",
    "EpisodeOverError",
    "GoalReward",
    "LeaseError",
    "LocalProtocolError",
    "Mode",
    "Observed",
    "Observer",
    "OnStale",
    "OutOfBounds",
    "Ready",
    "RemoteEnvError",
    "RemoteProtocolError",
    "RemoteRobotEnv",
    "RemoteRobotVectorEnv",
    "ResetCancelledError",
    "RobotClient",
    "RobotError",
    "RobotFaultError",
    "RobotSpec",
    "SensorError",
    "StreamKind",
    "StreamRequest",
    "StreamSpec",
    "TooFewRobotsError",
    "TransportError",
    "UnknownOptionError",
    "UnsupportedSpaceError",
    "VersionMismatchError",
    "emergency_stop",
    "observe",
    "release_stop",
]

gymnasium.register(
    id="RemoteRobot-v0",
    entry_point="remote_env.env:RemoteRobotEnv",
    vector_entry_point="remote_env.vector:RemoteRobotVectorEnv",
)
