"""What a step with a live robot costs, and where its time goes; beside what the connection costs.

``measure_connection`` needs no lease and moves nothing. ``measure_steps`` resets the robot and
steps it, which moves it: in real time, only call it where somebody wants that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.client import RobotClient
from remote_env.doctor import measure_bandwidth
from remote_env.env import RemoteRobotEnv
from remote_env.protocol import OnStale
from remote_env.spaces import SpaceCodec
from remote_env.spec import RobotSpec
from remote_env.stats import Durations, DurationSummary
from remote_env.timing import ClientStatistics

__all__ = [
    "ConnectionCost",
    "Part",
    "StepCost",
    "measure_connection",
    "measure_steps",
    "resting_action",
]

OWNER: Final = "remote-env bench"
_LARGEST_PROBE: Final = 256 << 10  # bytes; what one answer may be asked to have
_LEAST: Final = 5  # round trips and steps, however slow they are
_PATIENCE: Final = 10.0  # seconds that resets may take, beside the steps


@dataclass(frozen=True, slots=True)
class ConnectionCost:
    """What messages cost on the way to a robot and back, without its code.

    Attributes:
        connect: Seconds to connect and be told what the robot is.
        ping: Round trips of small messages, one after the other, in seconds.
        probe: Round trips whose answers have ``probed`` bytes, in seconds.
        probed: As many as an observation, but at most 262144.
        bandwidth: From the robot to us, in bytes per second; NaN if it cannot be told.
        nbytes: Of the arrays of an observation.
    """

    connect: float
    ping: DurationSummary
    probe: DurationSummary
    probed: int
    bandwidth: float
    nbytes: int

    @property
    def floor(self) -> float:
        """How long a round trip with as many bytes takes, in seconds; NaN if it is not known."""
        if self.probed == self.nbytes:
            return self.probe.p50
        return self.ping.p50 + self.nbytes / self.bandwidth


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a step's time.

    Attributes:
        name: Of the part; see ``ClientStatistics``, and ``"server"``: the rest of the server's
            time, mostly to encode, and ``"learner"``: the rest of ours.
        mean: In seconds; the means of all parts are the mean of the step.
        p50: In seconds; NaN for the rests, which are known as means only.
        p99: The same.
    """

    name: str
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class StepCost:
    """What steps cost.

    Attributes:
        step: Each, from the call of ``env.step`` to its return, in seconds.
        per_second: How many there were in a second of stepping, resets left out.
        resets: How many were made.
        parts: Where the time went.
    """

    step: DurationSummary
    per_second: float
    resets: int
    parts: tuple[Part, ...]


def measure_connection(
    client: RobotClient,
    *,
    seconds: float = 2.0,
    timeout: float = 5.0,
    tell: Callable[[float], None] = lambda fraction: None,
) -> ConnectionCost:
    """Measure what messages cost; the robot does not move.

    Args:
        client: Not connected yet.
        seconds: For the round trips; one or two more for the bandwidth.
        timeout: For each answer, in seconds.
        tell: Told how far this is, from 0 to 1.

    Raises:
        RemoteEnvError: If the robot cannot be reached.
    """
    started = time.monotonic()
    spec = client.connect()
    connect = time.monotonic() - started
    nbytes = _size_of(spec)
    probed = min(nbytes, _LARGEST_PROBE)
    ping = _repeat(lambda: client.ping(timeout=timeout)[0], seconds / 2)
    tell(0.3)
    probe = _repeat(lambda: client.probe(probed, timeout=timeout), seconds / 2)
    tell(0.6)
    bandwidth = measure_bandwidth(client, timeout, lambda done: tell(0.6 + 0.4 * done))
    tell(1.0)
    return ConnectionCost(connect, ping, probe, probed, bandwidth, nbytes)


def measure_steps(
    url: str,
    *,
    token: str | None = None,
    seconds: float = 5.0,
    timeout: float = 5.0,
    tell: Callable[[float], None] = lambda fraction: None,
) -> StepCost:
    """Reset the robot and step it; it moves. The lease is returned at the end.

    Args:
        url: Of the robot.
        token: What the server asks for, if it does.
        seconds: Of stepping.
        timeout: For connecting and for each step, in seconds.
        tell: Told how far this is, from 0 to 1.

    Raises:
        LeaseError: If somebody else commands the robot; names the owner.
        ActionRefusedError: If the robot does not take the action that rests.
        RemoteEnvError: If the robot cannot be reached or reset.
    """
    env = RemoteRobotEnv(
        url,
        token=token,
        owner=OWNER,
        connect_timeout=timeout,
        step_timeout=timeout,
        on_stale=OnStale.FLAG,
        on_link_loss="raise",
    )
    try:
        return _step(env, seconds, tell)
    finally:
        env.close()


def _step(env: RemoteRobotEnv, seconds: float, tell: Callable[[float], None]) -> StepCost:
    action = resting_action(env.action_space)
    steps = Durations()
    spent, count, resets = 0.0, 0, 0
    deadline = time.monotonic() + seconds + _PATIENCE  # where resets take longer than steps
    is_over = True
    while count < _LEAST or (spent < seconds and time.monotonic() < deadline):
        if is_over:
            env.reset()
            resets += 1
        began = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        took = time.perf_counter() - began
        steps.record(took)
        spent += took
        count += 1
        is_over = terminated or truncated
        tell(min(1.0, spent / seconds))
    summary = steps.summary()
    return StepCost(summary, count / spent, resets, _parts_of(env.statistics(), summary))


def _parts_of(found: ClientStatistics, step: DurationSummary) -> tuple[Part, ...]:
    names = ("serialize", "network", "queued", "worked", "waited", "deserialize")
    parts = [Part(n, s.mean, s.p50, s.p99) for n in names for s in (getattr(found, n),)]
    trip = found.round_trip.mean
    nan = math.nan
    server = Part("server", max(0.0, trip - sum(part.mean for part in parts)), nan, nan)
    learner = Part("learner", max(0.0, step.mean - trip), nan, nan)
    return (*parts, server, learner)


def resting_action(space: spaces.Space[Any]) -> Any:
    """Return zero, or what is nearest to it within the bounds; the first choice of choices.

    That is no promise that a robot rests: to one that is told positions, zero is a position.
    """
    codec = SpaceCodec(space, root="action")
    return codec.unflatten([_rest(leaf, array.dtype) for leaf, array in _leaves(codec)])


def _leaves(codec: SpaceCodec) -> list[tuple[spaces.Space[Any], Any]]:
    return list(zip(codec.leaf_spaces, codec.layout, strict=True))


def _rest(space: spaces.Space[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, dtype), space.low, space.high)
    first = np.asarray(getattr(space, "start", 0), dtype)
    return np.broadcast_to(first, space.shape or ()).copy()


def _size_of(spec: RobotSpec) -> int:
    return sum(spec.stream(name).array.nbytes for name in spec.observed)


def _repeat(trip: Callable[[], float], seconds: float) -> DurationSummary:
    """Make round trips for so long, one after the other, and at least a few."""
    trips = Durations()
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until or count < _LEAST:
        trips.record(trip())
        count += 1
    return trips.summary()
