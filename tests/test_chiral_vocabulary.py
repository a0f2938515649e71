"""A server written after the chiral server guide, with only its base class and start changed.

The same names, arguments and habits: threads started in ``__init__``, three updates per
capture, ``_make_obs``, async methods, no action space, no seed, no limits.
"""

import threading
import time

import gymnasium as gym
import numpy as np
import pytest

import remote_env  # noqa: F401 (registers the environment)
import remote_env_server as chiral
from remote_env_server import Robot, RobotServer
from remote_env_server.logs import wait_for_logs

HEIGHT, WIDTH, JOINTS = 480, 640, 7


class OldServer(Robot):
    def camera_configs(self):
        k = np.array([[600, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=np.float64)
        return [
            chiral.CameraConfig(
                name="cam", height=HEIGHT, width=WIDTH, channels=3, has_depth=True,
                intrinsics=k, extrinsics=np.eye(4, dtype=np.float64),
            )
        ]  # fmt: skip

    def proprio_configs(self):
        return [chiral.ProprioConfig(name="joint_pos", size=JOINTS)]

    def __init__(self):
        super().__init__()
        self._steps = 0
        self.ends = False
        for name in self.images:
            threading.Thread(target=self._capture, args=(name,), daemon=True).start()
        for name in self.proprios:
            threading.Thread(target=self._feel, args=(name,), daemon=True).start()

    def _capture(self, name):
        while not self.ends:
            self.update_image(name, np.ones((HEIGHT, WIDTH, 3), dtype=np.uint8))
            self.update_depth(name, np.ones((HEIGHT, WIDTH), dtype=np.float32))
            self.update_extrinsics(name, np.eye(4, dtype=np.float64))
            time.sleep(1 / 30)

    def _feel(self, name):
        while not self.ends:
            self.update_proprio(name, np.zeros(JOINTS, dtype=np.float32))
            time.sleep(1 / 500)

    async def reset(self):
        self._steps = 0
        return self._make_obs(), {}

    async def get_obs(self):
        return self._make_obs(timestamp=self._steps * 0.05)

    async def apply_action(self, action):
        self._steps += 1


@pytest.mark.realtime
def test_it_is_stepped_by_gym_make(caplog):
    robot = OldServer()
    with RobotServer(robot, port=0) as server, gym.make("RemoteRobot-v0", url=server.url) as env:
        observation, _ = env.reset()
        assert observation["cam/image"].shape == (HEIGHT, WIDTH, 3)
        assert observation["cam/depth"].max() == 1.0
        for _ in range(3):
            *_, info = env.step(np.full(JOINTS, 0.5, np.float32))
        assert robot._steps == 3
        assert info["remote"]["timestamp"] == pytest.approx(0.15)
        assert info["remote"]["cameras"]["cam"]["intrinsics"][0, 0] == 600
        assert info["remote"]["incoherent"] == ["cam"]
    robot.ends = True
    wait_for_logs()
    assert "declares no action_space; taking" in caplog.text
