"""What shared memory and Unix sockets save where learner and robot are on one machine.

python benchmarks/same_host.py [--seconds 2] [--rounds 3]

As in `step.py`: both ends are two processes, the robot's step costs nothing, and raw TCP with as
many bytes takes turns with all the ways in short bursts; quote the ratios of the medians. Each
way has a robot of its own, in one process. The transports are measured alone too: the frame of a
step, without anything that a step has to do.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

import remote_env
from benchmarks.machine import tune
from benchmarks.payloads import PAYLOADS, Rig, Sizes
from benchmarks.peers.raw_tcp import REQUEST
from remote_env.protocol.codec import Buffer
from remote_env.transport import FrameSink, Link, connect, websocket_listener
from remote_env_server import RobotServer

# Goal 26 of the performance goals is about eight VGA cameras with depth, 17.2 MB.
CAMERAS: dict[str, Sizes] = {
    **{name: sizes for name, sizes in PAYLOADS.items() if name in ("P1", "P2")},
    "8 VGA with depth": ((480, 640, True),) * 8,
}
# Whether a robot is served at a path, and whether memory is shared.
WAYS = {
    "TCP": (False, False),
    "shared memory": (False, True),
    "Unix socket": (True, False),
    "shared, Unix": (True, True),
}
BURST = 20


class Answering:
    """Answers every frame with cameras' pictures, for nothing."""

    def __init__(self, sink: FrameSink, sizes: Sizes) -> None:
        """Answer one peer."""
        self.sink = sink
        parts = [(h, w, c) for h, w, has_depth in sizes for c in (3, 4)[: 1 + has_depth]]
        self.pictures: list[Buffer] = [bytes(h * w * c) for h, w, c in parts]

    def on_frame(self, frame: Buffer) -> None:
        """Answer."""
        self.sink.send([bytes(600), *self.pictures])

    def on_close(self, reason: str) -> None:
        """Do nothing."""


def serve(pipe: Connection, sizes: Sizes) -> None:
    """Serve a rig for each way, frames alone, and raw TCP: so many bytes for every request."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls: dict[str, str] = {}
        for way, (is_unix, _) in WAYS.items():
            path = f"{folder}/{len(urls)}.sock" if is_unix else None
            server = RobotServer(
                Rig(sizes), port=0, unix_path=path, latch_file=False, mode="lockstep"
            )
            urls[way] = stack.enter_context(server).url
        size = sum(map(len, Answering(None, sizes).pictures))  # type: ignore[arg-type]
        frames = websocket_listener("127.0.0.1", 0, max_frame_size=1 << 20, max_reply_size=size)
        frames.start(lambda sink: Answering(sink, sizes))
        stack.callback(frames.stop)
        urls["frames"] = frames.url
        raw = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        tune(raw)
        pipe.send((urls, raw.getsockname()[1]))
        peer, _ = raw.accept()
        tune(peer)
        reply = bytes(int.from_bytes(peer.recv(8, socket.MSG_WAITALL), "little"))
        while peer.recv(REQUEST, socket.MSG_WAITALL):
            peer.sendall(reply)


@contextlib.contextmanager
def rigs(sizes: Sizes) -> Iterator[tuple[dict[str, str], int]]:
    """Start the server's process; yield the urls and the raw port."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, sizes))
    process.start()
    yield here.recv()
    process.join(10)
    process.kill()


@contextlib.contextmanager
def environment(url: str, *, shares: bool) -> Iterator[remote_env.RemoteRobotEnv]:
    """Connect, with shared memory or without."""
    os.environ["REMOTE_ENV_SHARED_MEMORY"] = "1" if shares else "0"
    with contextlib.closing(remote_env.RemoteRobotEnv(url)) as env:
        env.reset()
        carrier = env.statistics().carrier
        if carrier.startswith("shared memory") is not shares:
            print(f"  {url} is carried by {carrier}: was it not allowed?")
        yield env


@contextlib.contextmanager
def link(url: str, *, shares: bool) -> Iterator[Link]:
    """Connect to what only answers frames."""
    os.environ["REMOTE_ENV_SHARED_MEMORY"] = "1" if shares else "0"
    with contextlib.closing(connect(url, timeout=5.0, max_frame_size=1 << 28)) as link:
        yield link


def measure(sizes: Sizes, seconds: float) -> dict[str, dict[str, float]]:
    """Return the median and the 99th percentile of each way, in microseconds."""
    with contextlib.ExitStack() as stack:
        urls, port = stack.enter_context(rigs(sizes))
        raw = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        tune(raw)
        envs = {
            way: stack.enter_context(environment(urls[way], shares=shares))
            for way, (_, shares) in WAYS.items()
        }
        size = sum(s.array.nbytes for s in envs["TCP"].spec_of_robot.streams) + 600
        raw.sendall(size.to_bytes(8, "little"))
        buffer = memoryview(bytearray(size))
        action = np.zeros(7, np.float32)
        held: dict[str, object] = {}  # as a learner's loop holds the newest observation

        def raw_step() -> None:
            raw.sendall(bytes(REQUEST))
            raw.recv_into(buffer, size, socket.MSG_WAITALL)

        def step_of(way: str) -> Callable[[], None]:
            env = envs[way]

            def step() -> None:
                held[way] = env.step(action)[0]

            return step

        def frame_of(way: str, *, shares: bool) -> Callable[[], None]:
            frames = stack.enter_context(link(urls["frames"], shares=shares))

            def frame() -> None:
                frames.send([bytes(REQUEST)])
                held[f"frame, {way}"] = frames.receive(5.0)

            return frame

        calls = {"raw TCP": raw_step, **{way: step_of(way) for way in envs}}
        for way in ("TCP", "shared memory"):
            calls[f"frame, {way}"] = frame_of(way, shares=WAYS[way][1])
        took: dict[str, list[float]] = {name: [] for name in calls}
        deadline = time.monotonic() + seconds * len(calls)
        for number in itertools.count():
            if time.monotonic() > deadline:
                break
            for name, call in calls.items():
                for _ in range(BURST):
                    started = time.perf_counter()
                    call()
                    if number:  # the first turn warms up
                        took[name].append(time.perf_counter() - started)
        raw.shutdown(socket.SHUT_RDWR)
    medians = {name: float(np.median(some)) * 1e6 for name, some in took.items()}
    return {
        name: {
            "p50": medians[name],
            "p99": float(np.percentile(some, 99)) * 1e6,
            "x raw": medians[name] / medians["raw TCP"],
        }
        for name, some in took.items()
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each way and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = {}
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.platform()}")
    for payload, sizes in CAMERAS.items():
        rounds = [measure(sizes, options.seconds) for _ in range(options.rounds)]
        results[payload] = {
            way: {key: statistics.median(r[way][key] for r in rounds) for key in row}
            for way, row in rounds[0].items()
        }
        print(payload)
        for way, row in results[payload].items():
            print(
                f"  {way:22} {row['p50']:7.0f} us (p99 {row['p99']:7.0f})   x raw "
                f"{row['x raw']:5.2f}",
                flush=True,
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
