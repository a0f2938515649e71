"""Evaluate one policy on several robots at once: every seed counts exactly once.

python examples/evaluate_robots.py                      a P-controller, on four simulated arms
python examples/evaluate_robots.py --kill-one           one of them is lost in the middle
python examples/evaluate_robots.py --policy policy.zip  what remote-env train has written
python examples/evaluate_robots.py ws://... ws://...    on robots that you serve

Without Python: remote-env eval URL... --policy policy.zip
"""

import contextlib

import numpy as np
import tyro
from rich.console import Console

from remote_env_agents import Episode, ServedRobots, evaluate, print_evaluation

BLIND = ("--cameras", "none")  # of the arm's pictures nothing is needed


def to_the_goal(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Move the tool straight to the goal, and leave the gripper as it is."""
    velocity = np.clip(20 * observation["goal_difference"], -1, 1)
    return np.append(velocity, 0).astype(np.float32)


def main(
    urls: tuple[str, ...] = (),
    /,
    *,
    policy: str | None = None,
    kill_one: bool = False,
    smoke: bool = False,
) -> None:
    robots, episodes = (2, 24) if smoke else (4, 200)
    if kill_one and urls:
        raise SystemExit("--kill-one is for robots that this serves by itself; give no urls")
    with contextlib.ExitStack() as served:
        if not urls:  # two calls, so that one robot can be lost without the others
            victim = ServedRobots("arm", options=BLIND)
            others = ServedRobots("arm", options=BLIND, count=robots - 1)
            urls = (*served.enter_context(victim), *served.enter_context(others))
        over: list[Episode] = []

        def note(episode: Episode) -> None:
            over.append(episode)
            if kill_one and len(over) >= episodes // 8 and episode.robot != urls[0]:
                victim.stop()  # most likely in the middle of an episode

        evaluation = evaluate(policy or to_the_goal, urls, episodes=episodes, on_episode=note)
        print_evaluation(Console(), evaluation, policy or "a P-controller")
        seeds = {episode.seed for episode in evaluation.episodes}
        print(f"{len(evaluation.episodes)} episodes count, of {len(seeds)} different seeds")


if __name__ == "__main__":
    tyro.cli(main)
