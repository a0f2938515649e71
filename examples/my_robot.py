"""Your own robot: a camera SDK that blocks and an arm on a serial line, in real time.

python examples/my_robot.py     then, elsewhere: gym.make("RemoteRobot-v0", url="ws://...")
"""

import sys
import threading

import numpy as np
from fake_sdk import CameraSdk, SerialArm
from gymnasium.spaces import Box

from remote_env import RemoteRobotEnv
from remote_env_server import CameraConfig, Outcome, ProprioConfig, Robot, RobotServer


class MyRobot(Robot):
    action_space = Box(-1.0, 1.0, (6,), np.float32)  # joint velocities, rad/s
    control_hz = 20.0

    def camera_configs(self):
        return [CameraConfig("wrist_cam", height=120, width=160, has_depth=True, hz=30)]

    def proprio_configs(self):
        return [ProprioConfig("joint_pos", 6, low=-3.2, high=3.2, unit="rad", hz=100)]

    def open(self):  # on the control thread, once
        self.camera, self.arm, self.serial = CameraSdk(), SerialArm(), threading.Lock()
        self.start_sensor("wrist_cam", self.read_camera)  # read() itself waits: no hz
        self.start_sensor("joint_pos", self.read_joints, hz=100)

    def read_camera(self):
        image, depth = self.camera.read()
        self.update_camera("wrist_cam", image=image, depth=depth)  # one whole capture

    def read_joints(self):
        with self.serial:
            joints = self.arm.joints
        self.update_proprio("joint_pos", joints)

    def reset(self):  # a real arm drives home here, and this returns when it is there
        self.hold()

    def apply_action(self, action):
        with self.serial:
            self.arm.command(action)

    def hold(self):  # what "safe" means for this arm: stand still
        self.apply_action(np.zeros(6, np.float32))

    def outcome(self, observation):
        return Outcome(reward=-float(np.abs(observation["joint_pos"]).sum()))


if __name__ == "__main__":
    if "--smoke" in sys.argv:  # commands it once, and ends
        with RobotServer(MyRobot(), port=0) as server, RemoteRobotEnv(server.url) as env:
            print(env.reset()[0]["joint_pos"], env.step(np.ones(6, np.float32))[0]["joint_pos"])
    else:
        RobotServer(MyRobot(), port=8765).run()
