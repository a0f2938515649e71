"""A robot whose camera sees something else in each capture, and knows where it is."""

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from remote_env_server import CameraConfig, Mode, ProprioConfig, Robot

__all__ = ["STEP", "Looker", "capture"]

HEIGHT, WIDTH = 48, 64
K = np.array([[60.0, 0.0, 31.5], [0.0, 55.0, 23.5], [0.0, 0.0, 1.0]])
STEP = np.zeros(1, np.float32)


def capture(number):
    """What the camera sees: smooth, as what JPEG is made for; the number can be read in it."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows * 4, columns * 3, (rows + columns + 7 * number) % 200], -1)
    depth = (0.5 + rows / 100 + columns / 200 + number / 1000).astype(np.float32)
    depth[:4, :4] = 0
    extrinsics = np.eye(4)
    extrinsics[0, 3] = number
    return {
        "image": image.astype(np.uint8),
        "depth": depth,
        "intrinsics": K,
        "extrinsics": extrinsics,
    }


class Looker(Robot):
    """One capture in each step, or, in real time, a hundred in a second."""

    modes: ClassVar = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    control_hz = 20.0
    camera_hz = 100.0

    def __init__(self):
        super().__init__()
        self.captures = 0
        self.steps = 0

    def camera_configs(self):
        return [CameraConfig("cam", HEIGHT, WIDTH, has_depth=True, hz=self.camera_hz, max_age=5.0)]

    def proprio_configs(self):
        return [ProprioConfig("steps", 1, max_age=5.0)]

    def open(self):
        if self.mode is not Mode.LOCKSTEP:
            self.start_sensor("cam", self.look, hz=self.camera_hz)

    def look(self):
        self.captures += 1
        self.update_camera("cam", **capture(self.captures))

    def feel(self):
        self.update_proprio("steps", np.array([self.steps], np.float32))
        if self.mode is Mode.LOCKSTEP:
            self.look()

    def reset(self):
        self.steps = 0
        self.feel()

    def apply_action(self, action):
        self.steps += 1
        self.feel()

    def hold(self):
        pass
