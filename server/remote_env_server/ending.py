"""How a learner is told of stale streams, and of an end that came behind its back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from remote_env.errors import RobotFaultError, SensorError
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import EndReason, OnStale
from remote_env_server.driver import Driver
from remote_env_server.episode import Episode
from remote_env_server.freshness import FreshnessJudge, Stale
from remote_env_server.requests import Breakdown, Captured, StepResult, Watch
from remote_env_server.robot import Outcome
from remote_env_server.sensors import SensorThread, failed_threads

__all__ = ["tell_end", "watch_over"]


def watch_over(
    captured: Captured, watch: Watch, judge: FreshnessJudge, sensors: Iterable[SensorThread]
) -> tuple[Stale, ...]:
    """Return which of the learner's streams are too old now, and say so in ``remote``.

    Args:
        captured: The observation that was just taken.
        watch: What the learner observes, and what it wants done.
        judge: Knows how old each stream may be.
        sensors: The robot's threads.

    Raises:
        SensorError: If that is what the learner asked for.
    """
    stale = judge.judge(
        captured.fields,
        watch.streams,
        now=captured.time,
        monotonic=time.monotonic(),
        max_ages=watch.max_ages,
        failed_threads=failed_threads(sensors),
    )
    if stale and watch.on_stale is OnStale.RAISE:
        raise SensorError("; ".join(map(str, stale)), code="robot.sensor.stale")
    if stale:
        captured.remote["stale"] = {s.name: s.to_info() for s in stale}
    return stale


def tell_end(episode: Episode, driver: Driver, latest: Captured | None, tick: int) -> StepResult:
    """Return what comes of a step that is not executed, because its episode is over.

    Args:
        episode: Which ended; notes that this was told.
        driver: Takes an observation of now, if it can.
        latest: The last observation, in case it cannot.
        tick: Of now.

    Raises:
        RobotFaultError: If it was the robot that failed.
    """
    episode.is_told = True
    reason = episode.end_reason
    assert reason is not None
    if reason is EndReason.ROBOT:
        raise RobotFaultError(f"the robot failed since the last step: {episode.cause}")
    captured = driver.observe_or(latest, tick)
    remote: dict[str, Value] = {**captured.remote, "invalid_transition": True}
    if episode.cause:
        remote["end_cause"] = episode.cause
    return StepResult(
        replace(captured, remote=remote),
        Outcome(),
        terminated=False,
        truncated=True,
        end_reason=reason,
        latency=0.0,
        durations=Breakdown(),
    )
