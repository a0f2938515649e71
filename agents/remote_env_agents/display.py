"""How something long is shown: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from remote_env.terminal import plain

__all__ = ["Display", "duration", "percent"]

_LINE_EVERY: Final = 10.0  # without a terminal, in seconds
_REFRESH: Final = 0.1  # seconds between two looks at the numbers


class Display:
    """Shows how far something is, how fast it goes and how long it will take.

    Args:
        console: Where; None for nowhere.
        total: How many there are to be done.
        unit: What is counted, such as "steps".
        what: For people, at the beginning of the line.
    """

    def __init__(self, console: Console | None, *, total: int, unit: str, what: str) -> None:
        self._console = console
        self._total = total
        self._unit = unit
        self._what = what
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = self._shown = self._printed = time.monotonic()
        self._first = 0

    def __enter__(self) -> Self:
        self._started = self._printed = time.monotonic()
        self._shown = 0.0
        if self._console is not None and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(plain(self._what), total=self._total, text="")
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, notes: str = "", *, speed: float | None = None) -> None:
        """Say how far it is; cheap enough to be called at every step.

        Args:
            done: How many of ``total``.
            notes: More for the line, such as "return -2.1".
            speed: Units per second; the mean since the beginning if None.
        """
        now = time.monotonic()
        if self._console is None or now - self._shown < _REFRESH:
            return
        self._shown = now
        if speed is None:
            speed = done / max(now - self._started, 1e-9)
        text = self._text(done, notes, speed)
        if self._progress is not None:
            self._progress.update(self._task, completed=done, text=text)
        elif now - self._printed >= _LINE_EVERY:
            self._printed = now
            self._console.print(f"{plain(self._what)}  {text}", highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one. Safe before it is shown."""
        if self._console is not None:
            self._console.print(plain(line), highlight=False, soft_wrap=True)

    def _text(self, done: int, notes: str, speed: float) -> str:
        parts = [f"{done:,} of {self._total:,} {self._unit}"]
        if speed > 0:
            parts.append(f"{speed:,.{0 if speed >= 10 else 1}f}/s")
        if notes:
            parts.append(notes)
        if speed > 0:
            parts.append(f"{duration(max(0.0, self._total - done) / speed)} left")
        return plain("  ".join(parts))


def duration(seconds: float) -> str:
    """Return a time as people read it: ``8.3 s``, ``4:07``, ``1:02:30``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(rate: float) -> str:
    """Return a rate as people read it: ``97.5 %``."""
    return f"{100 * rate:.3g} %"
