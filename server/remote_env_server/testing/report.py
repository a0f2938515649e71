"""What came of the checks of a robot."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from remote_env.errors import RemoteEnvError

__all__ = ["ConformanceError", "Report", "Result", "Status"]


class Status(enum.StrEnum):
    """What came of one check."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check.

    Attributes:
        name: Of the check, a sentence that holds for a good robot.
        status: Whether it holds.
        what: What happened, with the values.
        advice: What to do about it; empty if there is nothing to do.
        seconds: How long the check took.
    """

    name: str
    status: Status
    what: str = ""
    advice: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        told = "; ".join(text for text in (self.what, self.advice) if text)
        return f"{self.name}: {self.status.value}{f': {told}' if told else ''}"


class ConformanceError(RemoteEnvError, AssertionError):
    """A robot does not do what a robot must; the message lists what failed."""

    code = "conformance"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks of one robot.

    Attributes:
        target: Which robot: its name, its url or the name of its factory.
        results: In the order of the checks.
    """

    target: str
    results: tuple[Result, ...]

    @property
    def is_ok(self) -> bool:
        """Whether no check failed; warnings are for people to judge."""
        return not self.of(Status.FAILED)

    def of(self, status: Status) -> tuple[Result, ...]:
        """Return the results of one status."""
        return tuple(result for result in self.results if result.status is status)

    def raise_if_failed(self) -> None:
        """Raise if a check failed.

        Raises:
            ConformanceError: Listing every check that failed, and what to do.
        """
        failed = self.of(Status.FAILED)
        if failed:
            lines = "".join(f"\n  {result}" for result in failed)
            raise ConformanceError(
                f"{self.target} failed {len(failed)} of {len(self.results)} checks:{lines}"
            )
