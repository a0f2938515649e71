"""The faults of one direction of a ``FaultProxy``; its thread alone may touch them."""

from __future__ import annotations

import bisect
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

__all__ = ["Allowance", "Chunk", "Cut", "Direction", "Ending", "Lane"]

# How long a rate may be exceeded to make up for a thread that was not scheduled, in seconds.
_BURST: Final = 0.02
# Seconds of the rate for which it is worth waking up: byte by byte, a fast one would keep a core
# busy, and everything else in the process waiting.
_WAKE: Final = 0.002
# What travels on a link with latency. Without latency a read waits for the write before it.
_IN_FLIGHT: Final = 16 << 20


class Direction(enum.Flag):
    """Which way bytes travel."""

    TO_SERVER = enum.auto()
    TO_CLIENT = enum.auto()
    BOTH = TO_SERVER | TO_CLIENT


class Ending(enum.StrEnum):
    """How a connection is cut."""

    RST = "rst"
    FIN = "fin"
    BLACKHOLE = "blackhole"


@dataclass(slots=True)
class Chunk:
    """Bytes on their way, or the end of the stream.

    Attributes:
        arrived: When they were read, in seconds.
        draw: Their share of the jitter, in [0, 1).
        data: What is not sent yet.
        is_end: Whether this is a FIN or an RST; it carries no bytes.
    """

    arrived: float
    draw: float
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut that is armed.

    Attributes:
        at: When so many bytes have been forwarded in all.
        how: What happens then.
    """

    at: int
    how: Ending


class Lane:
    """The faults of one direction, and what was counted in it, over all connections."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._jitters = np.random.default_rng([*seed, 0])
        self._damages = np.random.default_rng([*seed, 1])
        self.forwarded = 0
        self.dropped = 0
        self.heal()

    def heal(self) -> None:
        """End all faults."""
        self.latency = 0.0
        self.jitter = 0.0
        self.rate: float | None = None
        self.is_stalled = False
        self.is_blackholed = False
        self.is_duplicating = False
        self.cut: Cut | None = None
        self._flips: list[tuple[int, int]] = []
        self._flip_probability = 0.0
        self._flips_until = 0

    @property
    def queue_limit(self) -> int:
        """How many bytes may wait before reading stops."""
        return _IN_FLIGHT if self.latency or self.jitter else 1

    def chunk(self, now: float, data: memoryview) -> Chunk:
        """Return bytes that were read now."""
        return Chunk(now, self._draw(), data)

    def end(self, now: float) -> Chunk:
        """Return the end of a stream that was read now."""
        return Chunk(now, self._draw(), is_end=True)

    def due(self, chunk: Chunk) -> float:
        """Return when it may be sent. Faults that change, change it for what is on its way."""
        return chunk.arrived + self.latency + chunk.draw * self.jitter

    def _draw(self) -> float:
        return self._jitters.random() if self.jitter else 0.0

    def flip_at(self, count: int, bit: int) -> None:
        """Flip a bit of the byte that comes after so many others."""
        bisect.insort(self._flips, (self.forwarded + count, bit))

    def flip_randomly(self, probability: float) -> None:
        """Flip one bit of each byte with this probability, from now on."""
        self._flip_probability = probability
        self._flips_until = self.forwarded

    def damage(self, data: memoryview) -> memoryview:
        """Return the next bytes as they are to be sent; the same again if asked again.

        What is flipped hangs on the seed and on the number of bytes alone, not on how
        they are cut into pieces.
        """
        end = self.forwarded + len(data)
        while self._flip_probability and self._flips_until < end:
            at = self._flips_until + int(self._damages.geometric(self._flip_probability)) - 1
            bisect.insort(self._flips, (at, int(self._damages.integers(8))))
            self._flips_until = at + 1
        if not self._flips or self._flips[0][0] >= end:
            return data
        damaged = bytearray(data)
        for at, bit in self._flips[: bisect.bisect_left(self._flips, (end, 0))]:
            damaged[at - self.forwarded] ^= 1 << bit
        return memoryview(damaged)

    def count_forwarded(self, count: int) -> None:
        """Note that so many bytes were sent."""
        self.forwarded += count
        if self._flips:
            del self._flips[: bisect.bisect_left(self._flips, (self.forwarded, 0))]


class Allowance:
    """What the rate lets through on one connection."""

    def __init__(self) -> None:
        self._credit = 0.0
        self._at = -math.inf

    def take(self, rate: float, now: float) -> int:
        """Return how many bytes may be sent now."""
        self._credit = min(max(1.0, rate * _BURST), self._credit + (now - self._at) * rate)
        self._at = now
        return int(self._credit)

    def spend(self, count: int) -> None:
        """Note that so many were sent."""
        self._credit -= count

    def wait(self, rate: float) -> float:
        """Return how long it takes until enough may be sent to wake up for, in seconds."""
        return (max(1.0, rate * _WAKE) - self._credit) / rate
