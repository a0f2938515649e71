"""The first step: a robot, wherever it is, as a Gymnasium environment.

python examples/first_step.py                       simulates a robot in this process
python examples/first_step.py ws://robot.local:8765  commands the one over there
"""

import sys

import gymnasium as gym

import remote_env  # noqa: F401 (registers RemoteRobot-v0)


def main(url: str | None) -> None:
    env = gym.make("RemoteRobot-v0", url=url)
    _, _ = env.reset(seed=1)
    total = 0.0
    for _ in range(200):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += float(reward)
        if terminated or truncated:
            print(f"episode over ({info['remote']['end_reason']}), return {total:.1f}")
            env.reset()
            total = 0.0
    env.close()


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--smoke"]
    main(arguments[0] if arguments else None)
