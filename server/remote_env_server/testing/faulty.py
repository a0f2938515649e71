"""A robot whose driver and sensors fail when they are told to.

    robot = MyRobot()
    with inject(robot) as faults, RobotServer(robot, port=0) as server:
        faults.throw("apply_action", OSError("no answer"), times=1)
        faults.freeze("wrist_cam")

The methods of this one instance are wrapped; its class is left alone.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from remote_env.errors import ConfigurationError
from remote_env_server.robot import Robot
from remote_env_server.sensors import SensorThread
from remote_env_server.testing.calls import LONGEST_LOG, CallFaults
from remote_env_server.testing.publications import PublicationFaults

__all__ = ["Faults", "inject"]

_METHODS: Final = ("open", "close", "reset", "apply_action", "get_obs", "outcome", "hold")
_MARK: Final = "_injected_faults"


def inject(robot: Robot) -> Faults:
    """Make a robot fail on command; until then it behaves as before.

    Args:
        robot: Constructed and not opened yet.

    Raises:
        ConfigurationError: If it was done already, or its sensors run.
    """
    name = type(robot).__name__
    if hasattr(robot, _MARK):
        raise ConfigurationError(f"this {name} has its faults already; inject() once")
    if robot.sensors:
        raise ConfigurationError(f"the sensors of this {name} run already; inject() before open")
    return Faults(robot)


class Faults:
    """The faults of one robot. Safe to use from any thread.

    Faults of calls (``throw``, ``hang``, ``slow``) go by the name of a method, or of a
    sensor thread once it is started. Faults of what is published (``freeze``, ``silence``,
    ``nan``, ``stop_clock``) go by the name of a camera or of a proprioception stream.
    A name that nobody has is a ``ConfigurationError``. Faults of one name combine.

    All calls are faulty, also those that the robot makes of its own methods.
    A ``with`` block heals at its end, so that no test leaves a call behind that hangs.
    """

    def __init__(self, robot: Robot) -> None:
        """See ``inject``."""
        self._name = type(robot).__name__
        self._calls = {name: CallFaults() for name in _METHODS}
        self._actions: deque[Any] = deque(maxlen=LONGEST_LOG)
        self._published = PublicationFaults(robot)
        before: dict[str, Callable[..., None]] = {
            "apply_action": self._note_action,
            "close": self._release,
        }
        wrapped = {
            name: faults.wrap(getattr(robot, name), before.get(name))
            for name, faults in self._calls.items()
        }
        wrapped["start_sensor"] = self._wrap_start_sensor(robot.start_sensor)
        wrapped["update_camera"] = self._published.wrap_camera(robot.update_camera)
        wrapped["update_proprio"] = self._published.wrap_proprio(robot.update_proprio)
        for name, function in wrapped.items():
            setattr(robot, name, function)
        setattr(robot, _MARK, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.heal()

    # What happened

    def calls(self, name: str) -> tuple[float, ...]:
        """Return when a method or a sensor's function was called, ``time.monotonic``, seconds.

        Noted at the beginning of the call, also of one that then fails or hangs; the last
        100 000 are kept.
        """
        return tuple(self._of(name).moments)

    @property
    def actions(self) -> tuple[Any, ...]:
        """Copies of the actions that ``apply_action`` was called with; beside its ``calls``."""
        return tuple(self._actions)

    # Faults of calls

    def throw(
        self,
        name: str,
        error: BaseException | type[BaseException],
        *,
        times: int | None = None,
    ) -> None:
        """Raise in place of the next calls, or of all calls until it is healed.

        Args:
            name: Of a method or a sensor.
            error: What to raise.
            times: How often; None is always.
        """
        if times is not None and times < 1:
            raise ConfigurationError(f"times must be at least 1, not {times!r}")
        self._of(name).throw(error, times)

    def slow(self, name: str, seconds: float) -> None:
        """Delay every call by so long, before it does anything."""
        if not seconds > 0:
            raise ConfigurationError(f"seconds must be positive, not {seconds!r}")
        self._of(name).delay(seconds)

    def hang(self, name: str, *, timeout: float = 60.0) -> None:
        """Let every call hang until it is healed; then it goes on and does its work.

        The robot's ``close`` frees all calls but its own. A thread of Python cannot be
        interrupted: one that still hangs is freed after the timeout.

        Args:
            name: Of a method or a sensor.
            timeout: The longest that a call hangs, in seconds.
        """
        self.slow(name, timeout)

    # Faults of what is published

    def freeze(self, name: str) -> None:
        """Publish the newest content again and again, each time with the new stamp.

        Like a camera whose driver hands out the same buffer. If nothing was published yet,
        the first content is what stays.
        """
        self._published.freeze(name)

    def silence(self, name: str) -> None:
        """Drop all that is published; the sensor's thread goes on."""
        self._published.silence(name)

    def nan(self, name: str) -> None:
        """Publish NaN in place of floating point: the stream, or a camera's image and depth.

        Raises:
            ConfigurationError: Also if nothing of it is floating point.
        """
        self._published.nan(name)

    def stop_clock(self, name: str) -> None:
        """Publish new content with the newest stamp that there was: a clock that stands."""
        self._published.stop_clock(name)

    def heal(self, name: str | None = None) -> None:
        """End all faults, or all of one name; calls that hang go on."""
        if name is not None and name not in self._published.names:
            self._of(name)  # says so if nobody has that name
        for called in list(self._calls) if name is None else [name]:
            if called in self._calls:
                self._calls[called].heal()
        for stream in self._published.names if name is None else [name]:
            self._published.heal(stream)

    def _of(self, name: str) -> CallFaults:
        try:
            return self._calls[name]
        except KeyError:
            raise ConfigurationError(
                f"{self._name} has no method and no sensor {name!r}; there are: "
                f"{', '.join(self._calls)}. Sensors are known once the robot has started them"
            ) from None

    def _note_action(self, action: Any) -> None:
        self._actions.append(copy.deepcopy(action))

    def _release(self) -> None:
        for name, faults in list(self._calls.items()):
            if name != "close":
                faults.delay(0.0)

    def _wrap_start_sensor(self, start: Callable[..., SensorThread]) -> Callable[..., SensorThread]:
        @functools.wraps(start)
        def start_sensor(
            name: str,
            read: Callable[[], object],
            *,
            hz: float | None = None,
            at_end: Callable[[], object] | None = None,
        ) -> SensorThread:
            faults = self._calls.setdefault(name, CallFaults())
            return start(name, faults.wrap(read), hz=hz, at_end=at_end)

        return start_sensor
