"""Calls that raise, hang or are slow when they are told to."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

__all__ = ["LONGEST_LOG", "CallFaults"]

# What is remembered of each name.
LONGEST_LOG: Final = 100_000
_LOOK_AGAIN: Final = 0.002


class CallFaults:
    """What is wrong with the calls of one name. Safe to use from any thread.

    Attributes:
        moments: When it was called, in seconds of ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.moments: deque[float] = deque(maxlen=LONGEST_LOG)
        self._lock = threading.Lock()  # guards all below
        self._error: BaseException | type[BaseException] | None = None
        self._left: int | None = None
        self._delay = 0.0
        self._released = threading.Event()  # ends the delays that have begun

    def throw(self, error: BaseException | type[BaseException], times: int | None) -> None:
        """Raise in the next calls, or in all if ``times`` is None."""
        with self._lock:
            self._error, self._left = error, times

    def delay(self, seconds: float) -> None:
        """Delay all calls that come; let go those that are delayed."""
        with self._lock:
            self._released.set()
            self._released = threading.Event()
            self._delay = seconds

    def heal(self) -> None:
        """End all of it."""
        with self._lock:
            self._error = None
        self.delay(0.0)

    def wrap(
        self, function: Callable[..., Any], before: Callable[..., None] | None = None
    ) -> Callable[..., Any]:
        """Return the function with these faults; a ``def`` for a ``def``, async for async.

        Args:
            function: Any; its signature and names are kept.
            before: Called first, with the same arguments.
        """

        def begin(*args: Any, **kwargs: Any) -> tuple[float, threading.Event]:
            self.moments.append(time.monotonic())
            if before is not None:
                before(*args, **kwargs)
            with self._lock:
                return self._delay, self._released

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def faulty_async(*args: Any, **kwargs: Any) -> Any:
                delay, released = begin(*args, **kwargs)
                until = time.monotonic() + delay
                while not released.is_set() and time.monotonic() < until:
                    await asyncio.sleep(_LOOK_AGAIN)
                self._raise_if_told()
                return await function(*args, **kwargs)

            return faulty_async

        @functools.wraps(function)
        def faulty(*args: Any, **kwargs: Any) -> Any:
            delay, released = begin(*args, **kwargs)
            if delay:
                released.wait(delay)
            self._raise_if_told()
            return function(*args, **kwargs)

        return faulty

    def _raise_if_told(self) -> None:
        with self._lock:
            error = self._error
            if error is None or self._left == 0:
                return
            if self._left is not None:
                self._left -= 1
        raise error() if isinstance(error, type) else error.with_traceback(None)
