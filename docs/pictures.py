"""Make the pictures of the documentation, through the wire: python docs/pictures.py."""

import json
from pathlib import Path

import gymnasium as gym
import pygame

import remote_env  # noqa: F401 (registers the environment)
from remote_env_server import RobotServer
from remote_env_server.robots.double_pendulum import DoublePendulumConfig, DoublePendulumRobot

START = [-0.15, 0.2, -0.12, 0.0, 0.0, 0.0]


def main() -> None:
    """Serve a double pendulum, look at it from afar, and save what is seen."""
    robot = DoublePendulumRobot(DoublePendulumConfig(image_size=(300, 480)))
    with (
        RobotServer(robot, port=0) as server,
        gym.make("RemoteRobot-v0", url=server.url, render_mode="rgb_array") as env,
    ):
        env.reset(options={"state": START})
        picture = env.render()
    target = Path(__file__).parent / "double-pendulum.png"
    pygame.image.save(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), target)
    print(json.dumps({"picture": target.name, "shape": picture.shape}))


if __name__ == "__main__":
    main()
