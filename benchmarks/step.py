"""What a step costs through the wire, beside raw TCP with the same bytes, in one run.

python benchmarks/step.py [--seconds 2] [--rounds 3]

Both ends of each measurement are two processes. The robot's step costs nothing, so what is
measured is ours. Raw TCP and the environment take turns in short bursts, so that a machine
whose speed drifts does not favour either; the ratio of the medians is the figure to quote.
BBR paces even on loopback, so both use reno where the kernel lets us.
"""

import argparse
import contextlib
import json
import multiprocessing
import platform
import socket
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium import spaces

import remote_env
from remote_env.spec import Mode
from remote_env_server import CameraConfig, ProprioConfig, Robot, RobotServer

# Height, width and whether it has depth, of each camera: the payloads of docs/performance.md.
Sizes = tuple[tuple[int, int, bool], ...]
PAYLOADS: dict[str, Sizes] = {
    "P0 proprio only": (),
    "P3 84x84 image": ((84, 84, False),),
    "P1 640x480 image": ((480, 640, False),),
    "P2 the rig": ((480, 640, True), (720, 1280, False)),
}
BURST = 50


class Rig(Robot):
    """Cameras and joints that cost nothing."""

    modes = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def __init__(self, sizes: Sizes) -> None:
        """Declare cameras of these heights and widths."""
        self.sizes = sizes
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the cameras."""
        return [
            CameraConfig(f"cam{i}", h, w, has_depth=depth)
            for i, (h, w, depth) in enumerate(self.sizes)
        ]

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare three streams."""
        return [ProprioConfig(name, 7) for name in ("joint_pos", "joint_vel", "joint_torque")]

    def reset(self) -> None:  # type: ignore[override]
        """Publish everything once."""
        for name in self.proprios:
            self.update_proprio(name, np.zeros(7, np.float32))
        for name, image in self.images.items():
            self.update_image(name, np.zeros_like(image))
        for name, depth in self.depths.items():
            self.update_depth(name, np.zeros_like(depth))

    def apply_action(self, action: Any) -> None:
        """Do nothing."""


def set_congestion(sock: socket.socket) -> None:
    """Use a congestion control that does not pace, where there is one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name in (b"reno", b"cubic"):
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


def serve(pipe: Connection, sizes: Sizes) -> None:
    """Serve the rig, and raw TCP: so many bytes for every request."""
    with RobotServer(Rig(sizes), port=0) as server, socket.create_server(("127.0.0.1", 0)) as raw:
        set_congestion(raw)
        pipe.send((server.url, raw.getsockname()[1]))
        peer, _ = raw.accept()
        set_congestion(peer)
        reply = bytes(int.from_bytes(peer.recv(8, socket.MSG_WAITALL), "little"))
        while peer.recv(REQUEST, socket.MSG_WAITALL):
            peer.sendall(reply)


REQUEST = 200  # about what a step's request has


@contextlib.contextmanager
def rig(sizes: Sizes) -> Iterator[tuple[str, int]]:
    """Start the server's process; yield the url and the raw port."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, sizes))
    process.start()
    yield here.recv()
    process.join(10)
    process.kill()


def measure(sizes: Sizes, seconds: float) -> dict[str, float]:
    """Return medians and 99th percentiles in microseconds, and their ratio."""
    with rig(sizes) as (url, port), socket.create_connection(("127.0.0.1", port)) as raw:
        env = remote_env.RemoteRobotEnv(url)
        env.reset()
        set_congestion(raw)
        size = sum(s.array.nbytes for s in env.spec_of_robot.streams) + 600
        raw.sendall(size.to_bytes(8, "little"))
        buffer = memoryview(bytearray(size))
        action = np.zeros(7, np.float32)
        ours, theirs = [], []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _ in range(BURST):
                started = time.perf_counter()
                raw.sendall(bytes(REQUEST))
                raw.recv_into(buffer, size, socket.MSG_WAITALL)
                theirs.append(time.perf_counter() - started)
            for _ in range(BURST):
                started = time.perf_counter()
                env.step(action)
                ours.append(time.perf_counter() - started)
        env.close()
        raw.shutdown(socket.SHUT_RDWR)
    return {
        "bytes": size,
        "raw p50": float(np.median(theirs)) * 1e6,
        "raw p99": float(np.percentile(theirs, 99)) * 1e6,
        "step p50": float(np.median(ours)) * 1e6,
        "step p99": float(np.percentile(ours, 99)) * 1e6,
        "ratio": float(np.median(ours) / np.median(theirs)),
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each payload and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = {}
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.platform()}")
    for name, sizes in PAYLOADS.items():
        rounds = [measure(sizes, options.seconds) for _ in range(options.rounds)]
        results[name] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        row = results[name]
        print(
            f"{name:18} {row['bytes']:>8.0f} B   raw {row['raw p50']:6.0f} us (p99 "
            f"{row['raw p99']:6.0f})   step {row['step p50']:6.0f} us (p99 {row['step p99']:6.0f})"
            f"   x raw {row['ratio']:5.2f}"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
