"""A flood of bad actions: none that is invalid reaches a driver, and none that is valid is lost.

NaN, infinities, subnormals, doubles that overflow a float32, wrong endianness, other dtypes,
memory that is not contiguous, values out of bounds. Actions are made and judged in bulk by
numpy, and go one by one through the guard into a driver that remembers them; then some of them
over a real WebSocket.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import remote_env
from benchmarks.guard import time_burst
from benchmarks.reliability_rig import Line, Scale, say
from remote_env.spec import Mode, OutOfBounds
from remote_env_server import ProprioConfig, Robot, RobotServer
from remote_env_server.driver import Driver
from remote_env_server.safety import ActionGuard

SIZE: Final = 7
CHUNK: Final = 100
DTYPES: Final = ("<f4", ">f4", "<f8", ">f8", "<f2", "<i4", ">i8", "|u1", "|b1")
WILD: Final = (np.nan, np.inf, -np.inf, 5e-324, 1e-45, -1e-40, 1e39, -1e300, 3.5e38, -0.0, 1.0001)
CHECK_P50: Final = 8e-6
BURSTS: Final = 200

SPACE: Final = spaces.Box(
    np.linspace(-1, -0.1, SIZE, dtype=np.float32), np.linspace(0.1, 2, SIZE, dtype=np.float32)
)


class Keeper(Robot):
    """Keeps what would have moved it."""

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP,)
    action_space = SPACE

    def __init__(self) -> None:
        """Begin with nothing."""
        self.kept: list[NDArray[Any]] = []
        super().__init__()

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare one stream."""
        return [ProprioConfig("count", 1, np.float64)]

    def reset(self) -> None:  # type: ignore[override]
        """Publish something."""
        self.update_proprio("count", np.zeros(1))

    def apply_action(self, action: Any) -> None:
        """Keep a copy, with its own dtype."""
        self.kept.append(np.array(action))


def chunk(rng: np.random.Generator) -> NDArray[Any]:
    """Return actions of one dtype and one layout in memory: some good, most not."""
    low, high = SPACE.low.astype(float), SPACE.high.astype(float)
    values = rng.uniform(low, high, (CHUNK, SIZE))
    wild = np.where(rng.random(values.shape) < 0.5, rng.choice(WILD, values.shape), values * 1.5)
    is_wild = rng.random((CHUNK, 1)) < 0.6
    values = np.where(is_wild & (rng.random(values.shape) < 0.3), wild, values)
    # Subnormals of float32 are finite and within the bounds.
    values[rng.random(values.shape) < 0.02] = 1e-42
    with np.errstate(all="ignore"):
        array: NDArray[Any] = values.astype(rng.choice(DTYPES))
    match rng.integers(3):
        case 0:
            return array
        case 1:
            return np.asfortranarray(array)
        case _:
            return np.repeat(array, 2, axis=1)[:, ::2]


def is_valid(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which actions may go to the robot, by rules of our own."""
    with np.errstate(all="ignore"):
        exact = array.astype(np.float32)
    inside = (exact >= SPACE.low) & (exact <= SPACE.high)
    return np.asarray((np.isfinite(exact) & inside).all(axis=1))


def count_invalid(kept: list[NDArray[Any]]) -> int:
    """Return how many of the actions that reached the driver should not have."""
    wrong = sum(a.dtype != np.float32 or a.shape != (SIZE,) for a in kept)
    return int(wrong + np.sum(~is_valid(np.array(kept, np.float64))))


def directly(count: int, seed: int) -> tuple[int, int, int, int]:
    """Send so many through the guard; return sent, executed, invalid and wrongly refused."""
    rng = np.random.default_rng(seed)
    guard, robot = ActionGuard(SPACE, OutOfBounds.REFUSE), Keeper()
    driver = Driver(robot)
    executed = invalid = refused = 0
    for _ in range(count // CHUNK):
        array = chunk(rng)
        for action, good in zip(array, is_valid(array), strict=True):
            try:
                guarded = guard.check([action])
            except remote_env.ActionRefusedError:
                refused += bool(good)
                continue
            driver.apply_action(guarded.value, simulated_time=0.0)
        executed += len(robot.kept)
        invalid += count_invalid(robot.kept) if robot.kept else 0
        robot.kept.clear()
    driver.close()
    return count // CHUNK * CHUNK, executed, invalid, refused


def over_websocket(count: int, seed: int) -> tuple[int, int, int, int]:
    """Send so many over a real connection, without the checks of the learner's side."""
    rng = np.random.default_rng(seed)
    robot = Keeper()
    sent = refused = step = 0
    with RobotServer(robot, port=0) as server, remote_env.RobotClient(server.url) as client:
        episode = client.reset().episode
        for _ in range(count // CHUNK):
            array = chunk(rng)
            for action, good in zip(array, is_valid(array), strict=True):
                plain = np.ascontiguousarray(action, action.dtype.newbyteorder("<"))
                sent += 1
                try:
                    client.step(
                        [plain],
                        episode=episode,
                        step=step + 1,
                        tick=step,
                        dtypes=[plain.dtype.str],
                        timeout=5.0,
                    )
                    step += 1
                except remote_env.ActionRefusedError:
                    refused += bool(good)
        executed, invalid = len(robot.kept), count_invalid(robot.kept)
        assert executed == step
    return sent, executed, invalid, refused


def actions(scale: Scale) -> Iterator[Line]:
    """Send them both ways, and time the check."""
    began = time.monotonic()
    found = {
        "through guard and driver": directly(scale.pick(30_000, 1_000_000), scale.seed),
        "over a WebSocket": over_websocket(scale.pick(2_000, 10_000), scale.seed + 1),
    }
    say(f"sent in {time.monotonic() - began:.0f} s")
    for way, (sent, executed, invalid, refused) in found.items():
        yield Line(
            f"no invalid action reaches a driver, {way}",
            f"{invalid} of {sent} ({executed} executed, {refused} valid ones refused)",
            invalid == 0 and refused == 0 and 0 < executed < sent,
        )
    for size in (7, 32):
        guard = ActionGuard(spaces.Box(-1.0, 1.0, (size,), np.float32), OutOfBounds.REFUSE)
        action = np.linspace(-0.9, 0.9, size, dtype=np.float32)
        check = partial(guard.check, [action])
        bursts = [time_burst(check) for _ in range(BURSTS)]
        p50, p99 = np.percentile(bursts, [50, 99])
        yield Line(
            f"the check of {size} float32 takes at most {CHECK_P50 * 1e6:.0f} us, p50",
            f"p50 {p50:.1f}, p99 {p99:.1f} us",
            bool(p50 <= CHECK_P50 * 1e6),
        )
