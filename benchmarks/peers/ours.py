"""Ours, and variants of the robot behind it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

import remote_env
from benchmarks.payloads import Arrays, Rig, Sizes, observation_of
from benchmarks.peers import Step, Tell
from remote_env_server import RobotServer


class Sensing(Rig):
    """Beside the steps three threads publish at 500 Hz and two at 30 Hz."""

    def open(self) -> None:
        """Start them."""
        for name in self._proprios:
            self.start_sensor(name, self._publisher(name), hz=500.0)
        for number in range(2):
            self.start_sensor(f"slow{number}", self._publisher("joint_pos"), hz=30.0)

    def _publisher(self, name: str) -> Callable[[], None]:
        value = observation_of(())[name]
        return lambda: self.update_proprio(name, value)


class Busy(Rig):
    """Beside the steps one Python thread never waits."""

    def open(self) -> None:
        """Start it."""
        threading.Thread(target=self._work, name="busy", daemon=True).start()

    def _work(self) -> None:
        for _ in itertools.count():
            pass


ROBOTS: dict[str, type[Rig]] = {"": Rig, "sensing": Sensing, "busy": Busy}


def sizes_of(observation: Arrays) -> Sizes:
    """Return of which cameras an observation is."""
    sizes: list[tuple[int, int, bool]] = []
    while (image := observation.get(f"cam{len(sizes)}/image")) is not None:
        has_depth = f"cam{len(sizes)}/depth" in observation
        sizes.append((image.shape[0], image.shape[1], has_depth))
    return tuple(sizes)


def _share(is_allowed: bool) -> None:
    """Allow shared memory, or not: over TCP is how others are compared with."""
    os.environ["REMOTE_ENV_SHARED_MEMORY"] = str(int(is_allowed))


def serve(tell: Tell, observation: Arrays, beside: str = "", *, shares: bool = False) -> None:
    """Serve the rig."""
    _share(shares)
    with RobotServer(ROBOTS[beside](sizes_of(observation)), port=0, mode="lockstep") as server:
        tell(server.url)
        threading.Event().wait()


@contextlib.contextmanager
def connect(
    address: str, observation: Arrays, beside: str = "", *, shares: bool = False
) -> Iterator[Step]:
    """Step the environment."""
    _share(shares)
    env = remote_env.RemoteRobotEnv(address, streams=list(observation), connect_timeout=20.0)
    env.reset()

    def step(action: NDArray[Any]) -> Arrays:
        arrays: Arrays = env.step(action)[0]
        return arrays

    try:
        yield step
    finally:
        env.close()
