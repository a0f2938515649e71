"""How things look in a terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from remote_env.arguments import check_timeout
from remote_env.client import RobotClient
from remote_env.doctor import Advice, Diagnosis, StreamHealth, advise, examine
from remote_env.goals import GoalReward
from remote_env.spec import ActionLimit, RobotSpec, StreamKind

__all__ = ["examine_in_terminal", "plain", "print_diagnosis", "print_spec"]

# Backslashes that rich would take for the escaping of the bracket behind them, or of ours.
_ESCAPING: Final = re.compile(r"(\\+)(?=\[[a-z#/@]|\[?\Z)")


def plain(text: str) -> str:
    """Return a text of somebody else's, for rich to show it as it is.

    Nothing in it is taken for markup, and it takes nothing from the markup that follows it.
    What would control the terminal, or the direction of writing, is spelled out; lines may end.
    """
    seen = "".join(map(_visible, text))
    return _ESCAPING.sub(r"\1\1", seen).replace("[", "\\[")


def _visible(char: str) -> str:
    is_control = unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\n\t"
    return char.encode("unicode_escape").decode() if is_control else char


def print_spec(console: Console, spec: RobotSpec, *, carrier: str) -> None:
    """Show what a robot is, and what carries its observations here."""
    for line in [*_facts(spec), f"carried by   {carrier}"]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table_of(spec))


def examine_in_terminal(
    console: Console,
    errors: Console,
    url: str,
    *,
    token: str | None,
    seconds: float,
    timeout: float,
) -> bool:
    """Measure what a robot and the network to it do, and print it; return whether all is well.

    Args:
        console: Where to.
        errors: Where the progress is shown: what is piped elsewhere is the report.
        url: Of the robot.
        token: What the server asks for, if it does.
        seconds: For how long to measure round trips.
        timeout: For each answer, in seconds.
    """
    check_timeout("--seconds", seconds)
    client = RobotClient(url, role="observe", token=token, connect_timeout=timeout)
    try:
        with Progress(console=errors, transient=True) as progress:
            task = progress.add_task("measuring", total=1.0)
            found = examine(
                client,
                seconds=seconds,
                timeout=timeout,
                tell=lambda fraction: progress.update(task, completed=fraction),
            )
    finally:
        client.close()
    advice = advise(found)
    print_diagnosis(console, found, advice)
    return not any(one.is_problem for one in advice)


def print_diagnosis(console: Console, found: Diagnosis, advice: Sequence[Advice]) -> None:
    """Show what was measured, and what to do about it."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    spec, trip, robot = found.spec, found.round_trip, found.robot
    rate = f", {spec.control_hz:g} Hz" if spec.control_hz else ""
    say(f"[bold]{plain(spec.name)}[/]  {spec.mode.value}{rate}, at {plain(found.url)}")
    say(
        f"round trip   p50 {_ms(trip.p50)}, p99 {_ms(trip.p99)}, max {_ms(trip.max)} of "
        f"{trip.count}; jitter (p99 - p50) {_ms(trip.jitter)}; {_ms(found.connect)} to connect"
        f", by {found.carrier}"
    )
    if found.clock is not None:
        say(
            f"clock        the robot's is {found.clock.offset:+.6f} s ahead of ours, "
            f"+-{_ms(found.clock.error)}"
        )
    say(
        f"bandwidth    {_bandwidth(found.bandwidth)}; what it sends unless asked "
        f"otherwise takes {found.needed / 1e6:.3g} MB/s"
    )
    lateness = robot["lateness"]
    if lateness["count"]:
        say(
            f"control      {lateness['count']} periods, late by p50 {_ms(lateness['p50'])}, p99 "
            f"{_ms(lateness['p99'])}, max {_ms(lateness['max'])}; {robot['overruns']} missed"
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("stream", "rate", "declared", "age", "stale after", "size"):
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for stream in found.streams:
        table.add_row(*_health(stream))
    console.print(table)
    for one in advice:
        say(f"[bold red]![/] {plain(one.text)}" if one.is_problem else f"- {plain(one.text)}")
    if not any(one.is_problem for one in advice):
        say("[green]nothing is wrong[/]")


def _health(stream: StreamHealth) -> tuple[str, ...]:
    is_stale = stream.age is not None and stream.age > stream.max_age
    age = "" if stream.age is None else _ms(stream.age)
    return (
        plain(stream.name),
        "" if stream.hz is None else f"{stream.hz:.3g} Hz",
        f"{stream.declared_hz:g} Hz" if stream.declared_hz else "",
        f"[bold red]{age}[/]" if is_stale else age,
        _ms(stream.max_age) if math.isfinite(stream.max_age) else "never",
        f"{stream.nbytes / 1e3:.3g} kB",
    )


def _bandwidth(bytes_per_second: float) -> str:
    if math.isnan(bytes_per_second):
        return "not measured, the round trip hides it"
    return f"{bytes_per_second / 1e6:.3g} MB/s from the robot"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _facts(spec: RobotSpec) -> list[str]:
    rate = f", {spec.control_hz:g} Hz" if spec.control_hz else ""
    lines = [
        f"[bold]{plain(spec.name)}[/]  {spec.mode.value}{rate}",
        f"action       {plain(str(spec.action_space))}, out of bounds: {spec.out_of_bounds.value}",
        f"episode      {spec.max_episode_steps or 'no'} steps at most, "
        f"{'seedable' if spec.seedable else 'not seedable'}",
    ]
    if spec.action_limits:
        limits = "; ".join(f"{n} {_limit(limit)}" for n, limit in spec.action_limits.items())
        lines.append(f"limits       {plain(limits)}")
    if spec.action_lifetime:
        lines.append(f"holds        {spec.action_lifetime * 1e3:.0f} ms after the last action")
    if spec.reset_options:
        lines += [
            f"reset option {plain(name)}: {plain(text)}"
            for name, text in spec.reset_options.items()
        ]
    if spec.goal_reward is not None:
        lines.append(f"goal reward  {plain(_goal_reward(spec.goal_reward))}")
    for key, value in spec.extra.items():
        lines.append(f"{plain(key):12} {'' if isinstance(value, dict) else plain(str(value))}")
        if isinstance(value, dict):
            lines += [f"  {plain(str(name)):18} {plain(str(v))}" for name, v in value.items()]
    return lines


def _goal_reward(reward: GoalReward) -> str:
    text = f"{reward.kind}, reached within {reward.threshold:g}"
    without = f"; without {', '.join(reward.derived)}" if reward.derived else ""
    return f"{text}; HER can be used{without}"


def _limit(limit: ActionLimit) -> str:
    parts = []
    if limit.max_rate is not None:
        parts.append(f"{_extent(limit.max_rate)} per second")
    if limit.max_step is not None:
        parts.append(f"{_extent(limit.max_step)} from {limit.measured}")
    return " and ".join(parts)


def _extent(limit: Any) -> str:
    least, most = np.min(limit), np.max(limit)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _table_of(spec: RobotSpec) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("stream", "shape", "dtype", "unit", "range", "rate", "max age", "sent"):
        table.add_column(heading, no_wrap=heading in ("stream", "shape", "dtype"))
    for stream in spec.streams:
        is_calibration = stream.kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
        sent = "on request" if stream.on_request else "always"
        table.add_row(
            plain(stream.name),
            "x".join(map(str, stream.array.shape)) or "scalar",
            str(stream.array.dtype),
            plain(stream.unit),
            "" if is_calibration else plain(_range_of(stream.space)),
            f"{stream.hz:g} Hz" if stream.hz else "",
            f"{stream.max_age:.3g} s" if math.isfinite(stream.max_age) else "",
            "with image" if is_calibration else sent,
        )
    return table


def _range_of(space: Any) -> str:
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return str(space)
    lowest, highest = np.min(low), np.max(high)
    return f"{lowest:.4g} to {highest:.4g}" if np.isfinite([lowest, highest]).any() else ""
