"""From ``emergency_stop(url)`` to the robot's ``stop``, while a large frame is under way.

The learner's line lets so little through that the 8 MB of a step's answer take many seconds.
The stop is pressed in the learner's process and from another one, each on a connection of its
own. The time includes connecting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

import numpy as np
from gymnasium import spaces

import remote_env
from benchmarks.reliability_rig import (
    Child,
    Journal,
    Line,
    Scale,
    ServerProcess,
    journal,
    milliseconds,
    quiet,
    wait_for,
)
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, Robot

SHAPE: Final = (1640, 1640)  # three bytes each: 8.07 MB
SLOW: Final = 1e6  # bytes per second
P99: Final = 0.020


class Wide(Robot):
    """One very large picture."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 20.0

    def __init__(self, path: str) -> None:
        """Declare the picture; the journal is at a path."""
        self.journal = Journal(path)
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the camera."""
        return [CameraConfig("cam", *SHAPE, may_repeat=True)]

    def reset(self) -> None:  # type: ignore[override]
        """Publish a picture."""
        self.update_image("cam", np.zeros((*SHAPE, 3), np.uint8))

    def apply_action(self, action: Any) -> None:
        """Write it down."""
        self.journal.note("apply")

    def hold(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Write it down."""
        self.journal.note("stop")


def press(pipe: Pipe, url: str) -> None:
    """Press the emergency stop whenever asked; tell when that began."""
    quiet()
    pipe.send(None)
    while pipe.recv():
        began = time.monotonic()
        remote_env.emergency_stop(url, "a benchmark")
        pipe.send(began)


def measure(press_it: Callable[[], float], server: ServerProcess, kept: Journal) -> float:
    """Return the time from pressing to the robot's ``stop``, in seconds."""
    with FaultProxy(server.url) as proxy:
        env = remote_env.RemoteRobotEnv(proxy.url, step_timeout=60.0)
        try:
            env.reset()
            proxy.set_rate(SLOW, Direction.TO_CLIENT)
            before = proxy.statistics().forwarded_to_client
            stepping = threading.Thread(target=env.step, args=(np.zeros(2, np.float32),))
            stepping.start()
            if not wait_for(
                lambda: proxy.statistics().forwarded_to_client > before + SLOW / 10, 10.0
            ):
                raise RuntimeError("no frame came")
            began = press_it()
            wait_for(lambda: kept.numbers("stop"), 5.0)
            under_way = proxy.statistics().forwarded_to_client - before
            if under_way > SHAPE[0] * SHAPE[1] * 3:
                raise RuntimeError("the frame was through before the stop")
            stopped_at = next(entry.at for entry in kept.read() if entry.what == "stop")
            proxy.heal()
            stepping.join()
            return stopped_at - began
        finally:
            env.close()
            remote_env.release_stop(server.url)


def stop(scale: Scale) -> Iterator[Line]:
    """Press it from here and from another process."""
    count = scale.pick(5, 30)
    taken: dict[str, list[float]] = {"the learner's process": [], "another process": []}
    with journal() as kept, ServerProcess(Wide, {"path": kept.path}, mode="realtime") as server:

        def press_here() -> float:
            began = time.monotonic()
            remote_env.emergency_stop(server.url, "a benchmark")
            return began

        with Child(press, server.url) as child:
            child.ask()
            for _ in range(count):
                for who, press_it in (
                    ("the learner's process", press_here),
                    ("another process", lambda: float(child.ask(True))),
                ):
                    with open(kept.path, "w"):
                        pass  # what was before does not count
                    taken[who].append(measure(press_it, server, kept))
    for who, seconds in taken.items():
        yield Line(
            f"emergency_stop() from {who} to the robot's stop(), 8 MB under way: p99 at most "
            f"{P99 * 1e3:.0f} ms",
            f"{milliseconds(seconds)} ({len(seconds)})",
            float(np.percentile(seconds, 99)) <= P99,
        )
