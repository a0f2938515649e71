"""Robots that are good, and the same robots with one thing wrong each."""

import math
import os
import threading
import time
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from remote_env_server import CameraConfig, Mode, Outcome, ProprioConfig, Robot

# What must be slow on a busy machine too is slower there.
SLOWDOWN = float(os.environ.get("REMOTE_ENV_TEST_SLOWDOWN", "1"))


class Simulator(Robot):
    """Lockstep: a point that walks about. Nothing is wrong with it."""

    modes: ClassVar = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 50.0
    seedable = True
    max_episode_steps = 12
    reset_options: ClassVar = {"start": "where to begin"}

    def proprio_configs(self):
        return [ProprioConfig("position", 2, np.float64, low=-100.0, high=100.0, unit="m")]

    def camera_configs(self):
        return [CameraConfig("cam", 4, 6, on_request=True)]

    def reset(self, *, seed=None, options=None):
        self.position = np.random.default_rng(seed).normal(size=2)
        self.publish()

    def apply_action(self, action):
        self.position = self.position + 0.1 * action
        self.publish()

    def publish(self):
        self.update_proprio("position", self.position)
        self.update_image(
            "cam", np.full((4, 6, 3), int(abs(self.position[0]) * 100) % 256, np.uint8)
        )

    def outcome(self, observation):
        return Outcome(reward=-float(np.abs(observation["position"]).sum()))


class Arm(Robot):
    """Realtime: three joints and a camera, on sensor threads. Nothing is wrong with it."""

    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    control_hz = 50.0
    max_episode_steps = 15

    def __init__(self):
        super().__init__()
        self.joints = np.zeros(3, np.float32)
        self.velocity = np.zeros(3, np.float32)
        self.count = 0

    def camera_configs(self):
        return [CameraConfig("cam", 4, 6, has_depth=True, hz=50.0, extrinsics=np.eye(4))]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 3, low=-3.2, high=3.2, unit="rad", hz=100.0)]

    def open(self):
        self.start_sensor("cam", self.read_camera, hz=50.0)
        self.start_sensor("joints", self.read_joints, hz=100.0)

    def read_camera(self):
        self.count += 1
        image = np.full((4, 6, 3), self.count % 256, np.uint8)
        self.update_camera("cam", image=image, depth=np.full((4, 6), 1 + self.count % 7, "f4"))

    def read_joints(self):
        self.joints = np.clip(self.joints + 0.01 * self.velocity + 1e-5, -3, 3, dtype=np.float32)
        self.update_proprio("joint_pos", self.joints)

    def reset(self):
        self.joints = np.zeros(3, np.float32)

    def apply_action(self, action):
        self.velocity = action

    def hold(self):
        self.velocity = np.zeros(3, np.float32)


# it opens and describes itself


class DoesNotOpen(Simulator):
    def open(self):
        raise OSError("no arm on /dev/ttyUSB0")


# the description is complete


class Unlimited(Arm):
    action_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class OneValueOnly(Arm):
    action_space = spaces.Box(np.float32([-1, 0, -1]), np.float32([1, 0, 1]))


# hold is implemented


class WithoutHold(Arm):
    hold = Robot.hold


# resets and steps


class ResetsOnce(Simulator):
    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        if self.resets == 2:
            raise RuntimeError("the gripper is closed already")
        super().reset(seed=seed)


class FailsAtTheSecondStep(Simulator):
    steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        super().reset(seed=seed)

    def apply_action(self, action):
        self.steps += 1
        if self.steps == 2:
            raise RuntimeError("the bus is off")
        super().apply_action(action)


class OutOfItsSpace(Simulator):
    def publish(self):
        super().publish()
        self.update_proprio("position", [self.position[0], 100.0 + abs(self.position[1])])


class SensorOfNaN(Simulator):
    def publish(self):
        super().publish()
        self.update_proprio("position", [self.position[0], np.nan])

    def outcome(self, observation):
        return Outcome()


class BlindOnRequest(Simulator):
    def update_image(self, name, data, *, stamp=None):
        pass


class RewardOfNaN(Simulator):
    def outcome(self, observation):
        return Outcome(reward=math.nan)


# time


class WallClock(Arm):
    def read_joints(self):
        super().read_joints()
        self.update_proprio("joint_pos", self.joints, stamp=time.time())


class SlowObservation(Arm):
    def get_obs(self):
        time.sleep(0.03)
        return super().get_obs()


class WaitsForTheMotion(Arm):
    control_hz = 20.0

    def apply_action(self, action):
        super().apply_action(action)
        time.sleep(0.043)


class SlowSensor(Arm):
    def open(self):
        self.start_sensor("cam", self.read_camera, hz=50.0)
        self.start_sensor("joints", self.read_joints, hz=10.0)


class BackwardStamps(Arm):
    """Every third reading comes with an old stamp."""

    readings = 0

    def read_joints(self):
        self.readings += 1
        self.joints = self.joints + np.float32(1e-4)
        delay = 0.1 if self.readings % 3 == 0 else 0.0
        self.update_proprio("joint_pos", self.joints, stamp=self.now() - delay)


class FrozenCamera(Arm):
    """Its driver hands out the same buffer again and again."""

    def read_camera(self):
        self.update_camera("cam", image=np.ones((4, 6, 3), "u1"), depth=np.ones((4, 6), "f4"))


# safety


class SlowHold(Arm):
    def hold(self):
        super().hold()
        time.sleep(0.25 * SLOWDOWN)


class HoldsOnce(Arm):
    holds = False

    def reset(self):
        self.holds = False
        super().reset()

    def apply_action(self, action):
        self.holds = False
        super().apply_action(action)

    def hold(self):
        if self.holds:
            raise RuntimeError("the brake is on already")
        self.holds = True


class BlocksTheControlThread(Arm):
    """What follows the first action of an episode takes long."""

    is_first = False

    def reset(self):
        super().reset()
        self.is_first = True

    def outcome(self, observation):
        if self.is_first:
            self.is_first = False
            time.sleep(0.35 * SLOWDOWN)
        return super().outcome(observation)


class ConfusedByAFault(Simulator):
    is_judged = True

    def reset(self, *, seed=None, options=None):
        if not self.is_judged:
            raise RuntimeError("a motion is still going on")
        super().reset(seed=seed)

    def apply_action(self, action):
        self.is_judged = False
        super().apply_action(action)

    def outcome(self, observation):
        self.is_judged = True
        return super().outcome(observation)


# determinism


class Unseeded(Simulator):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=None)


class HiddenState(Simulator):
    """Begins where the last episode ended, by a hair."""

    drift = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.position + self.drift
        self.drift += 1e-12
        self.publish()


class FallsWithTime(Simulator):
    """Integrates whole tenths of a second of the wall clock."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last = time.monotonic()

    def apply_action(self, action):
        if time.monotonic() - self.last > 0.1:
            self.position = self.position - 1.0
        self.last = time.monotonic()
        super().apply_action(action)


class IgnoresTheSeed(Simulator):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=0)


# episodes


class LenientOptions(dict):
    """Says that it knows an option that it does not list."""

    def keys(self):
        return [*super().keys(), "no_such_option_of_remote_env_check"]


class AcceptsAnyOption(Simulator):
    reset_options: ClassVar = LenientOptions()


class MovesItsLimit(Simulator):
    def reset(self, *, seed=None, options=None):
        self.max_episode_steps = 1000
        super().reset(seed=seed)


class OneStepOnly(Simulator):
    max_episode_steps = 1


# the end


class LeavesAThread(Arm):
    may_end = threading.Event()

    def open(self):
        super().open()
        threading.Thread(target=self.may_end.wait, args=(60,), name="vendor", daemon=True).start()


class KeepsThePort(Simulator):
    is_taken: ClassVar[list] = []

    def open(self):
        if self.is_taken:
            raise OSError("/dev/ttyUSB0 is in use")
        self.is_taken.append(True)


class ClosesOnce(Simulator):
    def open(self):
        self.device = object()

    def close(self):
        del self.device


class FailsToClose(Simulator):
    def close(self):
        raise OSError("the device has gone")
