"""What eight observers that do not read cost the learner: round trips and memory.

python benchmarks/observers.py [--observers 8] [--blocks 40] [--steps 50] [--healthy]

A robot in lockstep publishes a new picture for each step. The learner's round trips are measured
in blocks, alone and watched in turns, so that a machine whose speed drifts favours neither. For a
watched block the observers connect and see one observation; then their process is stopped
(SIGSTOP), and the block begins when nothing more is sent to them. With ``--healthy`` they go on
reading. At its end they are killed, and the steps until the server has noticed are measured too.
Three processes: the robot's server, the learner, the observers. The server's resident memory is
compared with what it was before they came.
"""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import threading
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np
from gymnasium import spaces

import remote_env
from remote_env.protocol import Connection, Hello, Observation, Observe, Role
from remote_env.protocol.codec import CLIENT_LIMITS
from remote_env.spec import Mode
from remote_env.transport import Link, connect
from remote_env_server import CameraConfig, Robot, RobotServer

SIZES = {"128x128": (128, 128), "640x480": (480, 640)}
WARM_UP = 10
STALLED_FOR = 0.3


class Cinema(Robot):
    """A new picture for every step, which costs nothing but its copy into the buffer."""

    modes = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def __init__(self, size: tuple[int, int]) -> None:
        """Declare a camera of this height and width."""
        self.size = size
        self.picture = np.zeros((*size, 3), np.uint8)
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the camera."""
        return [CameraConfig("cam", *self.size, may_repeat=True)]

    def reset(self) -> None:  # type: ignore[override]
        """Show a picture."""
        self.update_image("cam", self.picture)

    def apply_action(self, action: Any) -> None:
        """Show a picture."""
        self.update_image("cam", self.picture)


def resident() -> int:
    """Return this process's resident memory, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def serve(pipe: Pipe, size: tuple[int, int]) -> None:
    """Serve the robot; answer each question with memory and the hub's statistics."""
    with RobotServer(Cinema(size), port=0) as server:
        pipe.send(server.url)
        while pipe.recv():
            pipe.send((resident(), server.statistics()["observers"]))


class Watcher:
    """An observer, by hand."""

    def __init__(self, url: str, hz: float) -> None:
        """Connect, and see one observation."""
        self.link: Link = connect(url, timeout=5, max_frame_size=CLIENT_LIMITS.frame_size)
        self.connection = Connection(Role.CLIENT, now=time.monotonic())
        hello = Hello(
            1, role="observe", token=None, owner="", process="", client="", resume=None, asking=0
        )
        self.link.send(self.connection.send(hello))
        self.receive()
        self.link.send(self.connection.send(Observe(2, hz=hz)))
        while not isinstance(self.receive(), Observation):
            pass

    def receive(self) -> object:
        """Return the next message."""
        return self.connection.receive(self.link.receive(5), time.monotonic())

    def read_on(self) -> None:
        """Read until the end."""
        try:
            while True:
                self.receive()
        except remote_env.TransportError:
            pass


def watch(pipe: Pipe, url: str, count: int, hz: float) -> None:
    """Watch until killed."""
    watchers = [Watcher(url, hz) for _ in range(count)]
    for watcher in watchers:
        threading.Thread(target=watcher.read_on, daemon=True).start()
    pipe.send("here")
    pipe.recv()


def idle(pipe: Pipe) -> None:
    """Be there until killed: the end of any process costs the others some time."""
    pipe.send("here")
    pipe.recv()


def measure(env: remote_env.RemoteRobotEnv, steps: int) -> list[float]:
    """Return round trips, in seconds."""
    action = np.zeros(7, np.float32)
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        env.step(action)
        times.append(time.perf_counter() - started)
    return times


def ask(robot: Pipe) -> tuple[int, dict[str, int]]:
    """Return the server's resident memory, in bytes, and its statistics of observers."""
    robot.send("?")
    answer: tuple[int, dict[str, int]] = robot.recv()
    return answer


def settle(env: remote_env.RemoteRobotEnv, robot: Pipe) -> None:
    """Wait until nothing more is sent to the observers, because they have stalled."""
    sent, since = -1, time.monotonic()
    while time.monotonic() - since < STALLED_FOR:
        measure(env, WARM_UP)
        _, seen = ask(robot)
        if seen["sent"] != sent:
            sent, since = seen["sent"], time.monotonic()


def run(size: tuple[int, int], options: argparse.Namespace) -> dict[str, float]:
    """Measure one size of picture."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["remote_env", "remote_env_server"])
    robot, there = context.Pipe()
    server = context.Process(target=serve, args=(there, size))
    server.start()
    url = robot.recv()
    env = remote_env.RemoteRobotEnv(url)
    env.reset()
    measure(env, 200)
    alone, watched, leaving, other, growth = [], [], [], [], []
    for _ in range(options.blocks):
        measure(env, WARM_UP)
        alone += measure(env, options.steps)
        before, _ = ask(robot)
        pipe, there = context.Pipe()
        crowd = context.Process(target=watch, args=(there, url, options.observers, options.hz))
        crowd.start()
        while not pipe.poll():
            measure(env, 1)
        assert crowd.pid is not None
        if not options.healthy:
            os.kill(crowd.pid, signal.SIGSTOP)
            settle(env, robot)
        measure(env, WARM_UP)
        watched += measure(env, options.steps)
        after, seen = ask(robot)
        growth.append(after - before)
        crowd.kill()
        leaving += measure(env, options.steps)
        crowd.join()
        while ask(robot)[1]["observers"]:
            measure(env, WARM_UP)
        pipe, there = context.Pipe()
        stranger = context.Process(target=idle, args=(there,))
        stranger.start()
        while not pipe.poll():
            measure(env, 1)
        measure(env, WARM_UP)
        stranger.kill()
        other += measure(env, options.steps)
        stranger.join()
    env.close()
    robot.send(None)
    server.join(10)
    server.kill()
    percentiles = {
        f"{name} {p}": float(np.percentile(times, q)) * 1e6
        for name, times in (
            ("alone", alone),
            ("watched", watched),
            ("leaving", leaving),
            ("other", other),
        )
        for p, q in (("p50", 50), ("p99", 99))
    }
    return {
        **percentiles,
        "ratio p50": percentiles["watched p50"] / percentiles["alone p50"],
        "ratio p99": percentiles["watched p99"] / percentiles["alone p99"],
        "leaving ratio p50": percentiles["leaving p50"] / percentiles["other p50"],
        "leaving ratio p99": percentiles["leaving p99"] / percentiles["other p99"],
        "frame bytes": float(np.prod(size) * 3),
        "most growth per observer": max(growth) / options.observers,
        "median growth per observer": float(np.median(growth)) / options.observers,
        "sent": float(seen["sent"]),
        "dropped": float(seen["dropped"]),
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observers", type=int, default=8)
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--healthy", action="store_true", help="they read what they are sent")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.platform()}")
    results = {}
    for name, size in SIZES.items():
        row = results[name] = run(size, options)
        print(
            f"{name}: alone {row['alone p50']:.0f} us (p99 {row['alone p99']:.0f}), with "
            f"{options.observers} observers {row['watched p50']:.0f} us (p99 "
            f"{row['watched p99']:.0f}): x {row['ratio p50']:.2f} (p99 x {row['ratio p99']:.2f}); "
            f"when they are killed {row['leaving p50']:.0f} us (p99 {row['leaving p99']:.0f}), "
            f"beside any other process that is {row['other p50']:.0f} us (p99 "
            f"{row['other p99']:.0f})\n"
            f"  memory per observer {row['median growth per observer'] / 1024:.0f} KiB, at most "
            f"{row['most growth per observer'] / 1024:.0f}, of a frame of "
            f"{row['frame bytes'] / 1024:.0f}; sent {row['sent']:.0f}, dropped "
            f"{row['dropped']:.0f}"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
