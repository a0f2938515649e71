"""A simulated cart with a double inverted pendulum: the robot that needs no hardware.

Balance both links upright and the cart near the middle of its rail. The world, the angles and
the force are defined in ``double_pendulum_dynamics``, the camera in ``double_pendulum_drawing``.

The plant runs until a link falls or the cart reaches the end of the rail. At that instant it is
caught: it stands still, with the velocities it then had, until the next ``reset``. What catches
it are the plant's own limit switches, so that noise of the sensors never ends an episode.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, UnknownOptionError
from remote_env.protocol.values import Value
from remote_env.spec import Mode, OutOfBounds
from remote_env_server.robot import CameraConfig, Observation, Outcome, ProprioConfig, Robot
from remote_env_server.robots.double_pendulum_drawing import SideCamera
from remote_env_server.robots.double_pendulum_dynamics import DoublePendulumDynamics, State
from remote_env_server.snapshot import Snapshot

__all__ = ["DoublePendulumConfig", "DoublePendulumRobot"]

# Newtons: 20 N is 14 m/s^2 for cart and links together, what a servo of 0.3 N m does over a
# pulley of 15 mm radius. A linear regulator at 50 Hz then brings back links that lean by
# 0.2 rad, four times as far as episodes begin; with 10 N it is 0.12 rad.
MAX_FORCE: Final = 20.0
# Metres to either side; the regulator needs 0.33 m for those 0.2 rad.
RAIL: Final = 1.0
# Radians from the upright, of either link: more than twice what the regulator can bring back.
FALL_ANGLE: Final = 0.5
# m/s and rad/s. The fastest of 1500 episodes of full force in changing directions, from rates
# of up to 3, reached 5.8 m/s and 10.2 rad/s.
MAX_SPEED: Final = 10.0
MAX_RATE: Final = 20.0

_MAX_SUBSTEP: Final = 0.002
_PLANT_HZ: Final = 500.0
_CAMERA_HZ: Final = 30.0
_MAX_AGE: Final = 0.2  # of what the encoders say; more than a busy machine makes of 2 ms
# A process that was stopped for longer than this, in seconds, does not make up for it.
_LONGEST_CATCH_UP: Final = 0.1
# Episodes begin with each of the six state variables within this, in SI units.
_START: Final = 0.05
# In the start state and in measurements: x, theta1, theta2, x_dot, theta1_dot, theta2_dot.
_LIMITS: Final = (RAIL, FALL_ANGLE, FALL_ANGLE, MAX_SPEED, MAX_RATE, MAX_RATE)
_MOST: Final = np.array((RAIL, math.pi, math.pi, MAX_SPEED, MAX_RATE, MAX_RATE), np.float32)
_CAMERA: Final = "camera"
# Metres; nothing in the picture is farther than 5.3.
_FARTHEST: Final = 6.0


@dataclass(frozen=True)
class DoublePendulumConfig:
    """Options of the simulated double pendulum.

    Attributes:
        dt: The control period, in seconds, from 0.001 to 0.1.
        sensor_noise_std: Standard deviation of the Gaussian noise on each measured position,
            angle and velocity, in its SI unit. Seeded by ``reset(seed=...)``.
        extra_latency_ms: By how many milliseconds a timer holds back each reply; the plant
            runs on meanwhile.
        max_steps: After so many steps the episode is truncated.
        image_size: Height and width of the camera's picture, in pixels, each from 16 to 2048.
    """

    dt: float = 0.02
    sensor_noise_std: float = 0.0
    extra_latency_ms: float = 0.0
    max_steps: int = 500
    image_size: tuple[int, int] = (96, 128)

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigurationError: Naming the option, its value and its bounds.
        """
        _check("dt", self.dt, 0.001, 0.1)
        _check("sensor_noise_std", self.sensor_noise_std, 0.0, 1e3)
        _check("extra_latency_ms", self.extra_latency_ms, 0.0, 1e4)
        _check("max_steps", self.max_steps, 1, 10**9)
        if len(self.image_size) != 2:
            raise ConfigurationError(
                f"image_size must be the height and the width, not {self.image_size!r}"
            )
        for pixels in self.image_size:
            _check("image_size", pixels, 16, 2048)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # also refuses NaN
        raise ConfigurationError(
            f"double-pendulum: {name} must be from {least:g} to {most:g}, not {value!r}"
        )


class DoublePendulumRobot(Robot):
    """A simulated cart with a double inverted pendulum, in lockstep or in real time.

    ==================  ==========================================================
    action              ``(1,)`` float32, horizontal force on the cart as a share of
                        20 N, -1 to 1
    ``joint_pos``       ``(3,)`` float32, x in m and theta1, theta2 in rad from the
                        upright, wrapped to -pi to pi
    ``joint_vel``       ``(3,)`` float32, their rates, m/s and rad/s
    ``camera/image``    on request: ``(height, width, 3)`` uint8 RGB, a side view
    ``camera/depth``    on request: ``(height, width)`` float32, m along the optical
                        axis, 0 where there is nothing
    ==================  ==========================================================

    Measurements beyond a bound are clipped to it; noise brings them there, and the millimetres
    that the cart moves while it is caught. The reward of a step is within 0 to 1, 1 being
    upright in the middle without force::

        1 - 0.3 (theta1 / 0.5)^2 - 0.3 (theta2 / 0.5)^2 - 0.3 (x / 1)^2 - 0.1 action^2

    of the measured positions, and 0 for the step that ends the episode. ``terminated``: a link
    leans by more than 0.5 rad, or the cart is at an end of the rail, 1 m from its middle.

    In lockstep a step is exactly ``dt`` of simulated time, and a seed decides every bit. In
    real time the plant runs on a thread of its own at 500 Hz, whether anyone acts or not;
    ``joint_pos`` and ``joint_vel`` may then be one reading, 2 ms, apart.

    Owns: one lock, which guards the plant: its state, clock, force and both generators. It is
    held for a few integration steps of 7 us each, and never across a publication.

    Attributes:
        ready: Set while the robot is open.
        dynamics: The physics, with its parameters.
    """

    name = "double-pendulum"
    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP, Mode.REALTIME)
    out_of_bounds = OutOfBounds.CLIP
    seedable = True

    def __init__(self, config: DoublePendulumConfig | None = None) -> None:
        """Prepare the plant, at rest upright in the middle; ``open`` starts real time."""
        self.config = config or DoublePendulumConfig()
        self.dynamics = DoublePendulumDynamics()
        self.ready = threading.Event()
        # A share and not newtons: learners explore by about 1, and checkers ask for it.
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.control_hz = 1.0 / self.config.dt
        self.max_episode_steps = self.config.max_steps
        self.reset_options = {
            "state": "initial [x, theta1, theta2, x_dot, theta1_dot, theta2_dot], m, rad and s"
        }
        self.simulated_latency = self.config.extra_latency_ms / 1e3
        self._view = SideCamera(*self.config.image_size, rail=RAIL)
        self._lock = threading.Lock()
        self._state: State = (0.0,) * 6
        self._force = 0.0
        self._steps = 0
        self._time = 0.0  # of the state, on the robot's clock
        self._is_caught = True
        self._seed(None)
        super().__init__()

    def camera_configs(self) -> tuple[CameraConfig, ...]:
        """Declare the side view; its calibration never changes."""
        height, width = self.config.image_size
        return (
            CameraConfig(
                _CAMERA,
                height,
                width,
                has_depth=True,
                intrinsics=self._view.intrinsics,
                extrinsics=self._view.extrinsics,
                on_request=True,
                max_depth=_FARTHEST,
                hz=_CAMERA_HZ,
                may_repeat=True,  # a cart that is caught stands still
            ),
        )

    def proprio_configs(self) -> tuple[ProprioConfig, ...]:
        """Declare what encoders on the rail and in both joints measure."""
        return (
            self._measures("joint_pos", _MOST[:3], "m, rad, rad"),
            self._measures("joint_vel", _MOST[3:], "m/s, rad/s, rad/s"),
        )

    def _measures(self, name: str, most: NDArray[np.float32], unit: str) -> ProprioConfig:
        return ProprioConfig(name, 3, low=-most, high=most, unit=unit, max_age=_MAX_AGE)

    def get_metadata(self) -> dict[str, Value]:
        """Return the plant's physical parameters, in SI units, under ``parameters``."""
        return {"parameters": asdict(self.dynamics.parameters)}

    # Life

    def open(self) -> None:
        """Start the plant's and the camera's thread in real time; then the robot is ready."""
        # In real time the wall clock has its say: a seed decides only how it begins.
        self.seedable = self.mode is Mode.LOCKSTEP
        if self.mode is not Mode.LOCKSTEP:
            self._time = time.monotonic()
            self.start_sensor("plant", self._run_plant, hz=_PLANT_HZ)
            self.start_sensor(_CAMERA, self._render, hz=_CAMERA_HZ)
        self.ready.set()

    def close(self) -> None:
        """Let go of the cart."""
        self.ready.clear()
        self.hold()

    def reset(self, *, seed: int | None = None, options: Mapping[str, Value] | None = None) -> None:
        """Put the plant near its upright equilibrium, at rest but for a small random push.

        Args:
            seed: Begins the sequence of episodes anew; None goes on with it, as Gymnasium does.
            options: ``state``, if given, replaces the random start: six numbers, ``[x,
                theta1, theta2, x_dot, theta1_dot, theta2_dot]`` in SI units and radians.

        Raises:
            UnknownOptionError: If there are other options, or ``state`` is not a state from
                which an episode can begin. The plant then goes on as it was.
        """
        start = _read_options(options or {})
        with self._lock:
            if seed is not None:
                self._seed(seed)
            # Drawn in any case, so that the option does not shift later episodes.
            drawn = self._start_generator.uniform(-_START, _START, 6).tolist()
            self._state = start or tuple(drawn)
            self._force = 0.0
            self._steps = 0
            self._time = time.monotonic() if self.mode is not Mode.LOCKSTEP else 0.0
            self._is_caught = False
        self._publish()

    def apply_action(self, action: NDArray[np.float32]) -> None:
        """Push the cart, until the next action; in lockstep, let one control period pass.

        Args:
            action: ``(1,)`` float32, share of 20 N, within ``action_space``.
        """
        with self._lock:
            self._force = MAX_FORCE * float(action[0])
            if self.mode is not Mode.LOCKSTEP:
                return
            count = math.ceil(self.config.dt / _MAX_SUBSTEP - 1e-9)
            self._integrate(count, self.config.dt / count)
            self._steps += 1
            self._time = self._steps * self.config.dt
        self._publish()

    def hold(self) -> None:
        """Push no more. This plant has no brake: safe means without force, and it may fall."""
        with self._lock:
            self._force = 0.0

    def now(self) -> float:
        """Return simulated time since the reset in lockstep, else the monotonic clock, in s."""
        return time.monotonic() if self.mode is not Mode.LOCKSTEP else self._time

    # What is seen and judged

    def get_obs(self) -> Snapshot:
        """Return the newest measurements; in lockstep, draw the picture if somebody asked."""
        if self.mode is Mode.LOCKSTEP:
            self._render()
        return self.make_obs()

    def outcome(self, observation: Observation) -> Outcome:
        """Judge the measured positions and the force; the limit switches end the episode."""
        with self._lock:
            force, is_caught = self._force, self._is_caught
        if is_caught:
            return Outcome(reward=0.0, terminated=True)
        x, theta1, theta2 = observation["joint_pos"].tolist()
        lean = (theta1 / FALL_ANGLE) ** 2 + (theta2 / FALL_ANGLE) ** 2
        reward = 1.0 - 0.3 * lean - 0.3 * (x / RAIL) ** 2 - 0.1 * (force / MAX_FORCE) ** 2
        return Outcome(reward=max(0.0, reward))

    # The plant

    def _seed(self, seed: int | None) -> None:
        """Begin both generators anew. Noise has its own: it does not shift later starts."""
        self._start_generator = np.random.default_rng(seed)
        (self._noise_generator,) = self._start_generator.spawn(1)

    def _integrate(self, count: int, duration: float) -> None:
        """Let the plant move by so many steps, until it is caught. Hold the lock."""
        for _ in range(count):
            if self._is_caught:
                return
            self._state = self.dynamics.advance(self._state, self._force, duration)
            x, theta1, theta2, *_ = self._state
            is_upright = abs(theta1) <= FALL_ANGLE and abs(theta2) <= FALL_ANGLE
            self._is_caught = not (is_upright and abs(x) < RAIL)

    def _run_plant(self) -> None:
        """Catch up with the clock by whole steps, so that nothing drifts, and measure."""
        with self._lock:
            now = time.monotonic()
            self._time = max(self._time, now - _LONGEST_CATCH_UP)
            count = int((now - self._time) / _MAX_SUBSTEP)
            self._integrate(count, _MAX_SUBSTEP)
            self._time += count * _MAX_SUBSTEP
        self._publish()

    def _publish(self) -> None:
        """Measure and publish positions and velocities, stamped with the state's own time."""
        with self._lock:
            measured, stamp = np.array(self._state), self._time
            if self.config.sensor_noise_std:
                measured += self._noise_generator.normal(0.0, self.config.sensor_noise_std, 6)
        for index in (1, 2):
            measured[index] = math.remainder(measured[index], 2 * math.pi)
        clipped = np.clip(measured.astype(np.float32), -_MOST, _MOST)
        self.update_proprio("joint_pos", clipped[:3], stamp=stamp)
        self.update_proprio("joint_vel", clipped[3:], stamp=stamp)

    def _render(self) -> None:
        """Draw and publish the true state, if somebody wants to see it."""
        if self.subscribed.isdisjoint((f"{_CAMERA}/image", f"{_CAMERA}/depth")):
            return
        with self._lock:
            (x, theta1, theta2, *_), stamp = self._state, self._time
        image, depth = self._view.render(self.dynamics.points(x, theta1, theta2))
        self.update_camera(_CAMERA, image=image, depth=depth, stamp=stamp)


def _read_options(options: Mapping[str, Value]) -> State | None:
    """Return the start state that the options ask for, or None.

    Raises:
        UnknownOptionError: Saying which option or value is not possible, and what is.
    """
    for name in options:
        if name != "state":
            raise UnknownOptionError(
                f"double-pendulum has no reset option {name!r}; it has 'state'"
            )
    given: Any = options.get("state")
    if given is None:
        return None
    try:
        x, theta1, theta2, x_dot, theta1_dot, theta2_dot = (float(value) for value in given)
    except (TypeError, ValueError):
        raise UnknownOptionError(
            "reset option 'state' must be six numbers [x, theta1, theta2, x_dot, theta1_dot, "
            f"theta2_dot], not {given!r:.80}",
            code="robot.option.state",
        ) from None
    state = (x, theta1, theta2, x_dot, theta1_dot, theta2_dot)
    if not all(abs(value) < most for value, most in zip(state, _LIMITS, strict=True)):
        raise UnknownOptionError(
            f"reset option 'state' is {list(state)}; each must be finite and nearer to 0 than "
            f"{list(_LIMITS)}, or the episode would end as it begins",
            code="robot.option.state",
        )
    return state
