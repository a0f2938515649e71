"""Make the report that docs/evaluation.md shows, and a picture of it if there is Chromium.

python docs/evaluation_report.py [--folder FOLDER]

Four arms are served, one of which moves at a third of the speed that it is told. A controller
that trembles is evaluated on them.
"""

import argparse
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.reliability_rig import ServerProcess
from remote_env_agents import evaluate, print_evaluation, write_report
from remote_env_server.robots.arm import ArmConfig, ArmRobot

PICTURE = Path(__file__).parent / "evaluation-report.png"


class WornArm(ArmRobot):
    """Moves at a third of the speed that it is told."""

    def apply_action(self, action: Any) -> None:
        """Move, but slower."""
        super().apply_action(np.asarray(action) * np.float32(0.33))


class Trembling:
    """Moves to the goal, and trembles: by chance, and the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def for_episode(self, seed: int) -> "Trembling":
        """Return one for an episode."""
        return Trembling(seed)

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the velocity of the tool; the gripper stays."""
        wanted = 12 * observation["goal_difference"] + self._random.normal(0, 0.4, 3)
        return np.append(np.clip(wanted, -1, 1), 0).astype(np.float32)


def main() -> None:
    """Evaluate, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    config = {"config": ArmConfig(cameras=("none",))}
    with contextlib.ExitStack() as stack:
        kinds = (ArmRobot, ArmRobot, WornArm, ArmRobot)
        arms = [stack.enter_context(ServerProcess(kind, config)) for kind in kinds]
        urls = [arm.url for arm in arms]
        evaluation = evaluate(Trembling(), urls, results=folder / "episodes.jsonl")
    print_evaluation(Console(), evaluation, "a controller that trembles")
    report = write_report(folder, evaluation).absolute()
    print(report)
    if (browser := shutil.which("chromium")) is not None:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        shot = [f"--screenshot={PICTURE}", "--window-size=920,1580", report.as_uri()]
        subprocess.run([browser, *options, *shot], check=True, timeout=120)  # noqa: S603


if __name__ == "__main__":
    main()
