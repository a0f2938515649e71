"""The first step: a robot, wherever it is, as a Gymnasium environment.

Without a url a robot is simulated in this process. Serve one, remote-env serve double-pendulum,
and write gym.make("RemoteRobot-v0", url="ws://127.0.0.1:8765"): nothing else changes.
"""

import gymnasium as gym

import remote_env  # noqa: F401 (registers RemoteRobot-v0)

env = gym.make("RemoteRobot-v0")
observation, info = env.reset(seed=1)
for step in range(200):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        print(f"step {step}: the episode ended, {info['remote']['end_reason']}")
        observation, info = env.reset()
env.close()
