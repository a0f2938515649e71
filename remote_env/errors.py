"""The errors that this project raises, and how each crosses the wire.

    RemoteEnvError
    ├── ConfigurationError (ValueError)      a declaration or an argument is wrong
    │   └── UnsupportedSpaceError            a space that fixed-shape arrays cannot carry
    ├── ProtocolError
    │   ├── LocalProtocolError               our caller's bug: step before reset
    │   │   └── UnsupportedValueError (TypeError)  what the wire cannot carry (protocol/values.py)
    │   └── RemoteProtocolError              the peer's bug, or noise
    │       └── VersionMismatchError         the peer speaks another wire version
    ├── TransportError (ConnectionError)     nobody's bug
    │   ├── ConnectFailedError               no robot server answers there
    │   ├── ConnectionLostError              it did, and now it is gone
    │   │   ├── ServerStoppedError           with a goodbye (channel.py)
    │   │   └── SessionLostError             and the server knows nothing of it (channel.py)
    │   └── DeadlineExceededError (TimeoutError)
    ├── TooFewRobotsError                    of several robots, more are down than may be
    ├── CheckpointError (OSError)             a checkpoint cannot be written (remote_env_agents)
    ├── LearnerLostError                     the background learner is gone (remote_env_agents)
    ├── ConformanceError (AssertionError)    a robot breaks the rules (remote_env_server.testing)
    └── RobotError                           the robot refused
        ├── AccessDeniedError (PermissionError)
        ├── ActionRefusedError (ValueError)  shape, dtype, bounds, too fast, too late
        ├── EmergencyStopError               somebody pressed the emergency stop
        ├── EpisodeOverError                 a step after the end of the episode
        ├── LeaseError                       somebody else commands the robot
        ├── ResetCancelledError              nobody wanted this reset any more
        ├── RobotFaultError                  the driver raised an exception
        ├── SensorError                      a stream does not deliver
        └── UnknownOptionError (ValueError)  reset(options=...) with a name nobody knows

Those with a place beside them are defined there.
Blame is part of the type. Each class has a stable ``code``; that and the message are all
that crosses the wire, never a traceback. A code may be refined after a dot
(``action.bounds``): the receiving side finds the class by the longest prefix it knows.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "ActionRefusedError",
    "ConfigurationError",
    "ConnectFailedError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EmergencyStopError",
    "EpisodeOverError",
    "LeaseError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteEnvError",
    "RemoteProtocolError",
    "ResetCancelledError",
    "RobotError",
    "RobotFaultError",
    "SensorError",
    "TooFewRobotsError",
    "TransportError",
    "UnknownOptionError",
    "UnsupportedSpaceError",
    "VersionMismatchError",
    "error_from_wire",
]


class RemoteEnvError(Exception):
    """The root of all errors of this project.

    Attributes:
        code: Stable and machine-readable; the class's own, or a refinement of it.
        retryable: Whether the same call may succeed later with nothing changed.
    """

    code: str = "error"
    retryable: bool = False

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class ConfigurationError(RemoteEnvError, ValueError):
    """A declaration of the robot's author, or an argument, is wrong."""

    code = "configuration"


class UnsupportedSpaceError(ConfigurationError):
    """A space that cannot be carried as a fixed list of fixed-shape arrays."""

    code = "configuration.space"


class ProtocolError(RemoteEnvError):
    """Somebody broke the protocol; the subclass says who."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """Our own caller asked for something that is not possible now."""

    code = "protocol.local"


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow, or noise."""

    code = "protocol.remote"


class VersionMismatchError(RemoteProtocolError):
    """The peer speaks another version of our wire format."""

    code = "protocol.version"


class TransportError(RemoteEnvError, ConnectionError):
    """The bytes did not get through, and neither side's program is to blame."""

    code = "transport"
    retryable = True


class ConnectFailedError(TransportError):
    """No robot server answers at this address."""

    code = "transport.connect"


class ConnectionLostError(TransportError):
    """The connection stood, and is gone."""

    code = "transport.lost"


class DeadlineExceededError(TransportError, TimeoutError):
    """No reply within the time allowed.

    Attributes:
        waited: How long we waited, in seconds.
    """

    code = "transport.deadline"

    def __init__(self, message: str, *, waited: float) -> None:
        super().__init__(message)
        self.waited = waited


class TooFewRobotsError(RemoteEnvError):
    """Of several robots fewer are up than are needed; the message says why each is down."""

    code = "vector.too_few"


class RobotError(RemoteEnvError):
    """The robot's side understood, and refused."""

    code = "robot"


class AccessDeniedError(RobotError, PermissionError):
    """The token is missing, wrong, or does not allow this."""

    code = "robot.access"


class ActionRefusedError(RobotError, ValueError):
    """The action was not executed: shape, dtype or values are wrong, or it is too fast."""

    code = "robot.action"


class EmergencyStopError(RobotError):
    """The emergency stop is pressed; nothing moves until somebody releases it."""

    code = "robot.emergency_stop"


class EpisodeOverError(RobotError):
    """A step was asked for after the end of the episode."""

    code = "robot.episode_over"


class LeaseError(RobotError):
    """Somebody else commands the robot; the message names the owner."""

    code = "robot.lease"


class ResetCancelledError(RobotError):
    """A reset was given up: its learner left or cancelled, or the robot was stopped."""

    code = "robot.cancelled"


class RobotFaultError(RobotError):
    """The robot's own code raised an exception; the robot holds."""

    code = "robot.fault"


class SensorError(RobotError):
    """A stream has not delivered, or its thread has failed."""

    code = "robot.sensor"


class UnknownOptionError(RobotError, ValueError):
    """``reset(options=...)`` holds a name that this robot does not know."""

    code = "robot.option"


_FROM_WIRE: dict[str, type[RemoteEnvError]] = {
    cls.code: cls
    for cls in (
        RemoteEnvError,
        ConfigurationError,
        RemoteProtocolError,
        VersionMismatchError,
        RobotError,
        AccessDeniedError,
        ActionRefusedError,
        EmergencyStopError,
        EpisodeOverError,
        LeaseError,
        ResetCancelledError,
        RobotFaultError,
        SensorError,
        UnknownOptionError,
    )
}
_LONGEST_MESSAGE = 2000


def error_from_wire(code: str, message: str, *, retryable: bool) -> RemoteEnvError:
    """Build the error that a peer reported.

    Args:
        code: The code on the wire. Unknown ones fall back to the longest known prefix.
        message: Shown to the user; cut to 2000 characters.
        retryable: Whether the same call may succeed later with nothing changed.

    Returns:
        An instance of the most specific class that we know for this code.
    """
    prefix = code
    while prefix and prefix not in _FROM_WIRE:
        prefix = prefix.rpartition(".")[0]
    error_class = _FROM_WIRE.get(prefix, RemoteEnvError)
    return error_class(message[:_LONGEST_MESSAGE], code=code, retryable=retryable)
