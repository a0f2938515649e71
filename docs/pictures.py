"""Make the pictures of the documentation, through the wire: python docs/pictures.py."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
from numpy.typing import NDArray

import remote_env  # noqa: F401 (registers the environment)
from remote_env_server import RobotServer
from remote_env_server.robots.arm import ArmConfig, ArmRobot
from remote_env_server.robots.double_pendulum import DoublePendulumConfig, DoublePendulumRobot

FOLDER = Path(__file__).parent
START = [-0.15, 0.2, -0.12, 0.0, 0.0, 0.0]
GOAL = [0.48, -0.11, 0.11]


def save(picture: NDArray[np.uint8], name: str) -> None:
    """Write a picture beside this file."""
    pygame.image.save(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), FOLDER / name)
    print(name, picture.shape)


def draw_double_pendulum() -> None:
    """Serve a double pendulum, look at it from afar, and save what is seen."""
    robot = DoublePendulumRobot(DoublePendulumConfig(image_size=(300, 480)))
    with (
        RobotServer(robot, port=0) as server,
        gym.make("RemoteRobot-v0", url=server.url, render_mode="rgb_array") as env,
    ):
        env.reset(options={"state": START})
        picture: Any = env.render()
        save(picture, "double-pendulum.png")


def draw_arm() -> None:
    """Serve an arm, let it reach, and save what its cameras see at the beginning and the end."""
    robot = ArmRobot(ArmConfig(image_size=(300, 400), quality="fine"))
    cameras = ["front/image", "side/image", "wrist/image"]
    with (
        RobotServer(robot, port=0) as server,
        gym.make("RemoteRobot-v0", url=server.url, streams=["goal_difference", *cameras]) as env,
    ):
        observation, _ = env.reset(options={"goal": GOAL})
        rows = [observation]
        for _ in range(15):
            action = np.append(np.clip(8 * observation["goal_difference"], -1, 1), 0.2)
            observation, *_ = env.step(action.astype(np.float32))
        rows.append(observation)
    save(np.concatenate([np.hstack([row[name] for name in cameras]) for row in rows]), "arm.png")


if __name__ == "__main__":
    draw_double_pendulum()
    draw_arm()
