"""Train PPO to reach with simulated arms, through the wire, and evaluate what it learned.

python examples/train_arm.py                        serves four arms by itself
python examples/train_arm.py ws://... ws://...      trains on those that you serve:

    remote-env serve arm --port 8765 --cameras none

The same without Python: remote-env train URL... --steps 12288, and remote-env eval.
"""

import contextlib
import time

import tyro
from rich.console import Console

from remote_env_agents import (
    Hyperparameters,
    ServedRobots,
    TrainConfig,
    evaluate,
    print_evaluation,
    print_training,
    train,
)


def main(urls: tuple[str, ...] = (), /, *, smoke: bool = False) -> None:
    robots, steps, episodes = (2, 256, 4) if smoke else (4, 12_288, 200)
    blind = ("--cameras", "none")
    with (
        contextlib.nullcontext(urls)
        if urls
        else ServedRobots("arm", count=robots, options=blind) as urls
    ):
        config = TrainConfig(
            urls=urls,
            algo="ppo",
            steps=steps,
            hyperparameters=Hyperparameters(learning_rate=3e-3, gamma=0.9),
        )
        console, cpu = Console(), time.process_time()
        result, cpu = train(config, console=console), time.process_time() - cpu
        print_training(console, result, urls)
        print(f"the learner computed for {cpu:.0f} s")
        # The deterministic policy, with goals that it has not seen: every seed counts once.
        evaluation = evaluate(result.policy, urls, episodes=episodes)
        print_evaluation(console, evaluation, "PPO, evaluated")


if __name__ == "__main__":
    tyro.cli(main)
