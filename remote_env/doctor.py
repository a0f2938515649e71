"""What is the matter with a robot, or with the network to it: measured, and said in plain words.

``examine`` measures, for some seconds, without a lease: nothing moves. ``advise`` is pure: it
reads the figures and says what to do about them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from remote_env.client import RobotClient
from remote_env.clock import ClockEstimate
from remote_env.spec import Mode, RobotSpec
from remote_env.stats import Durations, DurationSummary

__all__ = ["Advice", "Diagnosis", "StreamHealth", "advise", "examine", "measure_bandwidth"]

_PING_EVERY: Final = 0.02  # seconds
_PADDING: Final = 256 << 10  # bytes of one answer that measures bandwidth
_BANDWIDTH_TIME: Final = 1.0  # seconds, without the round trips of small messages
_LONGEST_BANDWIDTH_TIME: Final = 2.0  # seconds, with them
_LEAST_SHARE: Final = 0.05  # of that time; less than this is the round trips' own variation
_SLOW: Final = 0.8  # of the declared rate
_JITTER: Final = 0.25  # of a control period, before it is worth a word
_LATE: Final = 1e-3  # seconds; a control thread on a quiet machine is late by microseconds


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """How one stream does.

    Attributes:
        name: Of the stream.
        hz: Captures per second, measured; None if it delivered less than twice.
        declared_hz: What the robot says; 0 if nothing.
        age: Seconds since its newest capture; None if there is none.
        max_age: From when on it is stale, in seconds.
        nbytes: Of one capture.
    """

    name: str
    hz: float | None
    declared_hz: float
    age: float | None
    max_age: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was measured.

    Attributes:
        url: Of the robot.
        spec: What the robot is.
        carrier: What carries observations; see ``RobotClient.carrier``.
        connect: Seconds to connect and be greeted.
        round_trip: Of small messages, in seconds.
        clock: How far the robot's monotonic clock is ahead of ours.
        bandwidth: From the robot to us, in bytes per second; NaN if the answers that should
            measure it took hardly longer than small ones.
        streams: In the robot's order.
        robot: The server's own statistics; see ``docs/protocol.md``.
    """

    url: str
    spec: RobotSpec
    carrier: str
    connect: float
    round_trip: DurationSummary
    clock: ClockEstimate | None
    bandwidth: float
    streams: tuple[StreamHealth, ...]
    robot: Mapping[str, Any]

    @property
    def needed(self) -> float:
        """Bytes per second of what a learner observes unless it chooses otherwise."""
        sizes = {stream.name: stream.nbytes for stream in self.streams}
        return sum(sizes[name] for name in self.spec.observed) * self.spec.control_hz


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to know.

    Attributes:
        is_problem: Whether something should be done about it.
        text: What, and what to do.
    """

    is_problem: bool
    text: str


def examine(
    client: RobotClient,
    *,
    seconds: float = 3.0,
    timeout: float = 5.0,
    tell: Callable[[float], None] = lambda fraction: None,
) -> Diagnosis:
    """Measure; the robot does not move.

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
    client.robot_statistics(timeout=timeout)  # rates are known when this is asked twice
    round_trips = Durations()
    share = seconds / (seconds + _BANDWIDTH_TIME)
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        round_trips.record(client.ping(timeout=timeout)[0])
        tell(share * spent / seconds)
        time.sleep(_PING_EVERY)
    bandwidth = measure_bandwidth(client, timeout, lambda done: tell(share + (1 - share) * done))
    robot = client.robot_statistics(timeout=timeout)
    tell(1.0)
    return Diagnosis(
        client.url,
        spec,
        client.carrier,
        connect,
        round_trips.summary(),
        client.statistics().clock,
        bandwidth,
        tuple(_streams_of(spec, robot)),
        robot,
    )


def measure_bandwidth(client: RobotClient, timeout: float, tell: Callable[[float], None]) -> float:
    """Return bytes per second from the robot to us, the time of a small round trip left out.

    NaN if what is left is too little to tell.

    Args:
        client: Connected.
        timeout: For each answer, in seconds.
        tell: Told how far this is, from 0 to 1.
    """
    small = min(client.ping(timeout=timeout)[0] for _ in range(5))
    took = spent = 0.0
    received = 0
    while took < _BANDWIDTH_TIME and spent < _LONGEST_BANDWIDTH_TIME:
        trip = client.probe(_PADDING, timeout=timeout)
        spent += trip
        took += max(trip - small, 0.0)
        received += _PADDING
        tell(min(1.0, max(took / _BANDWIDTH_TIME, spent / _LONGEST_BANDWIDTH_TIME)))
    return received / took if took >= _LEAST_SHARE * spent else math.nan


def _streams_of(spec: RobotSpec, robot: Mapping[str, Any]) -> Iterator[StreamHealth]:
    told = robot.get("streams", {})
    for stream in spec.streams:
        found = told.get(stream.name, {})
        yield StreamHealth(
            stream.name,
            found.get("hz"),
            stream.hz,
            found.get("age"),
            stream.max_age,
            stream.array.nbytes,
        )


def advise(found: Diagnosis) -> list[Advice]:
    """Say what the figures mean, the worst first; nothing if there is nothing to say."""
    advice = [*_about_robot(found), *_about_streams(found), *_about_network(found)]
    return sorted(advice, key=lambda one: not one.is_problem)


def _about_robot(found: Diagnosis) -> Iterator[Advice]:
    robot = found.robot
    stop = robot.get("emergency_stop")
    if stop is not None:
        reason = f": {stop['reason']}" if stop["reason"] else ""
        yield Advice(
            True,
            f"the emergency stop is pressed, by {stop['by']}{reason}. Look at the robot; then "
            f"release it with 'remote-env release {found.url}'",
        )
    for name, sensor in robot.get("sensors", {}).items():
        if sensor["failure"] is not None:
            yield Advice(
                True,
                f"the sensor thread {name!r} failed: {sensor['failure']}. The robot's log has the "
                "traceback; the next reset starts it again",
            )
        elif sensor["busy_for"] > 1.0:
            yield Advice(
                True,
                f"the sensor thread {name!r} has waited {sensor['busy_for']:.1f} s for its device; "
                "it hangs, or the device is off",
            )
    if found.spec.mode is not Mode.LOCKSTEP:
        yield from _about_time(found, robot)
    owner = robot["lease"]["owner"]
    if owner is not None:
        yield Advice(False, f"{owner} commands the robot now")


def _about_time(found: Diagnosis, robot: Mapping[str, Any]) -> Iterator[Advice]:
    lateness = robot["lateness"]
    if lateness["count"] and lateness["p99"] > _LATE:
        yield Advice(
            False,
            f"one control period in a hundred begins {_ms(lateness['p99'])} late or more: other "
            "programs take the robot's cores. Serve it with --realtime-priority 40, or end them",
        )
    worked = robot["worked"]
    period = found.spec.control_period
    if worked["count"] and worked["p99"] > 0.8 * period:
        yield Advice(
            True,
            f"the robot's own code takes {_ms(worked['p99'])} (p99) of a control period of "
            f"{_ms(period)}; make it quicker, or lower control_hz",
        )
    if robot["overruns"]:
        yield Advice(
            False, f"{robot['overruns']} control periods were missed since the server started"
        )
    if robot["expired"]:
        yield Advice(
            False,
            f"the robot held {robot['expired']} times because no action came within "
            f"{_ms(found.spec.action_lifetime)}",
        )


def _about_streams(found: Diagnosis) -> Iterator[Advice]:
    for stream in found.streams:
        # What nobody asks for now may rest: a camera that is rendered on request.
        is_due = not found.spec.stream(stream.name).on_request
        if is_due and stream.age is not None and stream.age > stream.max_age:
            yield Advice(
                True,
                f"{stream.name!r} is {stream.age:.3g} s old, and stale after {stream.max_age:.3g} "
                "s; look at its cable and its thread",
            )
        elif stream.hz is not None and stream.hz < _SLOW * stream.declared_hz:
            yield Advice(
                True,
                f"{stream.name!r} comes {stream.hz:.3g} times a second, and should "
                f"{stream.declared_hz:.3g} times; look at its exposure, at USB and at the CPU, or "
                "declare the hz that it has",
            )


def _about_network(found: Diagnosis) -> Iterator[Advice]:
    trip = found.round_trip
    period = found.spec.control_period if found.spec.control_hz else math.inf
    is_realtime = found.spec.mode is not Mode.LOCKSTEP
    if is_realtime and trip.p99 > period:
        yield Advice(
            True,
            f"the round trip (p99 {_ms(trip.p99)}) is longer than a control period "
            f"({_ms(period)}): not every period gets an action. Use a cable, a nearer learner, or "
            "a lower control_hz",
        )
    elif is_realtime and trip.jitter > _JITTER * period:
        yield Advice(
            True,
            f"the round trip varies by {_ms(trip.jitter)} (p50 {_ms(trip.p50)}, p99 "
            f"{_ms(trip.p99)}): Wi-Fi, a VPN or a busy machine. Use a cable; or serve with --mode "
            "delayed, where the delay is always one period",
        )
    if found.needed > 0.7 * found.bandwidth:
        yield Advice(
            True,
            f"all streams at {found.spec.control_hz:g} Hz need {_rate(found.needed)}, and the "
            f"network gives {_rate(found.bandwidth)}. Choose fewer with streams=[...], smaller "
            "pictures with image_size=..., or codec='auto'",
        )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.3g} MB/s"
