"""Any MuJoCo model, served as a robot: its joints, sensors, actuators and cameras."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import OutOfBounds
from remote_env_server.robot import ProprioConfig
from remote_env_server.robots.mujoco_simulation import MujocoConfig, MujocoSimulation
from remote_env_server.robots.mujoco_streams import stream_names

__all__ = ["MujocoRobot"]

# Joint limits are soft springs in MuJoCo; measurements end beyond them by this share of the range.
_BEYOND: Final = 0.05
_SCALAR_JOINTS: Final = (mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value)
_INTEGRATOR: Final = mujoco.mjtDyn.mjDYN_INTEGRATOR.value
_AFFINE: Final = mujoco.mjtBias.mjBIAS_AFFINE.value


class MujocoRobot(MujocoSimulation):
    """Any MuJoCo model as it is.

    ====================  ==============================================================
    action                ``(nu,)`` float32, the controls within their ranges
    ``joint_pos``         ``(nq,)`` float32, ``qpos``: m, rad, and for balls and free
                          joints quaternions in MuJoCo's order, (w, x, y, z)
    ``joint_vel``         ``(nv,)`` float32, ``qvel``: m/s, rad/s
    ``actuator_force``    ``(nu,)`` float32, N or N m
    ``sensor/NAME``       what the model's sensors say, float32, in MuJoCo's units
    ``CAMERA/image``      on request: ``(height, width, 3)`` uint8 RGB
    ``CAMERA/depth``      on request: ``(height, width)`` float32, m along the optical
                          axis, 0 where there is nothing
    ====================  ==============================================================

    There is no task and no chance: the reward is 0, no episode terminates, and seeds decide
    nothing. To hold, position drives keep
    the position that they have, and all other controls are 0. Cameras have the model's names; a
    model without one is seen by ``overview``.
    """

    out_of_bounds = OutOfBounds.CLIP

    def __init__(self, config: MujocoConfig) -> None:
        """Load the model, and say what can be commanded.

        Raises:
            ConfigurationError: If it cannot be loaded, or nothing in it can be commanded.
        """
        self.name = config.model.stem
        super().__init__(config)
        self._sensor_parts = self._sensor_slices()
        self._low, self._high = _control_range(self._model, self.name)
        self.action_space = spaces.Box(self._low, self._high, dtype=np.float32)
        is_affine = self._model.actuator_biastype == _AFFINE
        pulls = is_affine & (self._model.actuator_biasprm[:, 1] != 0)
        self._is_position_drive = pulls & (self._model.actuator_dyntype != _INTEGRATOR)

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare joints, actuators and sensors.

        Raises:
            ConfigurationError: If nothing can be commanded: then there is nothing to serve.
        """
        model = self._model
        _control_range(model, self.name)
        speed, force = np.full(model.nv, np.inf), np.full(model.nu, np.inf)
        limited = model.actuator_forcelimited.astype(bool)
        low, high = np.where(limited, model.actuator_forcerange.T, (-force, force))
        streams = [
            self.proprio("joint_pos", *_joint_range(model), "m, rad"),
            self.proprio("joint_vel", -speed, speed, "m/s, rad/s"),
            self.proprio("actuator_force", low, high, "N, N m"),
        ]
        for name, part in self._sensor_slices().items():
            size = np.full(part.stop - part.start, np.inf)
            streams.append(self.proprio(name, -size, size, ""))
        return streams

    def _sensor_slices(self) -> dict[str, slice]:
        """Return where in ``sensordata`` each stream is."""
        slices = {}
        names = [self._model.sensor(number).name for number in range(self._model.nsensor)]
        for number, name in enumerate(stream_names("sensor", names, "")):
            begin = int(self._model.sensor_adr[number])
            slices[f"sensor/{name}"] = slice(begin, begin + int(self._model.sensor_dim[number]))
        return slices

    def _settle(self) -> None:
        # All of it, for what sensors and actuators say belongs to the same instant.
        mujoco.mj_forward(self._model, self._data)

    def _command(self, action: NDArray[np.float32]) -> None:
        self._data.ctrl[:] = action

    def _hold(self) -> None:
        controls = np.where(self._is_position_drive, self._data.actuator_length, 0.0)
        self._data.ctrl[:] = np.clip(controls, self._low, self._high)

    def _measure(self) -> dict[str, NDArray[np.float32]]:
        data, felt = self._data, self.felt.values
        felt["joint_pos"][:] = data.qpos
        felt["joint_vel"][:] = data.qvel
        felt["actuator_force"][:] = data.actuator_force
        for name, part in self._sensor_parts.items():
            felt[name][:] = data.sensordata[part]
        return self.felt.clipped()


def _control_range(
    model: mujoco.MjModel, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and the greatest controls.

    Raises:
        ConfigurationError: If there is none, or one has no range: a robot has real limits.
    """
    if not model.nu:
        raise ConfigurationError(
            f"{name} has no actuators, so nothing in it can be commanded; add an <actuator> section"
        )
    for number in range(model.nu):
        if not model.actuator_ctrllimited[number]:
            actuator = model.actuator(number).name or number
            raise ConfigurationError(
                f"{name}: actuator {actuator!r} has no ctrlrange; give it one in the MJCF file, in "
                'its own units, such as ctrlrange="-1 1"'
            )
    low, high = model.actuator_ctrlrange.T.astype(np.float32)
    return low, high


def _joint_range(model: mujoco.MjModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest ``qpos``, with room beyond the limits of joints."""
    low, high = np.full(model.nq, -np.inf), np.full(model.nq, np.inf)
    for joint in range(model.njnt):
        if model.jnt_limited[joint] and model.jnt_type[joint] in _SCALAR_JOINTS:
            least, most = model.jnt_range[joint]
            room = _BEYOND * (most - least)
            address = model.jnt_qposadr[joint]
            low[address], high[address] = least - room, most + room
    return low, high
