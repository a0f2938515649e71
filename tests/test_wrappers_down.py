"""What wrappers make of the rows of a robot that is down, as Stable-Baselines3 sees them."""

import time

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from seeing import Seeing

from remote_env.sb3 import RemoteRobotVecEnv
from remote_env.wrappers import sb3

RECIPE = [("ActionHistory", {"steps": 2}), ("FrameStack", {"count": 3})]


def row_of(batch, index):
    return {name: part[index] for name, part in batch.items()}


def test_rows_of_a_robot_that_is_down_have_no_memory_of_each_other(serve):
    urls = [serve(robot, mode="lockstep").url for robot in (Seeing(), Seeing(fails_at=2))]
    env = sb3.PreparedObservations(RemoteRobotVecEnv(urls), RECIPE)
    env.seed(4)
    env.reset()
    action = np.full((2, 2), 0.25, np.float32)
    before = row_of(env.step(action)[0], 1)
    seen, _, dones, infos = env.step(action)
    assert dones[1]
    assert data_equivalence(infos[1]["terminal_observation"], before)
    down = row_of(seen, 1)
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        seen, _, dones, infos = env.step(action)
        if dones[1]:
            break
        assert data_equivalence(row_of(seen, 1), down)
    assert dones[1]
    assert data_equivalence(infos[1]["terminal_observation"], down)
    back = row_of(seen, 1)
    assert back["action_history"].tolist() == back["joint_pos"].tolist() * 2
    frames = np.split(back["cam/image"], 3, axis=-1)
    assert all(np.array_equal(frames[0], frame) for frame in frames)
    after = row_of(env.step(action)[0], 1)
    assert np.array_equal(after["cam/image"][..., :6], back["cam/image"][..., 3:])
    env.close()
