"""What the control loop has done so far, for ``remote-env doctor`` and the curious."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping

from remote_env.protocol.values import Value
from remote_env.stats import Durations
from remote_env_server.buffers import Field
from remote_env_server.rates import StreamRates
from remote_env_server.sensors import SensorThread

__all__ = ["LoopStatistics"]


class LoopStatistics:
    """Written by the control thread, read by any.

    Attributes:
        lateness: How long after its tick the work of a realtime step began.
        worked: How long the robot's own code took in a step.
        holds: How often the robot was told to hold.
        expired: How often because its last action was too old.
    """

    def __init__(self) -> None:
        self.lateness = Durations()
        self.worked = Durations()
        self.holds = 0
        self.expired = 0
        self._rates = StreamRates()
        self._lock = threading.Lock()  # guards the rates

    def note_fields(self, fields: Mapping[str, Field]) -> None:
        """Note the newest captures; their rates are known once that was done twice."""
        with self._lock:
            self._rates.note(fields)

    def to_values(
        self, fields: Mapping[str, Field], sensors: Iterable[SensorThread], *, now: float
    ) -> dict[str, Value]:
        """Return all of it in plain values: seconds, counts and hertz.

        Args:
            fields: The newest captures by stream name.
            sensors: The robot's threads.
            now: The robot's clock, in seconds.
        """
        with self._lock:
            self._rates.note(fields)
            rates = self._rates.rates(time.monotonic())
        return {
            "holds": self.holds,
            "expired": self.expired,
            "lateness": _summary(self.lateness),
            "worked": _summary(self.worked),
            "streams": {
                name: {
                    "sequence": field.sequence,
                    "age": now - field.stamp if math.isfinite(field.stamp) else None,
                    "hz": rates.get(name),
                }
                for name, field in fields.items()
            },
            "sensors": {sensor.name: _sensor(sensor) for sensor in sensors},
        }


def _summary(durations: Durations) -> dict[str, Value]:
    summary, histogram = durations.summary(), durations.histogram()
    if not summary.count:
        return {"count": 0}
    return {
        "count": summary.count,
        "p50": summary.p50,
        "p99": summary.p99,
        "max": summary.max,
        "mean": summary.mean,
        "bounds": list(histogram.bounds),
        "counts": list(histogram.counts),
    }


def _sensor(sensor: SensorThread) -> dict[str, Value]:
    statistics = sensor.statistics()
    failure = statistics.failure
    return {
        "readings": statistics.readings,
        "overruns": statistics.overruns,
        "busy_for": statistics.busy_for,
        "failure": None if failure is None else f"{type(failure).__name__}: {failure}"[:300],
    }
