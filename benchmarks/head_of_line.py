"""How long a short message waits while pictures are on their way, in three designs and in ours.

python benchmarks/head_of_line.py [--seconds 5]

First with plain sockets, which is what the choice rests on (docs/decisions/0018): a robot sends
pictures all the time, and answers a short question every 10 ms. ``one``: both in one connection,
each message whole. ``chunked``: the same, but pictures leave in pieces of 64 KiB, before each of
which an answer may go, and the kernel holds 128 KiB of them at most (TCP_NOTSENT_LOWAT).
``two``: answers have a connection of their own.

Then with ours: a learner steps at 100 Hz with proprioception alone, while an observer looks at
eight cameras with depth (17 MB) at 30 Hz.

Where the kernel lets us, the plain sockets also run over a line of 1 Gb/s with one queue for
all, in a network namespace of their own.
"""

import argparse
import ctypes
import functools
import json
import multiprocessing
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium import spaces

import remote_env
from remote_env.spec import Mode
from remote_env_server import CameraConfig, ProprioConfig, Robot, RobotServer

PICTURE = 4_900_000  # bytes, the rig
PIECE = 64 << 10
ASK_EVERY = 0.01
NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
HEADER = struct.Struct("<BI")  # what follows, and how many bytes
PICTURES, ANSWER = 0, 1
DESIGNS = ("one", "chunked", "two")
CLONE_NEWNET = 0x40000000
LINES: dict[str, tuple[str, ...]] = {
    "loopback": (),
    "1 Gb/s": (
        "ip link set lo up",
        "tc qdisc add dev lo root tbf rate 1gbit burst 128kb latency 50ms",
    ),
}


def tune(sock: socket.socket, design: str) -> None:
    """Set the options that all three share, and what the pieces need."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    if design == "chunked":
        sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, 128 << 10)


def send_pictures(sock: socket.socket, ask: socket.socket, design: str, over: Any) -> None:
    """Be the robot: pictures all the time, and an answer for each question."""
    picture = memoryview(bytes(PICTURE))
    answer = HEADER.pack(ANSWER, 64) + bytes(64)
    size = PIECE if design == "chunked" else PICTURE
    if design == "two":
        threading.Thread(target=answer_questions, args=(ask, answer), daemon=True).start()
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not over.is_set():
        for start in range(0, PICTURE, size):
            piece = picture[start : start + size]
            if design == "chunked":
                poll.poll()  # until little is left in the kernel
            if design != "two" and select.select([ask], [], [], 0)[0] and ask.recv(1):
                sock.sendall(answer)
            sock.sendall(HEADER.pack(PICTURES, len(piece)))
            sock.sendall(piece)


def answer_questions(ask: socket.socket, answer: bytes) -> None:
    """Answer on the connection on which it was asked."""
    while ask.recv(1):
        ask.sendall(answer)


def be_robot(pipe: Connection, design: str) -> None:
    """Serve one measurement."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        stream, _ = server.accept()
        ask, _ = server.accept()
    tune(stream, design)
    tune(ask, design)
    over = threading.Event()
    sender = threading.Thread(target=send_pictures, args=(stream, ask, design, over), daemon=True)
    sender.start()
    pipe.recv()
    over.set()
    os._exit(0)


def read_stream(sock: socket.socket, on_answer: Callable[[], None], count: list[int]) -> None:
    """Take in what comes, and say when an answer is there."""
    buffer = bytearray(PICTURE)
    head = bytearray(HEADER.size)
    while sock.recv_into(head, 0, socket.MSG_WAITALL) == HEADER.size:
        kind, size = HEADER.unpack(head)
        if sock.recv_into(buffer, size, socket.MSG_WAITALL) != size:
            return
        if kind == ANSWER:
            on_answer()
        else:
            count[0] += size


def measure_sockets(design: str, seconds: float) -> dict[str, float]:
    """Return how long answers took, in milliseconds, and how many pictures came."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=be_robot, args=(there, design))
    process.start()
    port = here.recv()
    stream = socket.create_connection(("127.0.0.1", port))
    ask = socket.create_connection(("127.0.0.1", port))
    for sock in (stream, ask):
        tune(sock, design)
    answered, count = threading.Semaphore(0), [0]
    readers = [stream, ask] if design == "two" else [stream]
    for sock in readers:
        threading.Thread(
            target=read_stream, args=(sock, answered.release, count), daemon=True
        ).start()
    time.sleep(0.5)
    count[0], began = 0, time.monotonic()
    times = []
    while time.monotonic() - began < seconds:
        sent = time.perf_counter()
        ask.sendall(b"?")
        answered.acquire(timeout=10)
        times.append((time.perf_counter() - sent) * 1e3)
        time.sleep(ASK_EVERY)
    pictures = count[0] / PICTURE / (time.monotonic() - began)
    here.send(None)
    process.join()
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": max(times), "pictures_per_s": pictures}


def over_line(line: str, seconds: float) -> dict[str, Any] | None:
    """Measure all designs over a line, in a process of its own; None if there cannot be one."""
    here, there = multiprocessing.Pipe()

    def run() -> None:
        if LINES[line]:
            if ctypes.CDLL(None).unshare(CLONE_NEWNET):
                there.send(None)
                return
            for command in LINES[line]:
                if subprocess.run(command.split(), capture_output=True, check=False).returncode:
                    there.send(None)
                    return
        there.send({design: measure_sockets(design, seconds) for design in DESIGNS})

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    result: dict[str, Any] | None = here.recv()
    process.join()
    return result


# Ours


class Eight(Robot):
    """Eight cameras with depth at 30 Hz, and joints, in real time."""

    modes = (Mode.REALTIME,)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    control_hz = 100.0

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the cameras."""
        return [
            CameraConfig(f"cam{i}", 480, 640, has_depth=True, may_repeat=True) for i in range(8)
        ]

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare the joints."""
        return [ProprioConfig("joint_pos", 7, may_repeat=True)]

    def open(self) -> None:
        """Start the sensors."""
        image, depth = np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32)
        for i in range(8):
            publish = functools.partial(self.update_camera, f"cam{i}", image=image, depth=depth)
            self.start_sensor(f"cam{i}", publish, hz=30)
        self.start_sensor(
            "joints", lambda: self.update_proprio("joint_pos", np.zeros(7, np.float32)), hz=200
        )

    def reset(self) -> None:  # type: ignore[override]
        """Do nothing."""

    def apply_action(self, action: Any) -> None:
        """Do nothing."""

    def hold(self) -> None:
        """Do nothing."""


def serve(pipe: Connection) -> None:
    """Serve the eight cameras."""
    with RobotServer(Eight(), port=0) as server:
        pipe.send(server.url)
        pipe.recv()


def watch(url: str, pipe: Connection) -> None:
    """Look at all cameras as often as they come; say how many there were in the end."""
    count = 0
    with remote_env.observe(url, hz=30.0) as observer:
        pipe.send(None)
        for _ in observer:
            count += 1
            if pipe.poll():
                break
    pipe.send(count)


def measure_ours(seconds: float) -> dict[str, dict[str, float]]:
    """Return how a learner at 100 Hz fares alone, and beside the stream."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    robot = context.Process(target=serve, args=(there,))
    robot.start()
    url = here.recv()
    results = {}
    for case in ("alone", "beside the stream"):
        mine, its = context.Pipe()
        watcher = context.Process(target=watch, args=(url, its))
        if case != "alone":
            watcher.start()
            mine.recv()
        env = remote_env.RemoteRobotEnv(url, streams=["joint_pos"])
        env.reset()
        periods, before, began = [], time.perf_counter(), time.monotonic()
        while time.monotonic() - began < seconds:
            *_, info = env.step(np.zeros(7, np.float32))
            now = time.perf_counter()
            periods.append((now - before) * 1e3)
            before = now
        overruns = info["remote"]["overruns"]
        env.close()
        p50, p99 = np.percentile(periods, [50, 99])
        results[case] = {
            "actions_of_100": min(100.0, 100 * len(periods) / (seconds * Eight.control_hz)),
            "period_p50_ms": p50,
            "period_p99_ms": p99,
            "overruns": overruns,
        }
        if case != "alone":
            mine.send(None)
            results[case]["observations_per_s"] = mine.recv() / seconds
            watcher.join()
    here.send(None)
    robot.join()
    return results


def main() -> None:
    """Print tables, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    options = parser.parse_args()
    results: dict[str, Any] = {"sockets": {}}
    print(f"{'a short answer beside pictures':32} {'p50 ms':>8} {'p99 ms':>8} {'pictures/s':>11}")
    for line in LINES:
        if LINES[line] and not (sys.platform == "linux" and shutil.which("tc")):
            print(f"{line}: skipped, there is no tc here")
            continue
        measured = over_line(line, options.seconds)
        if measured is None:
            print(f"{line}: skipped, the kernel does not let us have a network of our own")
            continue
        results["sockets"][line] = measured
        for design, row in measured.items():
            print(
                f"{line + ', ' + design:32} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} "
                f"{row['pictures_per_s']:11.1f}",
                flush=True,
            )
    results["ours"] = measure_ours(options.seconds)
    for case, row in results["ours"].items():
        print(f"ours, {case}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
