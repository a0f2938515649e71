"""What the author of a robot implements. A ``Robot`` knows no network.

Methods may be ``def`` or ``async def``; either way they run on the control thread, which
owns the hardware, and never on the network's. Sensor threads, started with
``start_sensor``, publish whole captures into the buffers at any time.

Life cycle::

    __init__   declares; touches no hardware
    open       connects to the hardware, starts sensors          (control thread)
    reset, apply_action, get_obs, outcome, hold, stop            (control thread)
    close      stops moving, disconnects                         (control thread)
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from remote_env.errors import ConfigurationError, ResetCancelledError
from remote_env.goals import GoalReward
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import EndReason
from remote_env.spec import ActionLimit, Mode, OutOfBounds, StreamSpec
from remote_env_server.buffers import CameraBuffer, Preparing, ProprioBuffer
from remote_env_server.configs import CameraConfig, ProprioConfig
from remote_env_server.sensors import SensorThread
from remote_env_server.snapshot import Snapshot, take_snapshot
from remote_env_server.streams import describe_streams, observation_space_of

__all__ = ["CameraConfig", "Observation", "Outcome", "ProprioConfig", "Robot"]

# A snapshot of the buffers, or for robots with an observation space of their own a value of it.
Observation: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to.

    Attributes:
        reward: For this step; a float, an int or a numpy scalar, handed on with its type.
        terminated: Whether the task's own end was reached, good or bad.
        truncated: Whether the robot cuts the episode short for a reason outside the task.
        info: Goes to the learner as it is.
        end_reason: Why it was cut short; only with ``truncated``.
    """

    reward: Any = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Value] = field(default_factory=dict)
    end_reason: EndReason = EndReason.ROBOT


class Robot:
    """One robot: its sensors, its motors, its idea of safety.

    Implement ``apply_action`` and ``reset``, declare ``action_space`` and cameras or
    proprioception, and call ``super().__init__()`` if you have an ``__init__``.

    Attributes:
        name: For people; the class's name unless set.
        modes: What the robot can do; the first is the default.
        mode: In which it is served; set by the server before ``open``.
        action_space: A Gymnasium space with real limits.
        control_hz: Actions per second.
        out_of_bounds: What happens to an action outside ``action_space`` or ``action_limits``.
        action_limits: How fast actions may change, and how far they may be from the measured
            state; for a Dict or Tuple a mapping by the name of the leaf: ``"arm/target"``.
        max_episode_steps: The robot's own limit, or None.
        seedable: Whether ``reset(seed=...)`` decides the episode. Say True only if so.
        stop_is_thread_safe: Whether ``stop`` may be called while another method of this robot
            runs. Then the emergency stop does not wait for it.
        simulated_latency: Seconds by which every reply is held back, by a timer: simulated latency.
        reset_options: The names that ``reset(options=...)`` may hold, with one line of
            help for each; None hands everything on.
        goal_reward: What a step is worth for any goal, for learners that use HER; needs the
            streams ``achieved_goal`` and ``desired_goal``. None if the reward is something else.
    """

    name: str = ""
    modes: ClassVar[tuple[Mode, ...]] = (Mode.REALTIME,)
    action_space: spaces.Space[Any]
    control_hz: float = 10.0
    out_of_bounds: OutOfBounds = OutOfBounds.REFUSE
    action_limits: ActionLimit | Mapping[str, ActionLimit] | None = None
    max_episode_steps: int | None = None
    seedable: bool = False
    stop_is_thread_safe: bool = False
    simulated_latency: float = 0.0
    reset_options: Mapping[str, str] | None = {}
    goal_reward: GoalReward | None = None

    def __init__(self) -> None:
        """Allocate the buffers of all declared cameras and streams.

        Raises:
            ConfigurationError: If two have the same name.
        """
        self.mode = self.modes[0]
        self._cameras: dict[str, CameraBuffer] = {}
        self._proprios: dict[str, ProprioBuffer] = {}
        self._sensors: list[SensorThread] = []
        self._subscribed: frozenset[str] = frozenset()
        self._simulated_time = 0.0
        self._is_served = False
        self.set_reset_job(lambda fraction, text: None, lambda: False)
        cameras, proprios = list(self.camera_configs()), list(self.proprio_configs())
        names = [camera.name for camera in cameras] + [proprio.name for proprio in proprios]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(
                    f"{type(self).__name__} declares {name!r} twice; names of cameras and "
                    "proprioception streams must be unique"
                )
        for camera in cameras:
            self._cameras[camera.name] = CameraBuffer(camera)
        for proprio in proprios:
            self._proprios[proprio.name] = ProprioBuffer(proprio)

    # What there is

    def camera_configs(self) -> Sequence[CameraConfig]:
        """Declare the cameras; called once, at construction."""
        return ()

    def proprio_configs(self) -> Sequence[ProprioConfig]:
        """Declare the proprioception streams; called once, at construction."""
        return ()

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """A flat Dict of all streams that are not ``on_request``."""
        return observation_space_of(self.streams())

    def streams(self) -> tuple[StreamSpec, ...]:
        """Everything that can be subscribed to."""
        return describe_streams(
            [buffer.config for buffer in self._cameras.values()],
            [buffer.config for buffer in self._proprios.values()],
        )

    def get_metadata(self) -> Mapping[str, Value] | Awaitable[Mapping[str, Value]]:
        """Return anything else that a learner may want to know; called once.

        ``action_delay``, seconds from an applied action to an observation that shows it, tells
        ``remote_env.wrappers.ActionHistory`` how many actions are under way.
        """
        return {}

    # What it does

    def open(self) -> Awaitable[None] | None:
        """Connect to the hardware and start the sensors."""

    def close(self) -> Awaitable[None] | None:
        """Disconnect; sensor threads started with ``start_sensor`` are stopped after it."""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Value] | None = None) -> Any:
        """Bring the robot to the beginning of an episode; return when it is ready.

        Returns:
            None, an ``info`` dict, or ``(observation, info)``. In realtime the learner
            gets an observation captured after this returned, whatever this returns.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement reset()")

    def apply_action(self, action: Any) -> Awaitable[None] | None:
        """Make the motors move. Return at once in realtime; do not wait for the motion.

        Args:
            action: A value of ``action_space``: checked, finite, within bounds and limits.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement apply_action()")

    def get_obs(self) -> Observation | Awaitable[Observation]:
        """Return the observation of now: a snapshot of the buffers."""
        return self.make_obs()

    def outcome(self, observation: Observation) -> Outcome | Awaitable[Outcome]:
        """Judge a step by the very observation that is sent.

        Args:
            observation: What ``get_obs`` returned.
        """
        return Outcome()

    def hold(self) -> Awaitable[None] | None:
        """Make the robot safe where it is: hold its position, or stop its motion.

        Called in realtime when no new action came in time, at errors, and at the end of
        an episode. A robot that moves must implement it; the default does nothing.
        """

    def stop(self) -> Awaitable[None] | None:
        """Stop at once: somebody pressed the emergency stop. Holds, unless implemented.

        Called ahead of everything that is queued, as soon as the robot's code returns; at
        once and on a thread of its own if ``stop_is_thread_safe``. Stays in force until it is
        released; then ``reset`` is the place to make the robot ready again.
        """
        return self.hold()

    # A reset that takes long

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell the learner how far a reset is, and give it up if nobody wants it any more.

        Call it from ``reset``, as often as you like.

        Args:
            fraction: From 0 to 1; NaN if the robot cannot tell.
            text: What the robot does, for people.

        Raises:
            ResetCancelledError: If the learner left or cancelled, or somebody pressed the
                emergency stop. Let it pass; the robot then holds.
        """
        self._tell(fraction, text)
        if self.is_cancelled:
            raise ResetCancelledError("the reset was cancelled")

    @property
    def is_cancelled(self) -> bool:
        """Whether the reset that is going on should be given up."""
        return self._is_reset_cancelled()

    def set_reset_job(
        self, tell: Callable[[float, str], None], is_cancelled: Callable[[], bool]
    ) -> None:
        """Say who wants to know of the next reset; called by the server."""
        self._tell, self._is_reset_cancelled = tell, is_cancelled

    # Time

    def now(self) -> float:
        """Return the robot's clock, in seconds: monotonic time, or in lockstep simulated time.

        Simulated time is steps times the control period, unless a simulator knows better.
        """
        return self._simulated_time if self.mode is Mode.LOCKSTEP else time.monotonic()

    def set_simulated_time(self, seconds: float) -> None:
        """Set the clock of lockstep; called by the server."""
        self._simulated_time = seconds

    # Publishing; safe from any thread

    def update_image(self, name: str, data: ArrayLike, *, stamp: float | None = None) -> None:
        """Publish an image: ``(height, width, channels)``; copies it once.

        Raises:
            ValueError: If the shape or dtype is not the declared one.
        """
        self.update_camera(name, image=_given(data, "image"), stamp=stamp)

    def update_depth(self, name: str, data: ArrayLike, *, stamp: float | None = None) -> None:
        """Publish a depth image: ``(height, width)``, metres, 0 where unknown.

        Raises:
            ValueError: If the camera was declared without depth, or the shape is wrong.
        """
        self.update_camera(name, depth=_given(data, "depth"), stamp=stamp)

    def update_intrinsics(
        self, name: str, matrix: ArrayLike, *, stamp: float | None = None
    ) -> None:
        """Publish a camera's ``(3, 3)`` matrix K, in pixels."""
        self.update_camera(name, intrinsics=_given(matrix, "matrix"), stamp=stamp)

    def update_extrinsics(
        self, name: str, matrix: ArrayLike, *, stamp: float | None = None
    ) -> None:
        """Publish a camera's ``(4, 4)`` camera-to-world matrix, translation in metres."""
        self.update_camera(name, extrinsics=_given(matrix, "matrix"), stamp=stamp)

    def update_camera(
        self,
        name: str,
        *,
        image: ArrayLike | None = None,
        depth: ArrayLike | None = None,
        intrinsics: ArrayLike | None = None,
        extrinsics: ArrayLike | None = None,
        stamp: float | None = None,
    ) -> None:
        """Publish one capture atomically: no snapshot ever sees half of it.

        Args:
            name: Of the camera.
            image: ``(height, width, channels)``.
            depth: ``(height, width)``, metres, 0 where unknown.
            intrinsics: ``(3, 3)``, pixels.
            extrinsics: ``(4, 4)``, camera-to-world, metres.
            stamp: When it was captured, on the clock of ``now()``; now if None.

        Raises:
            ValueError: If there is no such camera or field, or a shape or dtype is wrong.
        """
        given = {
            "image": image,
            "depth": depth,
            "intrinsics": intrinsics,
            "extrinsics": extrinsics,
        }
        buffer = _named(self._cameras, name, "camera")
        if all(array is None for array in given.values()):
            raise ValueError(f"nothing was given to publish for camera {name!r}")
        buffer.publish(
            {key: array for key, array in given.items() if array is not None},
            self.now() if stamp is None else stamp,
        )

    def update_proprio(self, name: str, data: ArrayLike, *, stamp: float | None = None) -> None:
        """Publish a proprioception stream: ``(size,)``; copies it once.

        Raises:
            ValueError: If there is no such stream, or the shape or dtype is wrong.
        """
        buffer = _named(self._proprios, name, "proprioception stream")
        buffer.publish(data, self.now() if stamp is None else stamp)

    def make_obs(self, timestamp: float | None = None) -> Snapshot:
        """Take the newest capture of every stream, by reference.

        Args:
            timestamp: A number of your own; stands in ``info["remote"]["timestamp"]``.
        """
        timestamp = None if timestamp is None else float(timestamp)
        return take_snapshot(self._cameras, self._proprios, timestamp=timestamp)

    # The name of the chiral server guide, so that its servers run as they are.
    _make_obs = make_obs

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """The newest image of each camera, by name; read-only."""
        return {name: buffer.read().image.array for name, buffer in self._cameras.items()}

    @property
    def depths(self) -> dict[str, NDArray[Any]]:
        """The newest depth image of each camera that has one, by name; read-only."""
        depths = {name: buffer.read().depth for name, buffer in self._cameras.items()}
        return {name: field.array for name, field in depths.items() if field is not None}

    @property
    def proprios(self) -> dict[str, NDArray[Any]]:
        """The newest value of each proprioception stream, by name; read-only."""
        return {name: buffer.read().array for name, buffer in self._proprios.items()}

    # Sensors

    def start_sensor(
        self,
        name: str,
        read: Callable[[], object],
        *,
        hz: float | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> SensorThread:
        """Call a function at a fixed rate on a thread of its own, until ``close``.

        Args:
            name: For logs and errors; best the name of the stream that it publishes.
            read: Reads the hardware once and publishes what it found.
            hz: Calls per second; None for a function that itself waits for the hardware.
            at_end: Called on the same thread when that ends, whether it was stopped (after
                ``close``) or ``read`` raised: for what only the thread that made it may close.
                Made by ``read`` when it is missing, because a reset starts a failed sensor
                again and then ``at_end`` is called once more. What it raises is logged.
        """
        sensor = SensorThread(name, read, hz=hz, at_end=at_end)
        self._sensors.append(sensor)
        sensor.start()
        return sensor

    @property
    def sensors(self) -> tuple[SensorThread, ...]:
        """The sensor threads started so far."""
        return tuple(self._sensors)

    def stop_sensors(self) -> None:
        """Stop all sensor threads; the server calls this after ``close``."""
        for sensor in self._sensors:
            sensor.stop()
        self._sensors.clear()

    @property
    def subscribed(self) -> frozenset[str]:
        """The streams that somebody wants now; a simulator renders only these."""
        return self._subscribed

    def set_subscribed(self, names: frozenset[str]) -> None:
        """Tell the robot which streams somebody wants; called by the server."""
        self._subscribed = names

    def set_view(self, view: Preparing | None) -> None:
        """Say who is to find the captures prepared, or None; called by the server."""
        for buffer in self._cameras.values():
            buffer.view = view


def _given(data: ArrayLike, what: str) -> ArrayLike:
    """Refuse None, which is what a camera library returns when a read failed."""
    if data is None:
        raise ValueError(f"the {what} is None: the driver read nothing")
    return data


def _named(buffers: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        return buffers[name]
    except KeyError:
        declared = ", ".join(map(repr, buffers)) or "none"
        raise ValueError(f"no {what} is called {name!r}; declared are: {declared}") from None
