"""What it saves that pictures which have not changed are not sent: bytes, CPU and time of a step.

python benchmarks/unchanged.py [--seconds 5] [--rounds 3]

The rig of the payload P2 (a camera of 640x480 with depth, one of 1280x720, three streams), its
cameras at 30 Hz and its actions at 100 Hz, in a process of its own; then the same as fast as it
goes, in lockstep, with one picture in three steps. Two learners take turns: one keeps the newest
pictures, as `RemoteRobotEnv` does, and one does not.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.payloads import JOINTS, PAYLOADS, Sizes
from benchmarks.reliability_rig import ServerProcess
from remote_env import RobotClient
from remote_env.protocol import OnStale
from remote_env.spec import Mode
from remote_env.transport import Link
from remote_env_server import CameraConfig, ProprioConfig, Robot

CAMERA_HZ, CONTROL_HZ = 30.0, 100.0


class Rig(Robot):
    """Cameras on threads of their own, or, in lockstep, pictures in every third step."""

    modes = (Mode.REALTIME, Mode.LOCKSTEP)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    control_hz = CONTROL_HZ
    max_episode_steps = None

    def __init__(self, sizes: Sizes = PAYLOADS["P2"], *, is_flat_out: bool = False) -> None:
        """Declare cameras of these heights and widths.

        Args:
            sizes: With whether they have depth.
            is_flat_out: Whether the cameras keep to 30 Hz in lockstep, however many steps that is.
        """
        self.sizes = sizes
        self.is_flat_out = is_flat_out
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare them."""
        return [
            CameraConfig(f"cam{i}", height, width, has_depth=depth, hz=CAMERA_HZ)
            for i, (height, width, depth) in enumerate(self.sizes)
        ]

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare three streams."""
        return [ProprioConfig(name, 7) for name in JOINTS]

    def open(self) -> None:
        """Prepare pictures that differ; in real time, start the cameras."""
        self._steps, self._due = 0, 0.0
        self._shots = [0] * len(self.sizes)
        self._pictures = [[_picture(size, n) for n in (1, 2)] for size in self.sizes]
        if self.mode is not Mode.LOCKSTEP:
            for i, _ in enumerate(self.sizes):
                self.start_sensor(f"cam{i}", functools.partial(self._shoot, i), hz=CAMERA_HZ)

    def _shoot(self, number: int) -> None:
        self._shots[number] += 1
        self.update_camera(f"cam{number}", **self._pictures[number][self._shots[number] % 2])

    def _feel(self) -> None:
        for name in JOINTS:
            self.update_proprio(name, np.full(7, self._steps, np.float32))
        if self.mode is Mode.LOCKSTEP and self._is_time_to_shoot():
            for i, _ in enumerate(self.sizes):
                self._shoot(i)

    def _is_time_to_shoot(self) -> bool:
        if not self.is_flat_out:
            return self._steps % 3 == 0
        is_due = time.monotonic() >= self._due
        if is_due:
            self._due = time.monotonic() + 1.0 / CAMERA_HZ
        return is_due

    def reset(self) -> None:  # type: ignore[override]
        """Begin."""
        self._feel()

    def apply_action(self, action: Any) -> None:
        """Move by nothing."""
        self._steps += 1
        self._feel()

    def hold(self) -> None:
        """Do nothing; it cannot move."""


def _picture(size: tuple[int, int, bool], level: int) -> dict[str, Any]:
    """Return an image of one level, and the depth if there is one."""
    height, width, has_depth = size
    arrays: dict[str, Any] = {"image": np.full((height, width, 3), level, np.uint8)}
    if has_depth:
        arrays["depth"] = np.full((height, width), level, np.float32)
    return arrays


class Counting:
    """A link that counts what it receives."""

    def __init__(self, link: Link) -> None:
        """Count from here on."""
        self.link, self.received = link, 0

    def receive(self, timeout: float) -> Any:
        """Receive, and count."""
        frame = self.link.receive(timeout)
        self.received += len(frame)
        return frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


def measure(url: str, seconds: float, *, keeps: bool) -> dict[str, float]:
    """Step for a while; return what a step cost."""
    with RobotClient(url, connect_timeout=10.0) as client:
        names = [stream.name for stream in client.spec.streams]
        names = [name for name in names if "trinsics" not in name]
        # A busy machine may let a camera wait for long; that is no reason to stop.
        client.subscribe(names, on_stale=OnStale.FLAG, kept=None if keeps else ())
        channel: Any = client._channel
        channel._link = link = Counting(channel._link)
        done = client.reset()
        tick, period = done.tick, 1.0 / CONTROL_HZ
        action = [np.zeros(7, np.float32)]
        link.received, count, waits = 0, 0, []
        began_at, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began_at < seconds:
            count += 1
            answer = client.step(action, episode=done.episode, step=count, tick=tick, timeout=5.0)
            tick = answer.tick
            waits.append(client.timing["network"])
        lasted = time.perf_counter() - began_at
        return {
            "bytes": link.received / count,
            "cpu": (time.process_time() - cpu) / count,
            "network": float(np.mean(waits)),
            "hz": count / lasted,
            "periods": lasted / period / count,
        }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each learner and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for mode in ("realtime", "lockstep"):
        rounds: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        with ServerProcess(Rig, mode=mode) as server:
            for _ in range(options.rounds):
                for keeps in (True, False):
                    rounds[keeps].append(measure(server.url, options.seconds, keeps=keeps))
        rows = {
            keeps: {key: statistics.median(r[key] for r in some) for key in some[0]}
            for keeps, some in rounds.items()
        }
        for keeps, row in rows.items():
            print(
                f"{mode:9} {'keeps pictures' if keeps else 'sent everything':16}"
                f"{row['bytes'] / 1e6:6.2f} MB   learner's CPU {row['cpu'] * 1e6:6.0f} us   "
                f"on the way {row['network'] * 1e6:6.0f} us   {row['hz']:6.0f} steps/s"
            )
        ratios = {key: rows[True][key] / rows[False][key] for key in ("bytes", "cpu", "network")}
        print(
            f"{mode:9} ratio: bytes {ratios['bytes']:.3f}, CPU {ratios['cpu']:.2f}, "
            f"on the way {ratios['network']:.2f}"
        )
        results[mode] = {"keeps": rows[True], "sent": rows[False], "ratios": ratios}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
