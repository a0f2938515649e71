"""Which streams are stale, and why. Pure: it is told the times.

Two clocks are looked at, because either may lie. The stamps are on the robot's clock, and say
how old a capture is: a driver that is given old data can only be found by them. The moments at
which captures came, and at which their content and their stamp last changed, are on this
machine's monotonic clock: a sensor with a broken clock can only be found by those. A stream is
fresh if all of these are within its ``max_age``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from remote_env.protocol.values import Value
from remote_env.spec import StreamSpec
from remote_env_server.buffers import Field

__all__ = ["FreshnessJudge", "Stale", "StaleCause"]

# Seconds by which a stamp may lie in the future: clocks of devices are estimated.
_TOLERANCE: Final = 0.05


class StaleCause(enum.StrEnum):
    """Why a stream is stale."""

    SILENT = "silent"  # nothing comes
    FAILED = "failed"  # nothing comes, and the thread that published it ended by an exception
    FROZEN = "frozen"  # what comes is always the same
    CLOCK = "clock"  # what comes has stamps that stand still, went back, or lie in the future
    LATE = "late"  # what comes was measured too long before


@dataclass(frozen=True, slots=True)
class Stale:
    """One stream that is stale; as text, a sentence for the learner.

    Attributes:
        name: Of the stream.
        age: For how long the cause has lasted, in seconds: since the last capture (infinity if
            there was none), since the content changed, since the stamp advanced, or since the
            capture was measured. Negative if its stamp lies in the future; NaN if that is NaN.
        max_age: How old it may be, in seconds.
        cause: Why.
    """

    name: str
    age: float
    max_age: float
    cause: StaleCause

    def to_info(self) -> dict[str, Value]:
        """Return the same as plain values that the wire can carry."""
        return {
            "cause": self.cause.value,
            "age": self.age,
            "max_age": self.max_age,
            "text": str(self),
        }

    def __str__(self) -> str:
        return f"{self.name!r} {self._what()}; {self._remedy()} (max_age {self.max_age:.3g} s)"

    def _what(self) -> str:
        if self.cause is StaleCause.FROZEN:
            return f"has delivered the same content for {self.age:.3g} s"
        if self.cause is StaleCause.LATE:
            return f"delivers what was measured {self.age:.3g} s before"
        if self.cause is StaleCause.CLOCK:
            if self.age < 0:
                return f"has stamps that lie {-self.age:.3g} s in the future"
            if math.isnan(self.age):
                return "has a stamp that is not a number"
            return f"has stamps that have not advanced for {self.age:.3g} s"
        return (
            f"has not delivered for {self.age:.3g} s"
            if math.isfinite(self.age)
            else "has never delivered"
        )

    def _remedy(self) -> str:
        match self.cause:
            case StaleCause.SILENT:
                return "look at its cable and its thread"
            case StaleCause.FAILED:
                return "its thread failed, the robot's log has the traceback"
            case StaleCause.FROZEN:
                return "restart its device, or declare may_repeat=True if this is no fault"
            case StaleCause.CLOCK:
                return "stamps must be on the clock of now()"
            case StaleCause.LATE:
                return "stamp it on the clock of now(), or declare a longer max_age"


class FreshnessJudge:
    """Says which of the streams in use are stale. Immutable; safe to use from any thread."""

    def __init__(self, streams: Iterable[StreamSpec]) -> None:
        """Learn how old each stream may be; ``RobotSpec.streams`` has them."""
        self._max_ages = {stream.name: stream.max_age for stream in streams}

    def judge(
        self,
        fields: Mapping[str, Field],
        names: Iterable[str],
        *,
        now: float,
        monotonic: float,
        max_ages: Mapping[str, float] | None = None,
        failed_threads: Collection[int] = (),
    ) -> tuple[Stale, ...]:
        """Return which streams are stale, in the order of ``names``.

        A stream that never delivered is silent, unless it never goes stale; what refuses to
        begin without it is the reset.

        Args:
            fields: The newest captures, by stream name.
            names: Of the streams that count.
            now: The robot's clock, ``Robot.now()``, in seconds; read after the captures.
            monotonic: This machine's ``time.monotonic()``; read after the captures.
            max_ages: In place of what the robot declares, by stream name, in seconds.
            failed_threads: Identifiers of sensor threads that ended by an exception.
        """
        limits = {**self._max_ages, **max_ages} if max_ages else self._max_ages
        stale = []
        for name in names:
            limit = limits[name]
            if limit == math.inf:
                continue
            field = fields[name]
            # Chained and affirmative, so that a NaN is not fresh.
            if (
                -_TOLERANCE <= now - field.stamp <= limit
                and monotonic - field.changed_at <= limit
                and monotonic - field.advanced_at <= limit
            ):
                continue
            age, cause = _explain(field, limit, now, monotonic)
            if cause is StaleCause.SILENT and field.thread in failed_threads:
                cause = StaleCause.FAILED
            stale.append(Stale(name, age, limit, cause))
        return tuple(stale)


def _explain(field: Field, limit: float, now: float, monotonic: float) -> tuple[float, StaleCause]:
    """Return the age and the cause of a capture that is not fresh."""
    if field.sequence == 0:
        return math.inf, StaleCause.SILENT
    waited = max(0.0, monotonic - field.arrived_at)
    if waited > limit:
        return waited, StaleCause.SILENT
    age = now - field.stamp
    if not age >= -_TOLERANCE:
        return age, StaleCause.CLOCK
    if monotonic - field.advanced_at > limit:
        return monotonic - field.advanced_at, StaleCause.CLOCK
    if monotonic - field.changed_at > limit:
        return monotonic - field.changed_at, StaleCause.FROZEN
    if age - waited <= limit:  # it was fresh when it came
        return age, StaleCause.SILENT
    went_back = field.stamp < field.newest_stamp
    return age, StaleCause.CLOCK if went_back else StaleCause.LATE
