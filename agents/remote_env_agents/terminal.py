"""Results, as people read them in a terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from remote_env.terminal import plain
from remote_env_agents.display import duration, percent
from remote_env_agents.evaluation import Evaluation
from remote_env_agents.training import TrainingResult

__all__ = ["print_evaluation", "print_training"]

_LISTED: Final = 10  # seeds; all are in summary.json
_ENDED = {
    "steps": "all steps are done",
    "success": "the success rate is reached",
    "interrupt": "interrupted",
}


def print_training(console: Console, result: TrainingResult, urls: Sequence[str]) -> None:
    """Show what came of a training run, and how to go on."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    speed = result.steps / result.seconds if result.seconds else 0.0
    rows = [
        ("ended", f"{_ENDED[result.ended_by]}"),
        ("steps", f"{result.steps:,} in {duration(result.seconds)}, {speed:,.0f}/s"),
        ("episodes", f"{result.episodes:,}"),
    ]
    if result.mean_return is not None:
        rows.append(("return", f"{result.mean_return:.4g}, of the last 100 episodes, exploring"))
    if result.success_rate is not None:
        rows.append(
            ("success", f"{percent(result.success_rate)} of the last 100 episodes, exploring")
        )
    if result.evaluation is not None:
        rows.append(("evaluated", _in_short(result.evaluation)))
    if result.gradient_steps is not None:
        ratio = result.gradient_steps / max(result.steps, 1)
        rows.append(("updates", f"{result.gradient_steps:,}, {ratio:.2f} for each step"))
    if result.periods is not None:
        rate = percent(result.periods.missed_rate)
        rows.append(("missed", f"{result.periods.missed} control periods, {rate}"))
    if result.spoiled_steps:
        rows.append(("spoiled", f"{result.spoiled_steps} steps, by a lost link or a stale sensor"))
    rows.append(("folder", str(result.folder)))
    for name, text in rows:
        table.add_row(name, plain(text))
    console.print(table)
    command = ["remote-env", "eval", *urls, "--policy", str(result.policy)]
    console.print(
        f"\nevaluate it: [bold]{plain(shlex.join(command))}[/]", highlight=False, soft_wrap=True
    )


def _in_short(evaluation: Evaluation) -> str:
    parts = [f"return {evaluation.mean_return:.4g}"]
    if evaluation.success_rate is not None and evaluation.interval is not None:
        low, high = evaluation.interval
        parts.append(
            f"success {percent(evaluation.success_rate)} ({percent(low)} to {percent(high)})"
        )
    return f"{', '.join(parts)}, {len(evaluation.episodes)} episodes"


def print_evaluation(console: Console, evaluation: Evaluation, policy: str | Path) -> None:
    """Show what came of an evaluation: in all, and for each robot."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    has_success = evaluation.success_rate is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    headings = ["episodes", *["success [95 %]"] * has_success, "return", "length", "steps/s"]
    table.add_column("robot", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    if len(evaluation.robots) > 1:
        for url in evaluation.robots:
            table.add_row(*_cells(url, evaluation.of_robot(url), has_success))
        table.add_section()
    name = evaluation.robots[0] if len(evaluation.robots) == 1 else "all"
    table.add_row(*_cells(name, evaluation, has_success), style="bold")
    say(f"[bold]{plain(str(policy))}[/]")
    console.print(table)
    _say_how(say, evaluation)
    _say_what_failed(say, evaluation)


def _say_how(say: Callable[[str], object], evaluation: Evaluation) -> None:
    ends = ", ".join(f"{count} {reason}" for reason, count in evaluation.end_reasons.items())
    say(f"ended by {plain(ends or 'nothing')}; {duration(evaluation.seconds)} in all")
    low, high = evaluation.return_interval
    if math.isfinite(low):
        say(f"mean return between {low:.4g} and {high:.4g} (95 %)")
    took = evaluation.step_times
    if took.counts:
        p50, p99, longest = took.percentile(50), took.percentile(99), took.longest
        say(f"a step took {_ms(p50)} (p50), {_ms(p99)} (p99), {_ms(longest)} at most")
    off = evaluation.period_errors
    if off.counts:
        say(
            f"periods were off by {_ms(off.percentile(50))} (p50), "
            f"{_ms(off.percentile(99))} (p99), {_ms(off.longest)} at most; "
            f"{evaluation.overruns} were missed"
        )


def _say_what_failed(say: Callable[[str], object], evaluation: Evaluation) -> None:
    for found in evaluation.differences():
        if found.is_flagged:
            p = "< 0.0001" if found.adjusted < 0.0001 else f"= {found.adjusted:.2g}"
            say(
                f"[bold red]differs from the rest:[/] {plain(found.robot)} in {found.what}, "
                f"{found.own:.3g} and not {found.rest:.3g} (corrected p {p})"
            )
    if not all(episode.seed_applied for episode in evaluation.episodes):
        say("the robot uses no seeds: another evaluation has other episodes")
    for event in evaluation.events:
        say(f"{event.what}: {plain(event.robot)}{plain(f', {event.why}' if event.why else '')}")
    for episode in evaluation.spoiled:
        name, robot = plain(episode.key.name), plain(episode.robot)
        say(f"spoiled: seed {name} on {robot}, {plain(episode.spoiled)}")
    if evaluation.missing:
        seeds = ", ".join(key.name for key in evaluation.missing[:_LISTED])
        more = len(evaluation.missing) - _LISTED
        rest = f" and {more} more" if more > 0 else ""
        say(
            f"[bold red]not counted:[/] seeds {plain(seeds)}{rest}: {len(evaluation.missing)} of "
            f"{evaluation.about.episodes} episodes; the same command with --folder goes on"
        )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _cells(name: str, evaluation: Evaluation, has_success: bool) -> list[str]:
    cells = [plain(name.removeprefix("ws://")), str(len(evaluation.episodes))]
    if not evaluation.episodes:
        return cells
    if has_success:
        low, high = evaluation.interval or (0.0, 1.0)
        rate = percent(evaluation.success_rate or 0.0)
        cells.append(plain(f"{rate} [{100 * low:.3g}, {100 * high:.3g}]"))
    return [
        *cells,
        f"{evaluation.mean_return:.3g} ± {evaluation.std_return:.2g}",
        f"{evaluation.mean_length:.1f}",
        f"{evaluation.steps_per_second:,.0f}",
    ]
