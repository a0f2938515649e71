"""Stand for the software of two vendors, in my_robot.py. Replace them by yours."""

import time

import numpy as np


class CameraSdk:
    """A depth camera; ``read`` blocks until the next frame."""

    def read(self):
        """Return ``(120, 160, 3)`` uint8 and ``(120, 160)`` float32, metres."""
        time.sleep(1 / 30)
        noise = np.random.randint(-3, 4, (120, 160, 3))  # as every sensor has
        return (90 + noise).astype(np.uint8), (1 + noise[..., 0] / 1000).astype(np.float32)


class SerialArm:
    """Six joints on a serial line; not safe from two threads at once."""

    def __init__(self):
        self.joints = np.zeros(6, np.float32)

    def command(self, velocities):
        """Move with ``(6,)`` velocities, rad/s."""
        self.joints = np.clip(self.joints + 0.05 * velocities, -3.1, 3.1)
