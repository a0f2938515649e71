"""Whether the robots had an action in every control period, by their own clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

__all__ = ["PeriodCount"]

_WINDOW: Final = 100_000  # steps, of which the errors are kept


class PeriodCount:
    """Counts control periods, from observation to observation of an episode.

    A step that took two periods and a bit has missed one: the robot went on with its action
    before, or held. Nothing is counted across resets, and after steps that are no transitions.

    Args:
        control_hz: Of the robots.
        robots: How many there are.

    Attributes:
        periods: In which an action was executed.
        missed: In which none came.
        overruns: Of these, missed by the robots' own control loops.
        errors: How much longer a period was than it should be, in seconds; of the last ones.
    """

    def __init__(self, control_hz: float, robots: int) -> None:
        self.periods = 0
        self.missed = 0
        self.overruns = 0
        self.errors: deque[float] = deque(maxlen=_WINDOW)
        self._period = 1.0 / control_hz
        self._last: list[tuple[float, int] | None] = [None] * robots

    @property
    def missed_rate(self) -> float:
        """The share of all control periods in which no action came."""
        return self.missed / max(1, self.missed + self.periods)

    def note(self, infos: Sequence[Mapping[str, Any]], dones: Sequence[Any]) -> None:
        """Take in a step of all robots."""
        for index, info in enumerate(infos):
            remote = info.get("remote", {})
            if remote.get("invalid_transition") or not remote.get("valid", True):
                self._last[index] = None
                continue
            self._note(self._last[index], remote)
            now = float(remote["time"]), int(remote.get("overruns", 0))
            self._last[index] = None if dones[index] else now

    def begin_anew(self) -> None:
        """Note that new episodes have begun."""
        self._last = [None] * len(self._last)

    def _note(self, last: tuple[float, int] | None, remote: Mapping[str, Any]) -> None:
        self.periods += 1
        if last is None:
            return
        took = float(remote["time"]) - last[0]
        self.errors.append(took - self._period)
        self.missed += max(0, round(took / self._period) - 1)
        self.overruns += max(0, int(remote.get("overruns", 0)) - last[1])

    def percentiles(self, *wanted: float) -> list[float]:
        """Return percentiles of how far periods were off, in seconds; NaN if there were none."""
        if not self.errors:
            return [float("nan")] * len(wanted)
        return [float(value) for value in np.percentile(np.abs(self.errors), wanted)]
