"""Remembers the emergency stop, in a file if there is one: a restart does not release it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Final

from remote_env.errors import ConfigurationError
from remote_env.timed_queue import TimedQueue
from remote_env_server.core import PressedStop

__all__ = ["Latch", "default_latch_file", "name_of"]

logger = logging.getLogger(__name__)

_END = object()
_WRITE_AGAIN: Final = 1.0  # seconds, after a disk was full


def default_latch_file(port: int | Path, name: str) -> Path | None:
    """Return where to remember the stop of a robot; nowhere for a port that is never the same.

    Args:
        port: At which it is served; 0 is any. Or the path of its Unix socket.
        name: As ``remote-env serve`` takes it: ``module:Class``, or ``file.py:Class``.
    """
    if port == 0:
        return None
    where = str(port if isinstance(port, int) else port.resolve())
    file, colon, class_name = name.rpartition(":")
    if file.endswith(".py"):  # one file has one name, however it was written
        name = f"{Path(file).resolve()}{colon}{class_name}"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    where, plain = ("".join(c if c.isalnum() else "-" for c in t)[-100:] for t in (where, name))
    return state / "remote-env" / f"emergency-stop-{where}-{plain}.json"


def name_of(robot: object) -> str:
    """Return a name for ``default_latch_file``: the same from a script and from a command."""
    kind = type(robot)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    is_script = kind.__module__ == "__main__" or "." not in kind.__module__
    return f"{file if file and is_script else kind.__module__}:{kind.__qualname__}"


class Latch:
    """The emergency stop across restarts. Writing happens on a thread of its own.

    Attributes:
        pressed: What the file said when this began.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file.

        Args:
            path: Of a file that exists while the stop is pressed; None remembers nothing.

        Raises:
            ConfigurationError: If the file cannot be read, or could not be written: a stop
                that might be forgotten is no stop.
        """
        self._path = path
        self.pressed = _read(path) if path is not None else None
        if path is not None and self.pressed is None:
            _try_to_write(path)
        # What to remember; None is nothing, and _END the end of the thread.
        self._changes: TimedQueue[PressedStop | None | object] = TimedQueue()
        self._thread: threading.Thread | None = None
        self._has_failed = False
        if path is not None:
            self._thread = threading.Thread(
                target=self._run, name="remote-env emergency stop latch", daemon=True
            )
            self._thread.start()

    def press(self, pressed: PressedStop) -> None:
        """Remember; never blocks."""
        self._note(pressed)

    def release(self) -> None:
        """Forget; never blocks."""
        self._note(None)

    def close(self) -> None:
        """End the thread, when everything is written. Idempotent."""
        self._note(_END)
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _note(self, change: PressedStop | None | object) -> None:
        if self._thread is not None:  # else nobody would ever take it
            self._changes.put(change)

    def _run(self) -> None:
        pressed = self._changes.get()
        while pressed is not _END:
            if self._remember(pressed):
                pressed = self._changes.get()
                continue
            with contextlib.suppress(queue.Empty):
                pressed = self._changes.get(timeout=_WRITE_AGAIN)

    def _remember(self, pressed: object) -> bool:
        """Write or remove the file; return whether that could be done, and say once if not."""
        assert self._path is not None
        try:
            if isinstance(pressed, PressedStop):
                _write(self._path, pressed)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            if not self._has_failed:
                logger.critical(
                    "the emergency stop cannot be remembered in %s (%s), so a restart would "
                    "forget it; trying again every second",
                    self._path,
                    error.strerror,
                )
            self._has_failed = True
            return False
        self._has_failed = False
        return True


def _read(path: Path) -> PressedStop | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"the emergency stop is remembered in {path}, which cannot be read: {error.strerror}"
        ) from error
    by, reason = "somebody, before the server was restarted", ""
    # A file that was cut is a stop all the same.
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        raw = json.loads(text)
        by, reason = str(raw["by"]), str(raw["reason"])
    return PressedStop(by, reason)


def _beside(path: Path, ending: str) -> Path:
    """Return a file of this path's own: ``arm.left`` and ``arm.right`` are two robots."""
    return path.with_name(path.name + ending)


def _try_to_write(path: Path) -> None:
    """Find out now whether a stop could be remembered.

    Raises:
        ConfigurationError: If not.
    """
    beside = _beside(path, ".try")
    try:
        beside.write_text("can a pressed emergency stop be remembered here?")
        beside.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"an emergency stop could not be remembered in {path}: {error.strerror}. Choose "
            "another file with latch_file (--latch-file), or False to remember nothing"
        ) from error


def _write(path: Path, pressed: PressedStop) -> None:
    beside = _beside(path, ".new")
    with beside.open("w") as file:
        json.dump({"by": pressed.by, "reason": pressed.reason}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or a computer that loses power may have the name of before
    finally:
        os.close(folder)
