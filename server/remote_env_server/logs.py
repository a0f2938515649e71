"""Logs of a robot's server: who writes a line never waits for who reads it.

A terminal that was stopped with Ctrl-S, a pipe into a pager or a stalled ssh takes no bytes. A
thread that waited for it could neither hold the robot nor take an emergency stop. So while a
robot is served, a thread of its own hands our records to whatever handlers the program has.
What they say may come from a client, so it is made harmless before: see ``shown``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import traceback
from typing import Final

__all__ = ["PatientHandler", "relay_logs", "shown", "stop_relaying_logs", "wait_for_logs"]

logger = logging.getLogger(__name__)

# Lines that wait for a terminal; those that do not fit are counted and left out.
_MOST_LINES: Final = 10_000
# How long the end of the program waits for what was not written yet, in seconds.
_LAST_WORDS: Final = 1.0
# The same for the end of a server: its robot holds already.
_FLUSH_TIME: Final = 0.5
_LONGEST_LINE: Final = 2000

_OURS: Final = ("remote_env", "remote_env_server")
_OUR_THREADS: Final = "remote-env"


def shown(text: str) -> str:
    """Return one line of a log that says no more than it seems to say.

    A name or a reason that a client chose may hold line ends, which would forge further lines,
    or sequences that a terminal obeys: they are escaped. What is too long is cut.
    """
    if len(text) > _LONGEST_LINE:
        text = f"{text[:_LONGEST_LINE]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class _Relay(logging.Filter):
    """The first filter of our loggers: takes every record, and handles it on its own thread.

    A filter and not a handler: levels are judged before it, and all that the program has
    configured, on any logger and at any time, is asked afterwards and as always.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: queue.SimpleQueue[logging.LogRecord | threading.Event | None]
        self._records = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _left_out
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="remote-env log", daemon=True)
        self._loggers: list[logging.Logger] = []

    def begin(self) -> None:
        """Take the records of all our loggers that there are, and asyncio's of our threads."""
        self._thread.start()
        known = [
            name
            for name in list(logging.root.manager.loggerDict)
            if name.partition(".")[0] in _OURS
        ]
        self._loggers = [logging.getLogger(name) for name in {*known, *_OURS, "asyncio"}]
        for each in self._loggers:
            each.filters.insert(0, self)

    def end(self) -> None:
        """Leave the loggers as they were; waits a little for what was not written yet."""
        self.leave()
        self._records.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_FLUSH_TIME)

    def leave(self) -> None:
        """Take no further records."""
        for each in self._loggers:
            each.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take a record, unless it comes back to be handled; never blocks."""
        thread = threading.current_thread()
        if thread is self._thread:
            return True
        if record.name == "asyncio" and not thread.name.startswith(_OUR_THREADS):
            return True  # of an event loop of the program's own
        if self._records.qsize() >= _MOST_LINES:
            with self._lock:
                self._left_out += 1
            return False
        with contextlib.suppress(Exception):  # arguments that do not fit: the handler will say
            record.msg, record.args = shown(record.getMessage()), None
        self._records.put(record)
        return False

    def flush(self, timeout: float) -> None:
        """Wait until all that was said before is handled."""
        written = threading.Event()
        self._records.put(written)
        written.wait(timeout)

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            if isinstance(record, logging.LogRecord):
                _handle(record)
                if self._records.empty():
                    self._tell_left_out()
            else:
                self._tell_left_out()
                record.set()
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        if left_out:
            logger.warning("%d records were left out here: the log took them too slowly", left_out)


def _handle(record: logging.LogRecord) -> None:
    if record.exc_info and not record.exc_text:
        lines = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n").split("\n")
        record.exc_text = "\n".join(map(shown, lines))
    try:
        logging.getLogger(record.name).handle(record)
    except Exception:  # of a handler or a filter of the program's own
        _NOBODY.handleError(record)


_NOBODY: Final = logging.NullHandler()
_lock = threading.Lock()  # guards what follows
_relay: _Relay | None = None
_users = 0


def relay_logs() -> None:
    """Let a thread of its own handle the records of our loggers, from now on.

    Until ``stop_relaying_logs`` was called as often. Levels, handlers, filters and propagation
    stay the program's own. A handler that takes nothing delays records, and then loses them;
    how many is said later.
    """
    global _relay, _users
    with _lock:
        _users += 1
        if _relay is None:
            _relay = _Relay()
            _relay.begin()


def stop_relaying_logs() -> None:
    """End what ``relay_logs`` began; blocks up to half a second, for what was said last."""
    global _relay, _users
    with _lock:
        _users = max(_users - 1, 0)
        ended, _relay = (_relay, None) if _users == 0 else (None, _relay)
    if ended is not None:
        ended.end()
    else:
        wait_for_logs()


def wait_for_logs(timeout: float = _FLUSH_TIME) -> None:
    """Wait until all that was said before is handled, for some seconds at most."""
    relay = _relay
    if relay is not None:
        relay.flush(timeout)


def _forget() -> None:
    """In a process that was forked off: the thread is not here."""
    global _relay, _users, _lock
    _lock = threading.Lock()
    if _relay is not None:
        _relay.leave()
    _relay, _users = None, 0


os.register_at_fork(after_in_child=_forget)


class PatientHandler(logging.Handler):
    """Writes to a file descriptor, on a thread of its own.

    For ``remote-env serve``, whose handler it is: the loggers of a robot's author wait for
    nobody either, and nor does the end of the program.
    """

    def __init__(self, descriptor: int = 2) -> None:
        """Begin.

        Args:
            descriptor: Of a file, not of a Python file: those have locks, and a daemon thread
                that holds one takes the interpreter down at its end.
        """
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._left_out = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never blocks."""
        if self._thread is None:  # under the handler's lock
            self._thread = threading.Thread(target=self._run, name="remote-env log", daemon=True)
            self._thread.start()
        try:
            line = self.format(record)
        except Exception as error:  # an author's own, whose arguments do not fit
            line = f"a log record of {record.name!r} cannot be shown: {error!r}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Write what waits, if that can be done soon. Idempotent."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        if self._thread is not None:
            self._thread.join(timeout=_LAST_WORDS)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            left_out, self._left_out = self._left_out, 0
            if left_out:
                line += f"\n({left_out} further lines were left out)"
            data = (line + "\n").encode("utf-8", "replace")
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except OSError:  # the terminal is gone; the robot is not
                    break
