"""A live view of a robot in the terminal: ``remote-env info --watch``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from remote_env.rates import LEAST_SECONDS, TOLERANCE, WINDOW, StreamState
from remote_env.spec import Mode
from remote_env.terminal import plain
from remote_env.watch import RobotState, RobotWatch

__all__ = ["show_state", "watch_in_terminal"]

_EVERY: Final = 1.0  # seconds
# Columns with their least widths, so that they stay where they are while figures change.
_TIMES: Final = (("rate", 8), ("declared", 8), ("off by", 6), ("age", 7), ("stale after", 6))


def watch_in_terminal(
    console: Console,
    url: str,
    *,
    streams: Sequence[str] = (),
    count: int | None = None,
    token: str | None = None,
    timeout: float = 5.0,
) -> None:
    """Show what a robot does, once a second, until Ctrl-C, which is its normal end.

    In place on a terminal; elsewhere, and with a count, one table after the other.

    Args:
        console: Where to.
        url: Of the robot.
        streams: Names of those to watch; empty for all.
        count: After how many tables it ends; None for never.
        token: What the server asks for, if it does.
        timeout: For each answer, in seconds.

    Raises:
        RemoteEnvError: If the robot cannot be reached at the beginning, or cannot be watched.
    """
    is_live = console.is_terminal and not console.is_dumb_terminal and count is None
    with RobotWatch(url, streams=streams, token=token, timeout=timeout) as watch:
        try:
            if is_live:
                _show_in_place(console, watch, url)
            else:
                _print_tables(console, watch, url, count)
        except KeyboardInterrupt:
            pass


def _show_in_place(console: Console, watch: RobotWatch, url: str) -> None:
    def show() -> RenderableType:
        return Group(*show_state(watch.look(), url))

    with Live(show(), console=console, auto_refresh=False) as live:
        for _ in _seconds():
            live.update(show(), refresh=True)


def _print_tables(console: Console, watch: RobotWatch, url: str, count: int | None) -> None:
    watch.look()  # the first tells nothing of rates
    for _ in itertools.islice(_seconds(), count):
        for part in show_state(watch.look(), url):
            console.print(part, soft_wrap=isinstance(part, Text))
        console.print()


def _seconds() -> Iterator[None]:
    """Wait for the next second, again and again; one that was missed is left out."""
    due = time.monotonic()
    while True:
        due = max(due + _EVERY, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0.0))
        yield


def show_state(state: RobotState, url: str) -> list[RenderableType]:
    """Return what a robot does, for people: a line, a table, and what to know of it."""
    shown: list[RenderableType] = [Text.from_markup(_facts(state, url)), _table_of(state)]
    if state.lost_for is not None:
        lost = (
            f"[bold red]gone for {state.lost_for:.0f} s[/]: {plain(state.lost_because)}; looking "
            "for it again. Known last:"
        )
        return [Text.from_markup(lost), *(Styled(part, "dim") for part in shown)]
    return [*shown, Text(_explain(state), style="dim")]


def _facts(state: RobotState, url: str) -> str:
    spec = state.spec
    pace = spec.mode.value + (f", {spec.control_hz:g} Hz" if spec.control_hz else "")
    activity = plain(state.activity)
    if state.is_stopped:
        activity = f"[bold red]{activity}[/]"
    if state.step_hz is not None:
        steps = f"{state.step_hz:.4g} steps/s"
        activity += f", {_red(steps, state.is_step_hz_off)}"
    overruns = "" if spec.mode is Mode.LOCKSTEP else f"  {state.overruns} overruns"
    for name, missed in state.sensor_overruns.items():
        overruns += f", {missed} of {plain(name)}"
    owner = "nobody commands" if state.owner is None else f"commanded by {plain(state.owner)}"
    return (
        f"[bold]{plain(spec.name)}[/]  {pace}, at {plain(url)}  {owner}  episode {state.episode}, "
        f"step {state.step}  {activity}{overruns}"
    )


def _table_of(state: RobotState) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    is_timed = state.spec.mode is not Mode.LOCKSTEP
    for heading, width in (("stream", 0), *(_TIMES if is_timed else ()), ("published", 0), ("", 0)):
        is_left = heading in ("stream", "")
        # Where there are but 80 columns, one heading has two words to wrap between.
        table.add_column(
            heading,
            justify="left" if is_left else "right",
            no_wrap=heading != "stale after",
            min_width=width,
        )
    for stream in state.streams:
        wrong = "stale" if stream.is_stale else "off" if stream.is_off else ""
        table.add_row(
            plain(stream.name),
            *(_times(stream) if is_timed else ()),
            f"{stream.sequence}",
            _red(wrong, bool(wrong)),  # what is piped elsewhere has no colours
        )
    return table


def _times(stream: StreamState) -> tuple[str, ...]:
    off = "" if stream.deviation is None else _percent(stream.deviation)
    age = "" if stream.age is None else _seconds_text(stream.age)
    return (
        "" if stream.hz is None else _red(f"{stream.hz:.4g} Hz", stream.is_off),
        f"{stream.declared_hz:g} Hz" if stream.declared_hz else "",
        _red(off, stream.is_off),
        _red(age, stream.is_stale),
        _seconds_text(stream.max_age) if math.isfinite(stream.max_age) else "never",
    )


def _explain(state: RobotState) -> str:
    if state.spec.mode is Mode.LOCKSTEP:
        return "lockstep: time stands still between steps, so streams have no rate and no age"
    if state.seconds < LEAST_SECONDS:
        return "measuring"
    return (
        f"rates over {min(state.seconds, WINDOW):.0f} s by the robot's clock; red: more than "
        f"{100 * TOLERANCE:.0f} % off, or stale"
    )


def _red(text: str, is_wrong: bool) -> str:
    return f"[bold red]{text}[/]" if is_wrong and text else text


def _percent(share: float) -> str:
    return f"{100 * share:+.{1 if abs(share) < 0.1 else 0}f} %"


def _seconds_text(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
