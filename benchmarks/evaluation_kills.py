"""An evaluation in which a robot dies and returns, and the evaluator itself is killed.

python benchmarks/evaluation_kills.py [--episodes 200] [--robots 4] [--kills 2] [--rounds 3]

Arms are served by processes of their own. First `remote-env eval` runs undisturbed. Then the same
command runs again in another folder, once for each round: at random moments one robot is killed
(SIGKILL) and served again at the same port, and the evaluator is killed (SIGKILL) and the same
command run again. In lockstep what a seed comes to does not depend on the robot, so each round
must come to the same episodes, bit by bit.

Exit code 1 if an episode is missing, counts twice, or came to something else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.reliability_rig import Journal, ServerProcess
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.results import Recorded, read_results
from remote_env_server.robots.arm import ArmConfig, ArmRobot

ROOT = Path(__file__).parents[1]
AWAY = 2.0  # seconds between the death of a robot and its return
OUTLIVES = 600.0  # no evaluation takes longer, in seconds


class NotingArm(ArmRobot):
    """An arm that notes each reset in a file."""

    def __init__(self, path: str) -> None:
        super().__init__(ArmConfig(cameras=("none",)))
        self._journal = Journal(path)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Note it, and do it."""
        self._journal.note("reset", seed or 0)
        return super().reset(seed=seed)


class Arm:
    """A served arm that can be killed and served again at the same port."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._before_return = 0
        self._process = ServerProcess(NotingArm, {"path": str(journal)})
        self.url = self._process.url

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()

    def restart(self) -> None:
        """Serve it again where it was."""
        port = int(self.url.rpartition(":")[2])
        self._process.__exit__()
        self._before_return = self._resets
        self._process = ServerProcess(NotingArm, {"path": str(self._journal)}, port=port)

    @property
    def _resets(self) -> int:
        return self._journal.read_bytes().count(b"reset")

    @property
    def resets_since_return(self) -> int:
        """How many episodes it has begun since ``restart``."""
        return self._resets - self._before_return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__()


@dataclass
class Round:
    """What came of one evaluation.

    Attributes:
        seconds: From the first start to the last end, with everything that starts anew.
        found: What stands in the file of results.
        begun: How many resets the robots did.
        killed_at: How many episodes counted when the evaluator was killed.
        robot_killed_at: How many counted when a robot was killed.
        after_return: How many episodes that robot began when it was back.
    """

    seconds: float
    found: Recorded
    begun: int
    killed_at: list[int] = field(default_factory=list)
    robot_killed_at: list[int] = field(default_factory=list)
    after_return: int = 0

    @property
    def redone(self) -> int:
        """Episodes that were begun and came to nothing: lost with the evaluator."""
        return self.begun - len(self.found.episodes) - len(self.found.spoiled)


class Evaluator:
    """``remote-env eval`` in a process of its own."""

    def __init__(self, urls: list[str], folder: Path, options: argparse.Namespace) -> None:
        self.results = folder / "episodes.jsonl"
        self._log = folder.with_suffix(".log").open("ab")
        command = [sys.executable, "-m", "remote_env", "eval", *urls]
        command += ["--policy", options.policy, "--episodes", str(options.episodes)]
        self.process = subprocess.Popen(
            [*command, "--folder", str(folder)], stdout=self._log, stderr=self._log
        )

    def wait_for(self, episodes: int) -> None:
        """Wait until so many episodes count, or it ended before."""
        until = time.monotonic() + OUTLIVES
        while self.process.poll() is None and self.counted < episodes:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.counted} episodes after {OUTLIVES:g} s")
            time.sleep(0.01)

    @property
    def counted(self) -> int:
        """Episodes that count, as the file says."""
        with contextlib.suppress(FileNotFoundError):
            return self.results.read_bytes().count(b'"spoiled":""')
        return 0

    def kill(self) -> None:
        """End it as a power cut does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(OUTLIVES)
        self._log.close()
        return code


def evaluate_undisturbed(arms: list[Arm], folder: Path, options: argparse.Namespace) -> Round:
    began_at = time.monotonic()
    evaluator = Evaluator([arm.url for arm in arms], folder, options)
    code = evaluator.end()
    seconds = time.monotonic() - began_at
    if code:
        raise SystemExit(folder.with_suffix(".log").read_text())
    return Round(seconds, recorded(folder), begun=0)


def evaluate_with_kills(
    arms: list[Arm],
    folder: Path,
    journals: Path,
    options: argparse.Namespace,
    chance: random.Random,
) -> Round:
    """Run it, and kill a robot once and the evaluator so often, each at a random moment."""
    urls = [arm.url for arm in arms]
    before = resets_in(journals)
    moments = [
        ("evaluator", chance.randrange(1, max(2, options.episodes * 4 // 5)))
        for _ in range(options.kills)
    ]
    # Early, so that there is something left to do when it is back.
    moments.append(("robot", chance.randrange(1, max(2, options.episodes // 3))))
    killed_at, robot_killed_at = [], []
    dead = chance.choice(arms)
    returning = threading.Timer(AWAY, dead.restart)
    began_at = time.monotonic()
    evaluator = Evaluator(urls, folder, options)
    for what, at in sorted(moments, key=lambda moment: moment[1]):
        evaluator.wait_for(at)
        time.sleep(chance.uniform(0.0, 0.1))  # anywhere in an episode, or in a line
        if what == "robot":
            robot_killed_at.append(evaluator.counted)
            dead.kill()
            returning.start()
        elif evaluator.process.poll() is None:
            killed_at.append(evaluator.counted)
            evaluator.kill()
            evaluator = Evaluator(urls, folder, options)
    code = evaluator.end()
    seconds = time.monotonic() - began_at
    returning.join()
    if code:
        raise SystemExit(folder.with_suffix(".log").read_text())
    begun = resets_in(journals) - before
    return Round(
        seconds, recorded(folder), begun, killed_at, robot_killed_at, dead.resets_since_return
    )


def resets_in(journals: Path) -> int:
    return sum(path.read_bytes().count(b"reset") for path in journals.iterdir())


def recorded(folder: Path) -> Recorded:
    found = read_results(folder / "episodes.jsonl")
    assert found is not None
    return found


def what_came(found: Recorded) -> dict[EpisodeKey, tuple[float, int, bool | None, str]]:
    return {
        one.key: (one.episode_return, one.length, one.is_success, one.end_reason)
        for one in found.episodes
    }


def problems_of(kept: Round, wanted: Round) -> list[str]:
    """Return what is wrong with a round."""
    counts = Counter(one.key for one in kept.found.episodes)
    lines = (kept.found.about.episodes, len(kept.found.episodes))
    problems = [f"{key.name} counts {n} times" for key, n in counts.items() if n != 1]
    problems += [f"{key.name} is missing" for key in wanted.found.keys if key not in counts]
    if lines[0] != lines[1]:
        problems.append(f"{lines[1]} episodes of {lines[0]}")
    expected = what_came(wanted.found)
    return problems + [
        f"{key.name} came to {what} and not to {expected[key]}"
        for key, what in what_came(kept.found).items()
        if what != expected[key]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--kills", type=int, default=2, help="of the evaluator, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", default="random")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", type=Path, help="a folder for the reports")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = options.keep or place
        folder.mkdir(parents=True, exist_ok=True)
        journals = place / "journals"
        journals.mkdir()
        arms = [
            stack.enter_context(Arm(journals / str(number))) for number in range(options.robots)
        ]
        wanted = evaluate_undisturbed(arms, folder / "undisturbed", options)
        print(f"undisturbed: {len(wanted.found.episodes)} episodes in {wanted.seconds:.1f} s")
        problems = []
        for number in range(options.rounds):
            kept = evaluate_with_kills(arms, folder / f"round-{number}", journals, options, chance)
            wrong = problems_of(kept, wanted)
            problems += wrong
            print(line_of(number, kept, wrong), flush=True)
    print(json.dumps({"problems": problems}))
    return 1 if problems else 0


def line_of(number: int, kept: Round, wrong: list[str]) -> str:
    events = Counter(event.what for event in kept.found.events)
    return (
        f"round {number}: {len(kept.found.episodes)} episodes in {kept.seconds:.1f} s; "
        f"evaluator killed at {kept.killed_at}, robot at {kept.robot_killed_at} "
        f"(noticed {events['lost']} times), which did {kept.after_return} when it was back; "
        f"{kept.redone} episodes lost with the evaluator, {len(kept.found.spoiled)} with the "
        f"robot; {'; '.join(wrong) or 'each counted once, the same bit by bit'}"
    )


if __name__ == "__main__":
    sys.exit(main())
