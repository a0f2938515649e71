"""A MuJoCo model that runs, in lockstep or in real time, with its cameras."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, RobotFaultError, UnknownOptionError
from remote_env.protocol.values import Value
from remote_env.spec import Mode
from remote_env_server.robot import CameraConfig, ProprioConfig, Robot
from remote_env_server.robots import headless
from remote_env_server.robots.mujoco_rendering import MujocoRenderer, Quality, load_model
from remote_env_server.robots.mujoco_streams import FeltStreams, stream_names
from remote_env_server.snapshot import Snapshot

__all__ = ["MujocoConfig", "MujocoSimulation"]

logger = logging.getLogger(__name__)

# A process that was stopped for longer than this, in seconds, does not make up for it.
_LONGEST_CATCH_UP: Final = 0.1
_USUAL_HZ: Final = 50.0
# Of what the encoders say, in seconds; more than a busy machine makes of a few ms.
_MAX_AGE: Final = 0.2
_FREE_CAMERA: Final = "overview"
_STATE: Final = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_UNSTABLE: Final = (
    mujoco.mjtWarning.mjWARN_BADQPOS.value,
    mujoco.mjtWarning.mjWARN_BADQVEL.value,
    mujoco.mjtWarning.mjWARN_BADQACC.value,
)
# Else MuJoCo writes a file, MUJOCO_LOG.TXT, wherever the program was started.
mujoco.set_mju_user_warning(logger.warning)


@dataclass(frozen=True)
class MujocoConfig:
    """Options of a served MuJoCo model.

    Attributes:
        model: The MJCF file.
        control_hz: Actions per second; a whole number of the model's time steps must fit into
            one. 0 takes about 50 Hz.
        max_steps: After so many steps the episode is truncated; 0 is never.
        keyframe: Of the model, in which episodes begin; the first if not given, if there is one.
        cameras: Of the model; all if not given. "none" for none.
        image_size: Height and width of the pictures, in pixels, each from 16 to 4096.
        camera_hz: Pictures per second of each camera, in real time.
        quality: "fast", or "fine" with shadows and smooth edges, which takes 4 to 14 times as
            long on a CPU.
    """

    model: Path
    control_hz: float = 0.0
    max_steps: int = 0
    keyframe: str = ""
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (240, 320)
    camera_hz: float = 30.0
    quality: Quality = "fast"


class MujocoSimulation(Robot):
    """A MuJoCo model in lockstep or in real time. Subclasses say what is commanded and felt.

    In lockstep a step is exactly one control period of simulated time, the same actions give
    the same bits, and cameras are rendered after a step if somebody asked for them. In real
    time physics run on a thread of their own, one step of the model for each of its time steps
    of the clock, and each camera on another, at ``camera_hz``.

    Owns: one lock, which guards the simulation and its clock. It is held for the physics of a
    control period, in real time for one step of them, and never across a rendering.
    """

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP, Mode.REALTIME)
    stop_is_thread_safe = True

    def __init__(self, config: MujocoConfig) -> None:
        """Load the model; ``open`` starts real time.

        Raises:
            ConfigurationError: If an option makes no sense, or the model cannot be loaded.
        """
        self.config = config
        height, width = _check_size(config.image_size)
        self._model: Any = load_model(
            config.model, quality=config.quality, height=height, width=width
        )
        self._data: Any = mujoco.MjData(self._model)
        self._timestep = float(self._model.opt.timestep)
        if not 0.1 <= config.camera_hz <= 1000:
            raise ConfigurationError(
                f"camera_hz must be from 0.1 to 1000 pictures per second, not {config.camera_hz!r}"
            )
        if config.max_steps < 0:
            raise ConfigurationError(
                f"max_steps must be 0, for none, or more, not {config.max_steps}"
            )
        self._substeps = _substeps_of(config.control_hz, self._timestep)
        self.control_hz = 1.0 / (self._substeps * self._timestep)
        self.max_episode_steps = config.max_steps or None
        self._keyframe = self._find_keyframe(config.keyframe)
        _, self._no_camera = headless.find()
        self._camera_ids = {} if self._no_camera else self._find_cameras(config.cameras)
        if self._no_camera:
            logger.warning("no cameras are served: %s", self._no_camera)
        self._renderer: MujocoRenderer | None = None
        self._lock = threading.Lock()
        self._time = 0.0  # in real time: of the state, on the monotonic clock
        super().__init__()
        self.felt = FeltStreams(self.streams())

    def _find_keyframe(self, name: str) -> int:
        if not name:
            return 0 if self._model.nkey else -1
        number = int(mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_KEY, name))
        if number < 0:
            names = [self._model.key(i).name for i in range(self._model.nkey)]
            raise ConfigurationError(f"the model has no keyframe {name!r}; it has {names}")
        return number

    def _find_cameras(self, names: Sequence[str]) -> dict[str, int]:
        """Return the numbers of the cameras to serve, by stream name."""
        if tuple(names) == ("none",):
            return {}
        own = [self._model.camera(i).name for i in range(self._model.ncam)]
        streams = stream_names("camera", own, "camera")
        all_of_them = {name: i for i, name in enumerate(streams)} or {_FREE_CAMERA: -1}
        missing = [name for name in names if name not in all_of_them]
        if missing:
            raise ConfigurationError(
                f"the model has no camera {missing[0]!r}; it has {', '.join(all_of_them)}"
            )
        return {name: all_of_them[name] for name in names or all_of_them}

    # What there is

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the cameras, with depth, on request."""
        height, width = self.config.image_size
        return [
            CameraConfig(
                name,
                height,
                width,
                has_depth=True,
                on_request=True,
                hz=self.config.camera_hz,
                may_repeat=True,
            )
            for name in self._camera_ids
        ]

    def proprio(self, name: str, low: Any, high: Any, unit: str) -> ProprioConfig:
        """Declare a stream that physics publish."""
        low, high = np.atleast_1d(low), np.atleast_1d(high)
        hz = 1.0 / self._timestep
        return ProprioConfig(
            name, low.size, low=low, high=high, unit=unit, hz=hz, max_age=max(_MAX_AGE, 3 / hz)
        )

    def get_metadata(self) -> dict[str, Value]:
        """Return the model's name and time step, and why there is no camera if there is none."""
        about: dict[str, Value] = {"physics_hz": 1.0 / self._timestep}
        return {**about, "no_camera": self._no_camera} if self._no_camera else about

    # Its life

    def open(self) -> None:
        """Start real time, if that is how it is served."""
        self._begin(None, {})
        self._time = time.monotonic()
        self._publish(self._measure(), self.now())
        if self.mode is Mode.LOCKSTEP:
            return
        self.start_sensor("physics", self._run_physics, hz=1.0 / self._timestep)
        for name in self._camera_ids:
            camera = _RealtimeCamera(self, name)
            self.start_sensor(name, camera.read, hz=self.config.camera_hz, at_end=camera.close)

    def close(self) -> None:
        """Close what renders."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def reset(self, *, seed: int | None = None, options: Mapping[str, Value] | None = None) -> Any:
        """Put the model into its keyframe, at rest.

        Raises:
            UnknownOptionError: If there are options that it does not know.
        """
        with self._lock:
            self._begin(seed, options or {})
            measured, stamp = self._measure(), self._clock()
        self._publish(measured, stamp)

    def apply_action(self, action: Any) -> None:
        """Set the actuators; in lockstep, let one control period pass."""
        with self._lock:
            self._command(action)
            if self.mode is not Mode.LOCKSTEP:
                return
            self._advance(self._substeps)
            measured = self._measure()
        self._publish(measured, self.now())

    def hold(self) -> None:
        """Make the actuators keep the robot where it is."""
        with self._lock:
            self._hold()

    def get_obs(self) -> Snapshot:
        """Return the newest measurements; in lockstep, render what somebody asked for."""
        if self.mode is Mode.LOCKSTEP:
            self._render()
        return self.make_obs()

    def pose_of(self, site: str) -> NDArray[np.float64]:
        """Return where a site of the model is: ``(4, 4)`` float64, site to world, metres."""
        pose = np.eye(4)
        with self._lock:
            found = self._data.site(site)
            pose[:3, :3], pose[:3, 3] = found.xmat.reshape(3, 3), found.xpos
        return pose

    # What subclasses say; with the lock held

    def _begin(self, seed: int | None, options: Mapping[str, Value]) -> None:
        """Bring the simulation to the beginning of an episode."""
        for name in options:
            raise UnknownOptionError(f"{self.name} has no reset option {name!r}")
        self._restart()

    def _restart(self) -> None:
        if self._keyframe >= 0:
            mujoco.mj_resetDataKeyframe(self._model, self._data, self._keyframe)
        else:
            mujoco.mj_resetData(self._model, self._data)
        mujoco.mj_forward(self._model, self._data)

    def _command(self, action: Any) -> None:
        """Set the actuators."""
        raise NotImplementedError

    def _hold(self) -> None:
        """Set the actuators so that they keep the robot where it is."""
        raise NotImplementedError

    def _measure(self) -> dict[str, NDArray[np.float32]]:
        """Return what the robot feels, by stream."""
        raise NotImplementedError

    # Physics

    def _advance(self, steps: int) -> None:
        """Let time pass, by so many steps of the model.

        Raises:
            RobotFaultError: If the simulation became unstable; MuJoCo has then begun it anew,
                in the middle of the episode.
        """
        mujoco.mj_step(self._model, self._data, steps)
        if any(self._data.warning[kind].number for kind in _UNSTABLE):
            self._restart()  # which also forgets the warning
            raise RobotFaultError(
                f"the simulation of {self.name} became unstable; give the model a smaller timestep "
                f"than {self._timestep:g} s, or softer drives and contacts"
            )
        self._settle()

    def _settle(self) -> None:
        """Compute the positions of bodies, which are those of before the last step."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _clock(self) -> float:
        return self.now() if self.mode is Mode.LOCKSTEP else self._time

    def _publish(self, measured: Mapping[str, NDArray[np.float32]], stamp: float) -> None:
        for name, value in measured.items():
            self.update_proprio(name, value, stamp=stamp)

    def _run_physics(self) -> None:
        """Catch up with the clock by whole steps, so that nothing drifts, and tell each."""
        with self._lock:
            now = time.monotonic()
            self._time = max(self._time, now - _LONGEST_CATCH_UP)
            count = int((now - self._time) / self._timestep)
        for _ in range(count):
            with self._lock:
                self._advance(1)
                self._time += self._timestep
                measured, stamp = self._measure(), self._time
            self._publish(measured, stamp)

    # Cameras

    def is_wanted(self, camera: str) -> bool:
        """Whether anybody looks through a camera now."""
        return not self.subscribed.isdisjoint((f"{camera}/image", f"{camera}/depth"))

    def copy_to(self, data: Any, state: NDArray[np.float64]) -> float:
        """Bring another ``MjData`` to the present state; return its stamp, in seconds.

        Args:
            data: Of the same model.
            state: Room for the state.
        """
        with self._lock:
            mujoco.mj_getState(self._model, self._data, state, _STATE)
            stamp = self._clock()
        mujoco.mj_setState(self._model, data, state, _STATE)
        mujoco.mj_fwdPosition(self._model, data)
        return stamp

    def make_renderer(self) -> MujocoRenderer:
        """Return what renders, for the calling thread; says so in the log if that is slow."""
        renderer = MujocoRenderer(self._model, *self.config.image_size)
        if "llvmpipe" in renderer.device:
            logger.info("pictures are rendered on the CPU, by %s", renderer.device)
        return renderer

    def new_data(self) -> tuple[Any, NDArray[np.float64]]:
        """Return a ``MjData`` of the model, and room for a state."""
        room = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        return mujoco.MjData(self._model), room

    def _render(self) -> None:
        """Render on this thread what somebody wants to see."""
        wanted = [name for name in self._camera_ids if self.is_wanted(name)]
        if not wanted:
            return
        if self._renderer is None:
            self._renderer = self.make_renderer()
            self._seen, self._room = self.new_data()
        self.copy_to(self._seen, self._room)
        for name in wanted:
            self.show(name, self._renderer, self._seen, self.now())

    def show(self, camera: str, renderer: MujocoRenderer, data: Any, stamp: float) -> None:
        """Render and publish what a camera sees."""
        capture = renderer.render(data, self._camera_ids[camera])
        self.update_camera(
            camera,
            image=capture.image,
            depth=capture.depth,
            intrinsics=capture.intrinsics,
            extrinsics=capture.extrinsics,
            stamp=stamp,
        )


class _RealtimeCamera:
    """A camera on a thread of its own, which makes all of it and closes it."""

    def __init__(self, simulation: MujocoSimulation, name: str) -> None:
        self._simulation = simulation
        self._name = name
        self._renderer: MujocoRenderer | None = None

    def read(self) -> None:
        """Take a picture, if anybody wants it."""
        if not self._simulation.is_wanted(self._name):
            return
        if self._renderer is None:
            self._data, self._state = self._simulation.new_data()
            self._renderer = self._simulation.make_renderer()
        stamp = self._simulation.copy_to(self._data, self._state)
        self._simulation.show(self._name, self._renderer, self._data, stamp)

    def close(self) -> None:
        """Close what renders; called on the thread."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(16 <= pixels <= 4096 for pixels in size):
        raise ConfigurationError(
            f"image_size must be the height and the width, each from 16 to 4096, not {size!r}"
        )
    return size


def _substeps_of(control_hz: float, timestep: float) -> int:
    """Return how many steps of the model make one control period.

    Raises:
        ConfigurationError: If no whole number does; names rates that would.
    """
    if not control_hz:
        return max(1, round(1 / _USUAL_HZ / timestep))
    exact = 1 / (control_hz * timestep) if control_hz > 0 else 0.0
    substeps = round(exact)
    if substeps < 1 or abs(exact - substeps) > 1e-6 * substeps:
        fitting = [1 / (n * timestep) for n in (max(1, int(exact)), max(1, int(exact)) + 1)]
        raise ConfigurationError(
            f"control_hz must be 1 / (n * {timestep:g} s) for a whole n, such as "
            f"{fitting[1]:g} or {fitting[0]:g}, not {control_hz:g}"
        )
    return substeps
