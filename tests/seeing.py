"""A robot whose pictures, depth and joints are different in each step, for wrappers."""

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from remote_env_server import (
    ActionLimit,
    CameraConfig,
    Mode,
    Outcome,
    OutOfBounds,
    ProprioConfig,
    Robot,
)


class Seeing(Robot):
    """Moves two joints in lockstep; cuts actions that are too fast; episodes of 2 to 6 steps."""

    modes: ClassVar = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 20.0
    seedable = True
    out_of_bounds = OutOfBounds.CLIP
    action_limits: ClassVar = {"action": ActionLimit(max_rate=8.0, measured="joint_pos")}
    size = (5, 6)

    def __init__(self, *, fails_at=None):
        super().__init__()
        self._random = np.random.default_rng()
        self._fails_at = fails_at
        self.actions = []

    def camera_configs(self):
        return [CameraConfig("cam", *self.size, has_depth=True, max_depth=2.0, may_repeat=True)]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 2, low=-1.0, high=1.0, unit="rad")]

    def get_metadata(self):
        return {"action_delay": 0.08}

    def reset(self, *, seed=None):
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._left = int(self._random.integers(2, 7))
        self._joints = self._random.uniform(-0.5, 0.5, 2).astype(np.float32)
        self._publish()

    def apply_action(self, action):
        self.actions.append(np.array(action))
        if self._fails_at is not None:
            self._fails_at -= 1
            if self._fails_at == 0:
                raise OSError("the arm is stuck")
        self._left -= 1
        self._joints = np.clip(0.5 * self._joints + 0.5 * action, -1, 1).astype(np.float32)
        self._publish()

    def _publish(self):
        pixels = self._random.integers(256, size=(*self.size, 3), dtype=np.uint8)
        depth = self._random.uniform(0.0, 2.0, self.size).astype(np.float32)
        self.update_camera("cam", image=pixels, depth=np.where(depth < 0.2, 0, depth))
        self.update_proprio("joint_pos", self._joints)

    def outcome(self, observation):
        reward = -float(np.abs(observation["joint_pos"]).sum())
        return Outcome(reward, terminated=self._left <= 0)

    def hold(self):
        pass


class Shut(Seeing):
    """Cannot be reset."""

    def reset(self, *, seed=None):
        raise OSError("the door")


class Looking(Seeing):
    """The same with pictures that a CNN can take, and with actions of another size."""

    size = (36, 40)
    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
