"""Sensor threads: a rate that is held, overruns that are counted, exceptions that are told."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from remote_env.errors import ConfigurationError

__all__ = ["SensorStatistics", "SensorThread", "failed_threads"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SensorStatistics:
    """What a sensor thread has done so far.

    Attributes:
        readings: How often the function returned.
        overruns: How often a period was missed because the function took too long.
        failure: The exception that ended the thread, or None.
        busy_for: How long the present call of the function lasts, in seconds; 0 between calls
            and when the thread has ended. One that waits for its hardware is busy up to a
            period; far more means that it hangs.
        thread: The identifier of the thread, as ``Field.thread`` has it; 0 before it began.
    """

    readings: int
    overruns: int
    failure: BaseException | None
    busy_for: float = 0.0
    thread: int = 0


class SensorThread:
    """Calls a function at a fixed rate, or as fast as it returns, until it is stopped.

    Aims at ``start + n * period``, so that the rate does not drift; after an overrun it
    aims at the next whole period and never bursts. An exception ends the thread, is
    logged with its traceback, and stands in ``statistics().failure``, from where the
    robot's server reports it to the learner.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], object],
        *,
        hz: float | None,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        """Prepare the thread; ``start`` starts it.

        Args:
            name: For logs and errors.
            read: Reads the hardware once and publishes what it found.
            hz: Calls per second; None for a function that itself waits for the hardware.
            at_end: As in ``Robot.start_sensor``.
        """
        if hz is not None and not hz > 0:
            raise ConfigurationError(f"sensor {name!r}: hz must be positive, not {hz}")
        for function, what in ((read, "its function"), (at_end, "its at_end")):
            if inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f"sensor {name!r}: {what} runs on a thread and must be def, not async def"
                )
        self.name = name
        self._read = read
        self._at_end = at_end
        self._period = 0.0 if hz is None else 1.0 / hz
        self._stopped = threading.Event()
        self._readings = 0
        self._overruns = 0
        self._failure: BaseException | None = None
        self._called_at: float | None = None
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"sensor {self.name}", daemon=True)

    def start(self) -> None:
        """Start calling."""
        self._thread.start()

    def restart_if_failed(self, timeout: float = 2.0) -> None:
        """Start anew after an exception; a reset does it, as a person would.

        Waits for ``at_end`` first; if that takes longer than ``timeout``, in seconds, the
        thread stays as it is: failed.
        """
        if self._failure is not None and not self._stopped.is_set():
            self._thread.join(timeout)
            if self._thread.is_alive():
                logger.warning(
                    "sensor %r is not started again: its at_end still blocks after %.1f s",
                    self.name,
                    timeout,
                )
                return
            logger.info("sensor %r is started again", self.name)
            self._failure = None
            self._thread = self._new_thread()
            self._thread.start()

    def ask_to_stop(self) -> None:
        """Ask the thread to end; what its function raises from now on does not matter."""
        self._stopped.set()

    def stop(self, timeout: float = 2.0) -> bool:
        """Ask the thread to end, and wait for it.

        Returns:
            Whether it ended in time. A function that blocks in a driver cannot be
            interrupted; its thread is a daemon and ends with the process.
        """
        self.ask_to_stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("sensor %r still blocks %.1f s after it was stopped", self.name, timeout)
            return False
        return True

    def statistics(self) -> SensorStatistics:
        """Return what has happened so far."""
        called_at = self._called_at  # once: the thread may return from its call meanwhile
        return SensorStatistics(
            self._readings,
            self._overruns,
            self._failure,
            busy_for=0.0 if called_at is None else time.monotonic() - called_at,
            thread=self._thread.ident or 0,
        )

    def _run(self) -> None:
        self._call_until_stopped()
        if self._at_end is not None:
            try:
                self._at_end()
            except BaseException:  # as below; there is nobody left to raise it to
                logger.exception("at_end of sensor %r failed", self.name)

    def _call_until_stopped(self) -> None:
        next_call = time.monotonic()
        while not self._stopped.is_set():
            self._called_at = time.monotonic()
            try:
                self._read()
            except BaseException as error:  # sys.exit() in an SDK is a failure too
                if self._stopped.is_set():
                    return
                self._failure = error
                logger.exception("sensor %r failed and is stopped", self.name)
                return
            finally:
                self._called_at = None
            self._readings += 1
            if self._period:
                next_call += self._period
                now = time.monotonic()
                if now > next_call:
                    missed = int((now - next_call) // self._period) + 1
                    self._overruns += missed
                    next_call += missed * self._period
                self._stopped.wait(next_call - now)


def failed_threads(sensors: Iterable[SensorThread]) -> frozenset[int]:
    """Return the identifiers of the threads that ended by an exception, as ``Field.thread``."""
    statistics = [sensor.statistics() for sensor in sensors]
    return frozenset(s.thread for s in statistics if s.failure is not None)
