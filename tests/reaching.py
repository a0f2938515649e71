"""A robot that learners learn from in seconds, and how it goes wrong."""

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from remote_env import GoalReward
from remote_env_server import CameraConfig, Mode, Outcome, ProprioConfig, Robot

REACHED = 0.1  # from the goal, in metres


class Reach(Robot):
    """Moves a point to a goal in the plane; ten steps an episode, with two cameras."""

    modes: ClassVar = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 20.0
    seedable = True
    max_episode_steps = 10

    def __init__(self, *, steps_until=None, then=None):
        super().__init__()
        self.seeds = []
        self._left = steps_until
        self._then = then
        self._random = np.random.default_rng()
        self._position = self._goal = np.zeros(2, np.float32)

    def camera_configs(self):
        return [
            CameraConfig(name, 33, 47, on_request=True, may_repeat=True) for name in ("top", "side")
        ]

    def proprio_configs(self):
        bounds = {"low": -2.0, "high": 2.0, "unit": "m"}
        return [
            ProprioConfig(name, 2, **bounds)
            for name in ("achieved_goal", "desired_goal", "goal_difference")
        ]

    def reset(self, *, seed=None):
        self.seeds.append(seed)
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._position = np.zeros(2, np.float32)
        self._goal = self._random.uniform(-0.5, 0.5, 2).astype(np.float32)
        self._publish()

    def apply_action(self, action):
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._then()
        self._position = np.clip(self._position + 0.2 * action, -1, 1).astype(np.float32)
        self._publish()

    def _publish(self):
        self.update_proprio("achieved_goal", self._position)
        self.update_proprio("desired_goal", self._goal)
        self.update_proprio("goal_difference", self._goal - self._position)
        for name, brightness in (("top", 200), ("side", 100)):
            self.update_camera(name, image=np.full((33, 47, 3), brightness, np.uint8))

    def outcome(self, observation):
        distance = float(np.linalg.norm(observation["goal_difference"]))
        return Outcome(reward=-distance, info={"is_success": distance < REACHED})

    def hold(self):
        pass


class Strong(Reach):
    """The same with actions of another size."""

    action_space = spaces.Box(-5.0, 5.0, (2,), np.float32)

    def apply_action(self, action):
        super().apply_action(action / 5)


class Sparse(Reach):
    """The same with a reward that says only whether it is there, for any goal."""

    goal_reward = GoalReward("sparse", threshold=REACHED, derived=("goal_difference",))

    def outcome(self, observation):
        info = super().outcome(observation).info
        return Outcome(reward=0.0 if info["is_success"] else -1.0, info=info)


class Silent(Reach):
    """The same without a word of success."""

    def outcome(self, observation):
        return Outcome(reward=super().outcome(observation).reward)


class Timed(Reach):
    """The same in real time, at 50 Hz."""

    modes: ClassVar = (Mode.REALTIME,)
    control_hz = 50.0

    def __init__(self, **options):
        super().__init__(**options)
        self.holds = []

    def hold(self):
        self.holds.append(True)


class Switch(Reach):
    """The same with two actions."""

    action_space = spaces.Discrete(2)

    def apply_action(self, action):
        super().apply_action(np.full(2, float(action)))


def straight_to_the_goal(observation):
    """A policy that always succeeds."""
    return np.clip(observation["goal_difference"] / 0.2, -1, 1).astype(np.float32)


def stay(observation):
    """A policy that seldom succeeds."""
    return np.zeros(2, np.float32)
