"""Robots for tests: small, real, and with something to look at afterwards."""

import threading
import time
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from remote_env_server import (
    CameraConfig,
    GoalReward,
    Mode,
    Outcome,
    OutOfBounds,
    ProprioConfig,
    Robot,
)


class Counter(Robot):
    """Counts in lockstep: the observation is the sum of all actions."""

    modes: ClassVar = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 50.0
    seedable = True
    reset_options: ClassVar = {"start": "where to begin"}

    def __init__(self):
        super().__init__()
        self.actions = []
        self.holds = []
        self.threads = set()
        self.closed = False
        self._sum = np.zeros(2)
        self._steps = 0

    def proprio_configs(self):
        return [ProprioConfig("sum", 2, np.float64, low=-1e6, high=1e6, unit="m")]

    def reset(self, *, seed=None, options=None):
        self.threads.add(threading.current_thread().name)
        start = (options or {}).get("start", 0.0)
        self._steps = 0
        self._sum = np.random.default_rng(seed).normal(size=2) + start
        self.update_proprio("sum", self._sum)
        return {"start": float(start)}

    def apply_action(self, action):
        self.threads.add(threading.current_thread().name)
        self.actions.append(np.array(action))
        self._steps += 1
        self._sum = self._sum + action
        self.update_proprio("sum", self._sum)

    def outcome(self, observation):
        return Outcome(reward=float(observation["sum"][0]), info={"steps": self._steps})

    def hold(self):
        self.holds.append(time.monotonic())

    def close(self):
        self.closed = True


class Gated(Counter):
    """Counts, and does nothing before it is let go; ``is_in`` says that it waits for that."""

    def __init__(self):
        super().__init__()
        self.is_in = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()

    def apply_action(self, action):
        self.is_in.set()
        self.may_go.wait(20)
        super().apply_action(action)


class Clipping(Counter):
    out_of_bounds = OutOfBounds.CLIP


class Limited(Counter):
    max_episode_steps = 3


class Reacher(Robot):
    """Moves a point to a goal, in lockstep, and says what that is worth."""

    modes: ClassVar = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    control_hz = 50.0
    max_episode_steps = 20
    seedable = True
    goal_reward = GoalReward("sparse", 0.1, derived=("goal_difference",))

    def proprio_configs(self):
        names = ("achieved_goal", "desired_goal", "goal_difference")
        return [ProprioConfig(name, 3, np.float64, unit="m") for name in names]

    def reset(self, *, seed=None, options=None):
        self._goal = np.random.default_rng(seed).normal(size=3)
        self._place(np.zeros(3))

    def apply_action(self, action):
        self._place(self._point + 0.1 * action)

    def _place(self, point):
        self._point = point
        self.update_proprio("achieved_goal", point)
        self.update_proprio("desired_goal", self._goal)
        self.update_proprio("goal_difference", self._goal - point)

    def outcome(self, observation):
        goals = observation["achieved_goal"], observation["desired_goal"]
        return Outcome(reward=float(self.goal_reward.compute(*goals)))


class Rig(Robot):
    """Sensor threads in real time: one camera with depth, joints; remembers what moved it."""

    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    control_hz = 50.0

    def __init__(self, *, publishes=True):
        super().__init__()
        self.publishes = publishes
        self.actions = []
        self.holds = []
        self._count = 0

    def camera_configs(self):
        return [CameraConfig("cam", 24, 32, has_depth=True, hz=100.0)]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 3, low=-3.2, high=3.2, unit="rad", hz=200.0)]

    def open(self):
        if self.publishes:
            self.start_sensor("cam", self.read_camera, hz=100.0)
        self.start_sensor("joint_pos", self.read_joints, hz=200.0)

    def read_camera(self):
        self._count += 1
        self.update_camera(
            "cam",
            image=np.full((24, 32, 3), self._count % 256, np.uint8),
            depth=np.full((24, 32), self._count, np.float32),
            extrinsics=np.eye(4),
        )

    def read_joints(self):
        self.update_proprio("joint_pos", np.zeros(3, np.float32))

    def reset(self):
        return None

    def apply_action(self, action):
        self.actions.append((time.monotonic(), action))

    def hold(self):
        self.holds.append(time.monotonic())


class Unopenable(Counter):
    def open(self):
        raise OSError("no arm on /dev/ttyUSB0")
