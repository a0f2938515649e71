"""Stable-Baselines3 as it is: PPO on several FetchReachDense-v4, each in a process of its own.

python examples/fetch_reach_dense_ppo.py                 serves four by itself
python examples/fetch_reach_dense_ppo.py ws://... ws://...   learns on those that you serve:

    remote-env serve gymnasium:gymnasium_robotics:FetchReachDense-v4 --port 8765

RemoteRobotVecEnv takes the place of SubprocVecEnv: all robots move at once.
"""

import contextlib
import time

import torch
import tyro
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_agents import ServedRobots, evaluate, print_evaluation

FETCH_REACH = "gymnasium:gymnasium_robotics:FetchReachDense-v4"


def main(urls: tuple[str, ...] = (), /, *, smoke: bool = False) -> None:
    robots, rollout, steps, episodes = (2, 256, 512, 2) if smoke else (4, 1024, 16_384, 100)
    torch.set_num_threads(1)  # the fastest, for a net of this size
    with contextlib.nullcontext(urls) if urls else ServedRobots(FETCH_REACH, count=robots) as urls:
        env = VecMonitor(RemoteRobotVecEnv(urls))
        model = PPO(
            "MultiInputPolicy",
            env,
            n_steps=rollout // len(urls),
            batch_size=256,
            learning_rate=1e-3,
            gamma=0.95,
            seed=1,
            device="cpu",
            verbose=1,
        )
        began, cpu = time.monotonic(), time.process_time()
        model.learn(steps)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        print(f"{steps} steps in {seconds:.0f} s, of which the learner computed for {cpu:.0f} s")
        env.close()
        print_evaluation(Console(), evaluate(model, urls, episodes=episodes), "PPO")


if __name__ == "__main__":
    tyro.cli(main)
