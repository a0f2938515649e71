"""A queue whose ``get(timeout)`` returns in time, however short the time is.

``queue.SimpleQueue.get(timeout=...)`` of Python 3.11 and 3.12 does not. What was put while nobody
waited leaves its inner lock open; the next ``get`` takes that, finds nothing, and waits again for
what is left of its time. If that has passed meanwhile, which microseconds do, the rest is
negative, and a lock takes that for "for ever". A control thread that waits 20 us for the end of
its period stood still in that once in some 20,000 periods of a busy machine, and with it
what makes a robot hold (``docs/decisions/0027-a-queue-that-wakes.md``).
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import deque
from typing import Generic, TypeVar

__all__ = ["TimedQueue"]

T = TypeVar("T")


class TimedQueue(Generic[T]):
    """First in, first out; as ``queue.SimpleQueue``. Safe from any thread."""

    def __init__(self) -> None:
        """Begin empty."""
        self._items: deque[T] = deque()
        # Open after something was put, until somebody waits for it.
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, item: T) -> None:
        """Add an item; never blocks."""
        self._items.append(item)
        self._ring()

    def _ring(self) -> None:
        if self._bell.locked():
            with contextlib.suppress(RuntimeError):  # another thread was quicker
                self._bell.release()

    def empty(self) -> bool:
        """Whether there is nothing."""
        return not self._items

    def get_nowait(self) -> T:
        """Return the next item.

        Raises:
            queue.Empty: If there is none.
        """
        try:
            return self._items.popleft()
        except IndexError:
            raise queue.Empty from None

    def get(self, timeout: float | None = None) -> T:
        """Wait for the next item, at most for some seconds.

        Raises:
            queue.Empty: If none came.
        """
        left = math.inf if timeout is None else timeout
        deadline = time.monotonic() + left
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                if left <= 0:
                    raise queue.Empty from None
            else:
                if self._items:
                    self._ring()  # for another one who waits
                return item
            self._bell.acquire(timeout=min(left, threading.TIMEOUT_MAX))
            left = deadline - time.monotonic()
