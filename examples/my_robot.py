"""Your own robot: a camera SDK that blocks and an arm on a serial line, served in real time."""

import sys
import threading
import time

import numpy as np
from gymnasium import spaces
from remote_env_server import CameraConfig, Outcome, ProprioConfig, Robot, RobotServer


class CameraSdk:  # stands for a vendor's: read() blocks until the next frame
    def read(self):
        time.sleep(1 / 30)
        return np.full((120, 160, 3), 90, np.uint8), np.ones((120, 160), np.float32)


class SerialArm:  # stands for a vendor's: six joints, not safe from two threads at once
    joints = np.zeros(6, np.float32)

    def command(self, velocities):
        self.joints = np.clip(self.joints + 0.05 * velocities, -3.1, 3.1)


# --- the 40 lines -------------------------------------------------------------------
class MyRobot(Robot):
    action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)  # joint velocities, rad/s
    control_hz = 20.0
    max_episode_steps = 100

    def camera_configs(self):
        return [CameraConfig("wrist_cam", height=120, width=160, has_depth=True, hz=30)]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 6, low=-3.2, high=3.2, unit="rad", hz=100)]

    def open(self):
        self.camera, self.arm, self.serial = CameraSdk(), SerialArm(), threading.Lock()
        self.start_sensor("wrist_cam", self.read_camera)  # read() itself waits: no hz
        self.start_sensor("joint_pos", self.read_joints, hz=100)

    def read_camera(self):
        image, depth = self.camera.read()
        self.update_camera("wrist_cam", image=image, depth=depth)  # one capture, whole

    def read_joints(self):
        with self.serial:
            self.update_proprio("joint_pos", self.arm.joints)

    def reset(self):
        self.hold()  # a real arm would drive home here, and return when it is there

    def apply_action(self, action):
        with self.serial:
            self.arm.command(action)

    def hold(self):
        with self.serial:
            self.arm.command(np.zeros(6, np.float32))

    def outcome(self, observation):
        return Outcome(reward=-float(np.abs(observation["joint_pos"]).sum()))


if __name__ == "__main__":
    RobotServer(MyRobot(), port=0 if "--smoke" in sys.argv else 8765).run()
