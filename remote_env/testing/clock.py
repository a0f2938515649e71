"""A clock that moves when it is told to, so that tests of time need no time."""

from __future__ import annotations

__all__ = ["HandClock"]


class HandClock:
    """Call it for the time; stands in for ``time.monotonic``.

    >>> clock = HandClock(10.0)
    >>> clock.advance(0.5)
    >>> clock()
    10.5
    """

    def __init__(self, now: float = 0.0) -> None:
        """Begin at a moment, in seconds."""
        self._now = now

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; it never goes back.

        Raises:
            ValueError: If ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back by {-seconds} s")
        self._now += seconds
