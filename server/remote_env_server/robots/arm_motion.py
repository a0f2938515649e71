"""How the arm's hand is moved: from a velocity of the tool to velocities of the joints."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

__all__ = ["HandController"]

# Damping: near a singular pose the joints stay slow, and the tool lags. In metres and radians.
_DAMPING: Final = 0.05
# How fast the hand turns back to its direction, per second.
_STRAIGHTEN: Final = 4.0


class HandController:
    """Turns velocities of the tool into velocities of the joints, gripper pointing down.

    Works from the joints as they are measured, not as they were commanded: nothing winds up
    while the arm is blocked or lags. Not safe from several threads.
    """

    def __init__(self, model: mujoco.MjModel, *, site: str, joints: int, max_speed: float) -> None:
        """Prepare for the first joints of a model.

        Args:
            model: The model.
            site: The name of the tool's site; its frame has z out of the gripper.
            joints: How many joints there are before the gripper's.
            max_speed: Of any joint, rad/s.
        """
        self._model = model
        self._site = model.site(site).id
        self._joints = joints
        self._max_speed = max_speed
        self._jacobian = np.zeros((6, model.nv))

    def joint_velocities(
        self, data: mujoco.MjData, velocity: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the joints' velocities for a velocity of the tool.

        Args:
            data: With the positions of bodies computed.
            velocity: ``(3,)`` float64, of the tool, m/s, world frame.

        Returns:
            ``(joints,)`` float64, rad/s; slowed down together if one would be too fast.

        Source:
            Damped least squares: Nakamura and Hanafusa, Inverse Kinematic Solutions With
            Singularity Robustness for Robot Manipulator Control, 1986, eq. 15.
        """
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        jacobian = self._jacobian[:, : self._joints]
        wanted = np.concatenate((velocity, _STRAIGHTEN * self._error(data)))
        damped = jacobian @ jacobian.T
        damped[np.diag_indices(6)] += _DAMPING**2
        velocities: NDArray[np.float64] = jacobian.T @ np.linalg.solve(damped, wanted)
        fastest = float(np.abs(velocities).max())
        return velocities * min(1.0, self._max_speed / fastest) if fastest else velocities

    def _error(self, data: mujoco.MjData) -> NDArray[np.float64]:
        """Return the rotation that is missing to point down, its x axis backwards, in radians.

        Half the sum of the cross products of the axes: exact to third order.
        """
        x, y, z = data.site_xmat[self._site].reshape(3, 3).T
        # The wanted axes are (-1, 0, 0), (0, 1, 0) and (0, 0, -1).
        error = np.array((-z[1] - y[2], z[0] - x[2], x[1] + y[0]))
        return 0.5 * error
