"""``remote-env check``: the checks as people, or programs, read them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from remote_env.client import RobotClient
from remote_env.errors import ConfigurationError
from remote_env.spec import Mode
from remote_env_server.robots import make_robot
from remote_env_server.testing.conformance import check_robot
from remote_env_server.testing.report import Report, Result, Status

__all__ = ["check_in_terminal"]

_SIGNS: Final = {
    Status.PASSED: ("✓", "green"),
    Status.WARNING: ("!", "yellow"),
    Status.FAILED: ("✗", "bold red"),
    Status.SKIPPED: ("-", "dim"),
}


def check_in_terminal(
    console: Console,
    target: str,
    *,
    token: str | None,
    mode: str | None,
    moves: bool,
    is_agreed: bool,
    as_json: bool,
    max_steps: int,
    patience: float,
) -> Report:
    """Check a robot and print what comes of it, line by line.

    A robot that may be hardware is moved only if somebody agreed: one not in lockstep, behind
    a url or of an author's own class. Those that we ship are simulated.

    Args:
        console: Where to print.
        target: A name or a url.
        token: For a url.
        mode: See ``check_robot``, as for ``moves``, ``max_steps`` and ``patience``.
        moves: Whether the robot may be moved.
        is_agreed: Whether it may be moved without asking.
        as_json: Print the report as JSON, at the end.
        max_steps: In all.
        patience: Bounds on real time are multiplied by this.

    Raises:
        ConfigurationError: If nobody is there to agree, or does not.
        RemoteEnvError: If there is no such robot.
    """
    if moves and not is_agreed and _may_be_hardware(target, mode, token):
        _ask(target, max_steps)
    options: dict[str, Any] = {
        "token": token,
        "mode": mode,
        "moves": moves,
        "max_steps": max_steps,
        "patience": patience,
    }
    if as_json:
        report = check_robot(target, **options)
        print(json.dumps({"is_ok": report.is_ok, **asdict(report)}, indent=2))
        return report
    printer = _Printer(console)
    with console.status("") as status:
        report = check_robot(
            target,
            on_start=lambda check: status.update(f"[dim]{check.name}[/]"),
            on_result=printer.take,
            **options,
        )
        printer.flush()
    _summarise(console, report)
    return report


class _Printer:
    """Prints each result as it comes, and checks that are skipped for one reason as one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._skipped: list[Result] = []

    def take(self, result: Result) -> None:
        """Print a result, or keep it until it is known how many are skipped."""
        if result.status is Status.SKIPPED:
            if self._skipped and self._skipped[0].what != result.what:
                self.flush()
            self._skipped.append(result)
            return
        self.flush()
        _show(self._console, result)

    def flush(self) -> None:
        """Print what was kept."""
        skipped, self._skipped = self._skipped, []
        if len(skipped) > 2:
            _show(self._console, replace(skipped[0], name=f"{len(skipped)} checks"))
        else:
            for result in skipped:
                _show(self._console, result)


def _may_be_hardware(target: str, mode: str | None, token: str | None) -> bool:
    if "://" in target:
        client = RobotClient(target, role="observe", token=token)
        try:
            return client.connect().mode is not Mode.LOCKSTEP
        finally:
            client.close()
    if target == "double-pendulum" or target.startswith("gymnasium:"):
        return False
    return Mode(mode or make_robot(target).modes[0]) is not Mode.LOCKSTEP


def _ask(target: str, max_steps: int) -> None:
    told = (
        f"the check resets {target} up to 40 times and moves it, with small actions and "
        f"{max_steps} steps at most"
    )
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{told}; agree with --yes, or only look with --no-moves")
    print(f"{told[0].upper()}{told[1:]}.", file=sys.stderr)
    print("Is its way clear? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError("not agreed; nothing was moved. --no-moves only looks")


def _show(console: Console, result: Result) -> None:
    sign, style = _SIGNS[result.status]
    line = Text.assemble((sign, style), " ", (result.name, "" if result.what else style))
    is_loud = result.status in (Status.FAILED, Status.WARNING)
    if result.what and not is_loud:
        line.append(f"  {result.what}", "dim")
    console.print(line, no_wrap=not is_loud, overflow="ellipsis", highlight=False)
    for text, colour in ((result.what, style), (result.advice, "")):
        if is_loud and text:
            arrow = "  → " if text is result.advice else "  "
            console.print(Text(f"{arrow}{text}", colour), highlight=False, soft_wrap=True)


def _summarise(console: Console, report: Report) -> None:
    seconds = sum(result.seconds for result in report.results)
    counts = [
        Text(f"{len(report.of(status))} {status.value}", style)
        for status, (_, style) in _SIGNS.items()
        if report.of(status)
    ]
    console.print(Text(", ").join(counts), f"in {seconds:.1f} s", highlight=False)
