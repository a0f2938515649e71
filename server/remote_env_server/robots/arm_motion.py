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
        self._wanted = np.zeros(6)
        self._damping = _DAMPING**2 * np.eye(6)

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
        self._wanted[:3], self._wanted[3:] = velocity, _STRAIGHTEN * self._error(data)
        damped = jacobian @ jacobian.T + self._damping
        # MuJoCo's own solver: a tenth of what numpy takes for six equations.
        mujoco.mju_cholFactor(damped, 0.0)
        mujoco.mju_cholSolve(self._wanted, damped, self._wanted)
        velocities: NDArray[np.float64] = self._wanted @ jacobian
        fastest = max(map(abs, velocities.tolist()))
        return velocities * (self._max_speed / fastest) if fastest > self._max_speed else velocities

    def _error(self, data: mujoco.MjData) -> NDArray[np.float64]:
        """Return the rotation that is missing to point down, its x axis backwards, in radians.

        Half the sum of the cross products of the axes: exact to third order.
        """
        _, y0, z0, x1, _, z1, x2, y2, _ = data.site_xmat[self._site].tolist()
        # The wanted axes are (-1, 0, 0), (0, 1, 0) and (0, 0, -1).
        return np.array((-0.5 * (z1 + y2), 0.5 * (z0 - x2), 0.5 * (x1 + y0)))
