"""What a robot does right now: whether its streams keep their rates, who commands, if it moves.

A ``RobotWatch`` looks at a robot, about once a second, without a lease and without moving it. It
observes the streams that it watches, because a simulator renders only what somebody subscribed
to, and takes their rates from these observations (``rates.py``); the robot's statistics know the
rest. Their own ``hz`` is over one second only, which cannot tell 2 % at 30 Hz.

In lockstep time stands still between steps, so streams have no rate there, and watching must not
slow the learner down by cameras that are rendered for us: nothing is observed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from remote_env.client import RobotClient
from remote_env.errors import (
    RemoteEnvError,
    RemoteProtocolError,
    TransportError,
    VersionMismatchError,
)
from remote_env.inbox import Observed
from remote_env.observer import observe
from remote_env.rates import (
    LEAST_SECONDS,
    TOLERANCE,
    Rate,
    RateWindow,
    StreamState,
    judge_stream,
)
from remote_env.spec import Mode, RobotSpec

__all__ = ["RobotState", "RobotWatch", "describe_activity"]

_OBSERVE_HZ: Final = 2.0
_PATIENCE: Final = 2.0  # seconds for an answer, so that a robot that is gone is soon told


def describe_activity(
    spec: RobotSpec, robot: Mapping[str, Any], *, quiet_for: float, has_stepped: bool
) -> str:
    """Say whether a robot moves, in words.

    Args:
        spec: What it is.
        robot: Its statistics.
        quiet_for: For how long no step was executed, in seconds.
        has_stepped: Whether one was executed since it is watched.
    """
    stop = robot.get("emergency_stop")
    if stop is not None:
        reason = f": {stop['reason']}" if stop["reason"] else ""
        obeyed = "" if stop["obeyed"] else ", and the robot's stop() has not returned yet"
        return f"STOPPED by {stop['by']}{reason}{obeyed}"
    is_realtime = spec.mode is not Mode.LOCKSTEP
    still = "holds" if is_realtime else "waits"
    if not robot.get("episode"):
        return f"{still}, no episode yet"
    if robot.get("end_reason") is not None:
        return f"{still}, the episode ended ({robot['end_reason']})"
    if quiet_for > spec.action_lifetime:
        return f"{still}, no action for {quiet_for:.0f} s"
    if not has_stepped:
        return "in an episode"
    return "moves" if is_realtime else "steps"


@dataclass(frozen=True, slots=True)
class RobotState:
    """What a robot does at one moment.

    Attributes:
        spec: What it is.
        activity: Whether it moves, in words.
        is_stopped: Whether its emergency stop is pressed.
        step_hz: Steps per second of the present episode, by our clock; None if not known.
        is_step_hz_off: Whether that is not the control rate; never in lockstep.
        owner: Who commands, or None.
        episode: Which one it is in; 0 before the first.
        step: Steps executed in it.
        overruns: Control periods missed since the server started.
        sensor_overruns: By sensor thread, periods missed; only of those that missed any.
        streams: Those that are watched, in the robot's order.
        seconds: For how long it is watched without a break.
        lost_for: Seconds since it went away, of which this is what was known last; None if
            it is there.
        lost_because: What happened, if it went away.
    """

    spec: RobotSpec
    activity: str
    is_stopped: bool
    step_hz: float | None
    is_step_hz_off: bool
    owner: str | None
    episode: int
    step: int
    overruns: int
    sensor_overruns: Mapping[str, int]
    streams: tuple[StreamState, ...]
    seconds: float
    lost_for: float | None = None
    lost_because: str = ""


class _Steps:
    """How fast and when steps were executed, by our own clock. Pure."""

    def __init__(self) -> None:
        self._episode = -1
        self._step = -1
        self._changed_at = 0.0
        self._rates = RateWindow()
        self.has_stepped = False

    def note(self, now: float, episode: int, step: int) -> None:
        if episode != self._episode:
            self._rates = RateWindow()
        if (episode, step) != (self._episode, self._step):
            self.has_stepped = self._episode >= 0 and step > 0
            self._changed_at = now
        self._episode, self._step = episode, step
        self._rates.note(now, {"step": step}, {"step": now})

    def quiet_for(self, now: float) -> float:
        return now - self._changed_at

    def rate(self, now: float) -> Rate | None:
        return self._rates.rate("step", now)


class _Visit:
    """One connection to a robot that stands, or two: what is observed has one of its own."""

    def __init__(
        self, url: str, *, streams: Sequence[str], token: str | None, timeout: float
    ) -> None:
        self._client = RobotClient(url, role="observe", token=token, connect_timeout=timeout)
        spec = self._client.connect()
        try:
            for name in streams:
                spec.stream(name)
        except RemoteEnvError:
            self._client.close()
            raise
        self._watched = [s for s in spec.streams if not streams or s.name in streams]
        self._timeout = min(timeout, _PATIENCE)
        self._began_at = time.monotonic()
        self._steps = _Steps()
        self._lock = threading.Lock()  # guards the next four
        self._rates = RateWindow()
        self._seen_time = 0.0  # of the newest observation, on the robot's clock
        self._seen_at = 0.0  # when it came, on ours
        self._failure: RemoteEnvError | None = None
        self._observer = observe(
            url,
            hz=_OBSERVE_HZ,
            streams=[stream.name for stream in self._watched],
            token=token,
            connect_timeout=timeout,
            reconnect=False,
        )
        self._thread = threading.Thread(target=self._follow, name="remote-env watch", daemon=True)
        if spec.mode is not Mode.LOCKSTEP:
            self._thread.start()

    def _follow(self) -> None:
        try:
            for seen in self._observer:
                self._note(seen, time.monotonic())
        except RemoteEnvError as error:
            with self._lock:
                self._failure = error

    def _note(self, seen: Observed, now: float) -> None:
        stamps = {name: seen.time - age for name, age in seen.ages.items()}
        with self._lock:
            self._rates.note(seen.time, seen.sequences, stamps)
            self._seen_time, self._seen_at = seen.time, now

    def look(self) -> RobotState:
        """Return what the robot does now.

        Raises:
            RemoteEnvError: If it is lost.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
        robot: dict[str, Any] = self._client.robot_statistics(timeout=self._timeout)
        now = time.monotonic()
        spec = self._client.spec
        episode, step = int(robot.get("episode", 0)), int(robot.get("steps", 0))
        self._steps.note(now, episode, step)
        quiet_for = self._steps.quiet_for(now)
        rate = self._steps.rate(now) if robot.get("end_reason") is None and episode else None
        if rate is not None and (rate.hz == 0.0 or quiet_for > spec.action_lifetime > 0):
            rate = None
        sensors = robot.get("sensors", {})
        return RobotState(
            spec,
            describe_activity(
                spec, robot, quiet_for=quiet_for, has_stepped=self._steps.has_stepped
            ),
            is_stopped=robot.get("emergency_stop") is not None,
            step_hz=None if rate is None else rate.hz,
            is_step_hz_off=rate is not None and _is_off(spec, rate),
            owner=robot.get("lease", {}).get("owner"),
            episode=episode,
            step=step,
            overruns=int(robot.get("overruns", 0)),
            sensor_overruns={n: s["overruns"] for n, s in sensors.items() if s.get("overruns")},
            streams=tuple(self._judge(robot.get("streams", {}), now)),
            seconds=now - self._began_at,
        )

    def _judge(self, told: Mapping[str, Any], now: float) -> list[StreamState]:
        seconds = now - self._began_at
        if self._client.spec.mode is Mode.LOCKSTEP:
            return [
                StreamState(s.name, None, s.hz, None, None, math.inf, _sequence(told, s.name))
                for s in self._watched
            ]
        states = []
        with self._lock:
            for stream in self._watched:
                # What the statistics do not know to be newer did not come since that look.
                is_silent = _sequence(told, stream.name) <= self._rates.newest(stream.name)
                until = self._seen_time + (now - self._seen_at if is_silent else 0.0)
                rate = self._rates.rate(stream.name, until)
                states.append(
                    judge_stream(stream, rate, told.get(stream.name, {}), seconds=seconds)
                )
        return states

    def close(self) -> None:
        """Let go of the robot."""
        self._observer.close()
        self._client.close()


def _sequence(told: Mapping[str, Any], name: str) -> int:
    return int(told.get(name, {}).get("sequence", 0))


def _is_off(spec: RobotSpec, rate: Rate) -> bool:
    """Whether steps come at another rate than the control rate, as far as counting can tell."""
    if spec.mode is Mode.LOCKSTEP or not spec.control_hz or rate.seconds < LEAST_SECONDS:
        return False
    return abs(rate.hz - spec.control_hz) > TOLERANCE * spec.control_hz + 1.0 / rate.seconds


class RobotWatch:
    """Looks at a robot again and again, also at one that goes away and comes back.

    For one thread. A context manager, which closes it.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: Sequence[str] = (),
        token: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Connect.

        Args:
            url: ``ws://host:port``, ``wss://host:port``, ``ws+unix:///path`` or ``inproc://name``.
            streams: Names of those to watch; empty for all, also those on request.
            token: What the server asks for, if it does.
            timeout: For each answer, in seconds.

        Raises:
            RemoteEnvError: If the robot cannot be reached, or has no such stream.
        """
        self._url = url
        self._streams = tuple(streams)
        self._token = token
        self._timeout = timeout
        self._lost_at = 0.0
        self._known: RobotState | None = None
        self._visit: _Visit | None = self._connect(timeout)

    def _connect(self, timeout: float) -> _Visit:
        return _Visit(self._url, streams=self._streams, token=self._token, timeout=timeout)

    def look(self) -> RobotState:
        """Return what the robot does now, or what is known of one that went away.

        Blocks up to four seconds. A robot that went away is looked for once in each call.

        Raises:
            RemoteEnvError: If it went away before it was ever seen, or came back as a robot
                that cannot be watched: without these streams, or with another token.
        """
        try:
            if self._visit is None:
                self._visit = self._connect(min(self._timeout, _PATIENCE))
            self._known = self._visit.look()
        except (TransportError, RemoteProtocolError) as error:
            if self._known is None or isinstance(error, VersionMismatchError):
                raise
            now = time.monotonic()
            if self._known.lost_for is None:
                self._lost_at = now
            self.close()
            self._known = replace(
                self._known, lost_for=now - self._lost_at, lost_because=str(error)
            )
        return self._known

    def close(self) -> None:
        """Let go of the robot. Idempotent."""
        visit, self._visit = self._visit, None
        if visit is not None:
            visit.close()

    def __enter__(self) -> RobotWatch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
