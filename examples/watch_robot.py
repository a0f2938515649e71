"""Watch a robot that another program commands: numbers, and a picture now and then.

python examples/watch_robot.py ws://127.0.0.1:8765   what moves there, until Ctrl-C
python examples/watch_robot.py                       an arm that this serves and moves by itself

Watching takes no lease, cannot move the robot, and its learner does not wait.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro
from matplotlib.image import imsave

import remote_env
from remote_env_agents import ServedRobots, look_at

COMMAND = [sys.executable, "-m", "remote_env", "eval", "--policy", "random", "--episodes", "9999"]


@contextlib.contextmanager
def an_arm_that_moves():
    """Serve an arm, and let another program command it."""
    with ServedRobots("arm", options=("--mode", "realtime", "--cameras", "front")) as urls:
        other_program = subprocess.Popen([*COMMAND, *urls], stderr=subprocess.DEVNULL)
        try:
            yield urls
        finally:
            other_program.kill()
            other_program.wait()


def main(
    urls: tuple[str, ...] = (), /, *, folder: Path = Path("watched"), smoke: bool = False
) -> None:
    with contextlib.nullcontext(urls) if urls else an_arm_that_moves() as (url,):
        spec = look_at([url])
        pictures = [s.name for s in spec.streams if s.name.endswith("/image")]
        np.set_printoptions(precision=3, suppress=True)
        with remote_env.observe(url, hz=2, streams=[*spec.observed, *pictures[:1]]) as observer:
            complete = (seen for seen in observer if all(seen.sequences.values()))
            for count, seen in enumerate(complete):  # a stream that never came is zeros
                print(f"episode {seen.episode}, step {seen.step}; {seen.dropped} missed")
                for name in spec.observed:
                    print(f"  {name:16} {seen.ages[name]:.3f} s ago: {seen.arrays[name]}")
                if pictures and count % 10 == 0:
                    folder.mkdir(exist_ok=True)
                    imsave(folder / f"{count:06}.png", seen.arrays[pictures[0]])
                if smoke and seen.episode >= 1:
                    break


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        tyro.cli(main)
