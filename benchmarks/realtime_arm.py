"""The simulated arm without cameras at another rate, for ``benchmarks/realtime_learning.py``.

Reads control periods a second from the variable ARM_HZ.
"""

import os

from remote_env_server.robots import arm

__all__ = ["RatedArm"]


class RatedArm(arm.ArmRobot):
    """The arm at this rate."""

    def __init__(self) -> None:
        arm._CONTROL_HZ = float(os.environ["ARM_HZ"])  # type: ignore[misc]  # no option: a task
        super().__init__(arm.ArmConfig(cameras=("none",)))
