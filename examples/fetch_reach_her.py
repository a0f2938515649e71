"""Sparse rewards: FetchReach-v4 with DDPG and hindsight experience replay, through the wire.

python examples/fetch_reach_her.py                       serves the environment by itself
python examples/fetch_reach_her.py ws://127.0.0.1:8765   learns on what you serve there:

    remote-env serve gymnasium:gymnasium_robotics:FetchReach-v4

Nothing here but the url knows that the environment is remote. HER asks it thousands of times a
second what a step would have been worth for another goal; that is computed on this side.
"""

import contextlib
import time

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from stable_baselines3 import DDPG, HerReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise

import remote_env  # noqa: F401 (registers RemoteRobot-v0)
from remote_env_agents import ServedRobots, evaluate, print_evaluation

FETCH_REACH = "gymnasium:gymnasium_robotics:FetchReach-v4"


def main(urls: tuple[str, ...] = (), /, *, smoke: bool = False) -> None:
    steps, learning_starts, episodes = (200, 100, 2) if smoke else (6000, 1000, 100)
    torch.set_num_threads(1)  # the fastest, for a net of this size
    with contextlib.nullcontext(urls) if urls else ServedRobots(FETCH_REACH) as (url,):
        env = gym.make("RemoteRobot-v0", url=url)
        model = DDPG(
            "MultiInputPolicy",
            env,
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": 4},
            policy_kwargs={"net_arch": [256, 256]},
            action_noise=NormalActionNoise(np.zeros(4), np.full(4, 0.1)),
            learning_rate=1e-3,
            gamma=0.95,
            batch_size=256,
            learning_starts=learning_starts,
            seed=1,
            verbose=1,
        )
        began, cpu = time.monotonic(), time.process_time()
        model.learn(steps)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        print(f"{steps} steps in {seconds:.0f} s, of which the learner computed for {cpu:.0f} s")
        env.close()
        print_evaluation(Console(), evaluate(model, [url], episodes=episodes), "DDPG with HER")


if __name__ == "__main__":
    tyro.cli(main)
