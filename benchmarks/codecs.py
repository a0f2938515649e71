"""What codecs save: bytes and time of a step, on this machine and over a slow network.

python benchmarks/codecs.py [--seconds 5] [--rounds 3] [--rate 125e6]

First the codecs by themselves, on synthetic pictures of a room: encoding, decoding, sizes, and
what follows for a step if nothing else takes any time. Then the rig of the payload P2 (640x480
with depth, 1280x720, three streams of proprioception), whose cameras come at 30 Hz and whose
actions at 100 Hz, in a process of its own, raw and encoded: what a step takes on loopback; and the
same through a proxy that lets so many bytes per second pass, by default those of 1 Gb/s. Time is
that of the network and of decoding: what a learner waits for beside the robot's control period.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.unchanged import Counting
from remote_env import RobotClient, StreamRequest
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.compressing import decode_array, encode_array
from remote_env.spec import Mode
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, ProprioConfig, Robot, RobotServer

CAMERA_HZ, CONTROL_HZ = 30.0, 100.0
JOINTS = ("joint_pos", "joint_vel", "joint_torque")
SIZES = {"wrist": (480, 640), "front": (720, 1280)}
SHOTS = 4


def picture(size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """Return slopes, edges and the noise of a good camera, ``(height, width, 3)`` uint8."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = (np.sin(columns / 29 + number) * np.cos(rows / 37) + 1) * 110
    image = np.stack([columns * 200 / size[1], rows * 200 / size[0], waves], -1)
    image[(columns // 80 + rows // 80 + number) % 7 == 0] = (190, 60, 50)
    image += np.random.default_rng(number).normal(0, 2, image.shape)
    clipped: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return clipped


def depth_of(size: tuple[int, int], number: int) -> NDArray[np.float32]:
    """Return walls and boxes with the noise and the holes of a depth camera, metres."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    depth = 1.5 + rows / size[0] + 0.5 * ((columns // 90 + number) % 3)
    random = np.random.default_rng(number)
    depth += random.normal(0, 0.001, size) * depth**2
    depth[random.random(size) < 0.02] = 0
    narrow: NDArray[np.float32] = depth.astype(np.float32)
    return narrow


class Rig(Robot):
    """Two cameras on threads of their own."""

    modes = (Mode.REALTIME,)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    control_hz = CONTROL_HZ

    def camera_configs(self) -> list[CameraConfig]:
        """Declare both."""
        return [
            CameraConfig("wrist", *SIZES["wrist"], has_depth=True, hz=CAMERA_HZ, max_age=60.0),
            CameraConfig("front", *SIZES["front"], hz=CAMERA_HZ, max_age=60.0),
        ]

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare three streams."""
        return [ProprioConfig(name, 7) for name in JOINTS]

    def open(self) -> None:
        """Prepare pictures that differ, and start the cameras."""
        self._images = {n: [picture(s, i) for i in range(SHOTS)] for n, s in SIZES.items()}
        self._depths = [depth_of(SIZES["wrist"], i) for i in range(SHOTS)]
        self._shots = dict.fromkeys(SIZES, 0)
        for name in SIZES:
            self.start_sensor(name, functools.partial(self._shoot, name), hz=CAMERA_HZ)

    def _shoot(self, name: str) -> None:
        self._shots[name] += 1
        number = self._shots[name] % SHOTS
        depth = self._depths[number] if name == "wrist" else None
        self.update_camera(name, image=self._images[name][number], depth=depth)

    def _feel(self) -> None:
        for name in JOINTS:
            self.update_proprio(name, np.zeros(7, np.float32))

    def reset(self) -> None:  # type: ignore[override]
        """Begin."""
        self._feel()

    def apply_action(self, action: Any) -> None:
        """Move by nothing."""
        self._feel()

    def hold(self) -> None:
        """Do nothing; it cannot move."""


def serve(pipe: Connection) -> None:
    """Serve the rig until told to stop."""
    with RobotServer(Rig(), port=0) as server:
        pipe.send(server.url)
        pipe.recv()


def carry(pipe: Connection, url: str, rate: float) -> None:
    """Stand between, until told to stop."""
    with FaultProxy(url) as proxy:
        proxy.set_rate(rate, Direction.TO_CLIENT)
        pipe.send(proxy.url)
        pipe.recv()


@contextlib.contextmanager
def beside(target: Any, *args: Any) -> Iterator[Any]:
    """Run something in a process of its own; yield what it says first."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    yield here.recv()
    here.send(None)
    process.join(10)


ASKED: dict[str, dict[str, dict[str, Any]]] = {
    "raw": {},
    "jpeg": {"wrist/image": {"codec": "jpeg"}, "front/image": {"codec": "jpeg"}},
    "jpeg, depth16": {
        "wrist/image": {"codec": "jpeg"},
        "front/image": {"codec": "jpeg"},
        "wrist/depth": {"codec": "depth16"},
    },
    "84x84": {"wrist/image": {"size": (84, 84)}, "front/image": {"size": (84, 84)}},
}


def measure(url: str, seconds: float, asked: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Step for a while; return what a step cost."""
    with RobotClient(url, connect_timeout=30.0) as client:
        names = [s.name for s in client.spec.streams if "trinsics" not in s.name]
        requests = {name: StreamRequest(**given) for name, given in asked.items()}
        client.subscribe(names, requests=requests)
        channel: Any = client._channel
        channel._link = link = Counting(channel._link)
        done = client.reset()
        tick = done.tick
        action = [np.zeros(7, np.float32)]
        link.received, count = 0, 0
        network, deserialize = [], []
        began_at, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began_at < seconds:
            count += 1
            answer = client.step(action, episode=done.episode, step=count, tick=tick, timeout=30.0)
            tick = answer.tick
            network.append(client.timing["network"])
            deserialize.append(client.timing["deserialize"])
        lasted = time.perf_counter() - began_at
        both = np.add(network, deserialize) * 1e3
        return {
            "hz": count / lasted,
            "kB": link.received / count / 1e3,
            "mean ms": float(both.mean()),
            "p99 ms": float(np.percentile(both, 99)),
            "network ms": float(np.mean(network)) * 1e3,
            "decoding ms": float(np.mean(deserialize)) * 1e3,
            "learner cpu ms": (time.process_time() - cpu) / count * 1e3,
        }


def by_themselves(rounds: int) -> dict[str, dict[str, float]]:
    """Return what encoding and decoding take, in ms, and how much smaller the result is."""
    arrays: dict[str, tuple[str, NDArray[Any]]] = {
        "640x480 jpeg": ("jpeg", picture(SIZES["wrist"], 0)),
        "1280x720 jpeg": ("jpeg", picture(SIZES["front"], 0)),
        "640x480 depth16": ("depth16", depth_of(SIZES["wrist"], 0)),
    }
    found = {}
    for name, (codec, array) in arrays.items():
        spec = ArraySpec(name, array.dtype, array.shape, codec)
        encoded, room = encode_array(codec, array, quality=85), np.empty_like(array)
        found[name] = {
            "encode ms": best(lambda c=codec, a=array: encode_array(c, a, quality=85), rounds),
            "decode ms": best(lambda s=spec, e=encoded, r=room: decode_array(s, e, r), rounds),
            "kB": encoded.nbytes / 1e3,
            "smaller": array.nbytes / encoded.nbytes,
        }
    return found


def best(call: Any, rounds: int) -> float:
    """Return the median of many calls, in ms of this thread: other programs do not count."""
    times = []
    for _ in range(10 * rounds):
        began_at = time.thread_time()
        call()
        times.append(time.thread_time() - began_at)
    return statistics.median(times) * 1e3


def computed(alone: dict[str, dict[str, float]], rate: float) -> dict[str, dict[str, float]]:
    """Return what new pictures cost a step on average, in ms, if nothing else took any time."""
    share = CAMERA_HZ / CONTROL_HZ
    raw = sum(row["kB"] * row["smaller"] for row in alone.values())
    encoded = sum(row["kB"] for row in alone.values())
    decoding = sum(row["decode ms"] for row in alone.values())
    return {
        name: {
            "kB a step": kilobytes * share,
            "on the way ms": kilobytes * 1e6 / rate * share,
            "decoding ms": decoded * share,
            "mean ms": (kilobytes * 1e6 / rate + decoded) * share,
        }
        for name, kilobytes, decoded in (("raw", raw, 0.0), ("jpeg, depth16", encoded, decoding))
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    keys = list(next(iter(rows.values())))
    print(f"{'':20}" + "".join(f"{key:>16}" for key in keys))
    for name, row in rows.items():
        print(f"{name:20}" + "".join(f"{row[key]:16.2f}" for key in keys))


def main() -> None:
    """Print tables, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=125e6, help="bytes per second of the proxy")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.platform(), "codecs": {}}
    results["codecs"] = by_themselves(options.rounds)
    show("by themselves", results["codecs"])
    results["computed"] = computed(results["codecs"], options.rate)
    show(f"of P2 at 100 Hz, computed for {options.rate * 8e-9:g} Gb/s", results["computed"])
    with beside(serve) as url, beside(carry, url, options.rate) as slow:
        for title, where in (("loopback", url), (f"{options.rate * 8e-9:g} Gb/s", slow)):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ASKED}
            for _ in range(options.rounds):
                for name, asked in ASKED.items():
                    rounds[name].append(measure(where, options.seconds, asked))
            results[title] = {
                name: {key: statistics.median(r[key] for r in found) for key in found[0]}
                for name, found in rounds.items()
            }
            show(f"a step of P2 at {CONTROL_HZ:g} Hz, {title}", results[title])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
