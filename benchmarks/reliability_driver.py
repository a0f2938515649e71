"""A driver that raises at every call: the server lives, and nothing is left behind.

The exceptions are of every kind that an author's code can raise, those that end a program and
those whose text fails included. Server and learner are in this process, so that its threads,
descriptors and tasks are all there is to count.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import numpy as np
from gymnasium import spaces

import remote_env
from benchmarks.reliability_rig import Line, Scale, say, usage, wait_for
from remote_env.spec import Mode
from remote_env_server import ProprioConfig, Robot, RobotServer
from remote_env_server.testing import Faults, inject


class UnspeakableError(Exception):
    """Whose text fails."""

    def __str__(self) -> str:
        raise ValueError("no text either")


ERRORS: Final[tuple[BaseException, ...]] = (
    RuntimeError("the bus is off"),
    OSError(5, "no answer"),
    ValueError("a bad number"),
    KeyError("joint_7"),
    StopIteration(),
    TimeoutError("the arm"),
    MemoryError(),
    SystemExit(1),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    remote_env.RobotFaultError("the author's own"),
    UnspeakableError(),
)
CALLS: Final = ("apply_action", "get_obs", "outcome", "reset")


class Quick(Robot):
    """A robot whose calls take no time."""

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 500.0

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare one stream."""
        return [ProprioConfig("pos", 2)]

    def reset(self) -> None:  # type: ignore[override]
        """Publish."""
        self.update_proprio("pos", np.zeros(2))

    def apply_action(self, action: Any) -> None:
        """Publish."""
        self.update_proprio("pos", action)

    def hold(self) -> None:
        """Do nothing."""


def tasks() -> int:
    """Return how many tasks there are on the event loops of this process."""
    gc.collect()
    return sum(isinstance(thing, asyncio.Task) and not thing.done() for thing in gc.get_objects())


def inventory() -> dict[str, int]:
    """Return what could leak."""
    return {
        "threads": threading.active_count(),
        "descriptors": usage().descriptors,
        "tasks": tasks(),
    }


def provoke(
    env: remote_env.RemoteRobotEnv, faults: Faults, call: str, error: BaseException
) -> bool:
    """Let one call fail; return whether the learner was told, with an error of ours."""
    action = np.zeros(2, np.float32)
    faults.throw(call, error, times=1)
    try:
        env.reset() if call == "reset" else env.step(action)
    except remote_env.RobotError:
        env.reset()
        return True
    return False


def in_lockstep(count: int) -> tuple[int, int, dict[str, int], dict[str, int]]:
    """Let so many calls fail; return provoked and told, and the inventory before and after."""
    robot = Quick()
    told = 0
    with inject(robot) as faults, RobotServer(robot, port=0, mode="lockstep") as server:
        env = remote_env.RemoteRobotEnv(server.url)
        env.reset()
        for call in CALLS:  # what is made once is made now
            provoke(env, faults, call, ERRORS[0])
        before = inventory()
        for number in range(count):
            error = ERRORS[number // len(CALLS) % len(ERRORS)]
            told += provoke(env, faults, CALLS[number % len(CALLS)], error)
            if number % 1000 == 999:
                say(f"{number + 1} raised, {inventory()}")
        env.step(np.zeros(2, np.float32))
        after = inventory()
        env.close()
    return count, told, before, after


def wait_for_calls(faults: Faults, count: int) -> None:
    """Wait until ``hold`` was called so often."""
    wait_for(lambda: len(faults.calls("hold")) >= count, 1.0, every=0.0005)


def in_realtime(count: int) -> tuple[int, int, dict[str, int], dict[str, int]]:
    """Let ``hold`` fail, at the end of episodes: it is tried again, and then the robot holds."""
    robot = Quick()
    told = 0
    with inject(robot) as faults, RobotServer(robot, port=0, mode="realtime") as server:
        env = remote_env.RemoteRobotEnv(server.url)
        env.reset()
        env.step(np.zeros(2, np.float32))
        before = inventory()
        for number in range(count):
            env.step(np.zeros(2, np.float32))
            calls = len(faults.calls("hold"))
            faults.throw("hold", ERRORS[number % len(ERRORS)], times=1)
            try:
                faults.throw("outcome", RuntimeError("and this"), times=1)
                env.step(np.zeros(2, np.float32))
            except remote_env.RobotError as error:
                told += "hold() FAILED TOO" in str(error)
            faults.heal("outcome")
            wait_for_calls(faults, calls + 2)
            env.reset()
        after = inventory()
        env.close()
    return 2 * count, 2 * told, before, after


def driver(scale: Scale) -> Iterator[Line]:
    """Let everything fail, ten thousand times."""
    count = scale.pick(3_000, 10_000)
    start = inventory()
    found = [in_lockstep(count * 9 // 10), in_realtime(count // 20)]
    wait_for(lambda: inventory()["threads"] <= start["threads"], 5.0, every=0.1)
    end = inventory()
    raised, told = sum(f[0] for f in found), sum(f[1] for f in found)
    yield Line(
        f"{raised} exceptions of a driver in {', '.join(CALLS)} and hold: the server lives and "
        "says so each time",
        f"told {told} of {raised}",
        told == raised,
    )
    leaks = [
        f"{what}: {before[what]} to {after[what]}"
        for before, after in [*(f[2:] for f in found), (start, end)]
        for what in before
        if after[what] > before[what]
    ]
    now = ", ".join(f"{number} {what}" for what, number in found[0][3].items())
    yield Line(
        "no task, thread or descriptor is left behind by that",
        "; ".join(leaks) or f"none ({now} while it is served, as before)",
        not leaks,
    )
