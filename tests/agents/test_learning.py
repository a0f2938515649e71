"""What is learned through the wire is bit by bit what is learned locally."""

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_agents import TrainConfig
from remote_env_agents.presets import Preset, make_model
from remote_env_agents.rollouts import InvalidRows
from remote_env_server import LocalRobotEnv
from remote_env_server.robots.arm import ArmConfig, ArmRobot

UPDATES = 2
# Longer than an episode, so that both rollouts have resets in them.
PRESET = Preset((64, 64), 3e-3, 0.9, 64, {"n_steps": 64, "n_epochs": 10})


class Notes(BaseCallback):
    """Keeps a copy of every rollout."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.locals["rollout_buffer"]
        arrays = {**buffer.observations, "actions": buffer.actions, "rewards": buffer.rewards}
        self.rollouts.append({name: array.tobytes() for name, array in arrays.items()})


def make_arm():
    return ArmRobot(ArmConfig(cameras=("none",)))


def learn(env):
    """Learn from some rollouts; return these, and the bytes of the parameters before and after."""
    model = make_model(TrainConfig(urls=("",), seed=3), PRESET, env)
    before = bytes_of(model)
    notes = Notes()
    model.learn(UPDATES * PRESET.extra["n_steps"] * env.num_envs, callback=[InvalidRows(), notes])
    env.close()
    return notes.rollouts, before, bytes_of(model)


def bytes_of(model):
    return {name: value.numpy().tobytes() for name, value in model.policy.state_dict().items()}


@pytest.fixture
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_ppo_through_the_wire_learns_bit_by_bit_what_it_learns_locally(serve, one_torch_thread):
    remote = RemoteRobotVecEnv([serve(make_arm()).url for _ in range(2)])
    local = DummyVecEnv([lambda: LocalRobotEnv(make_arm())] * 2)
    rollouts, before, after = learn(remote)
    assert len(rollouts) == UPDATES
    assert before != after
    assert (rollouts, before, after) == learn(local)
