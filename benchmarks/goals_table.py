"""The goals, what was measured of them, and how both look in a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["GOALS", "NOT_HERE", "Goal", "Row", "put_into_page", "row"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        key: Its number, and the payload or the part if it has several.
        text: What is compared.
        must: The bound.
        reach: The ambition.
        unit: Of both.
        is_least: Whether they are lower bounds.
    """

    key: str
    text: str
    must: float
    reach: float
    unit: str = "x"
    is_least: bool = False

    def is_met(self, value: float, *, reach: bool = False) -> bool:
        """Whether a value is good enough."""
        bound = self.reach if reach else self.must
        return value >= bound if self.is_least else value <= bound

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        return _number(value) + ("" if self.unit == "x" else f" {self.unit}")

    @property
    def sign(self) -> str:
        """Of the bounds."""
        return ">=" if self.is_least else "<="


def _least(key: str, text: str, must: float, reach: float, unit: str = "x") -> Goal:
    return Goal(key, text, must, reach, unit, True)


_OURS = "step / raw TCP, the same bytes"
_ALL: Final = (
    Goal("1 P2", _OURS, 1.4, 1.1),
    Goal("2 P1", _OURS, 1.5, 1.2),
    Goal("3 P3", _OURS, 2.0, 1.2),
    Goal("3 P0", _OURS, 2.0, 1.2),
    Goal("4 P0", "step / raw TCP, both paced at 100 Hz", 3.5, 2.5),
    *(
        _least(f"5 {p}", "openpi's way / ours", must, reach)
        for p, must, reach in (("P2", 7, 11), ("P1", 8, 15), ("P3", 1.3, 1.6), ("P0", 1.25, 1.5))
    ),
    _least("6 P2", "openpi's way after mallopt / ours", 4, 5.5),
    _least("6 P1", "openpi's way after mallopt / ours", 2.5, 3.3),
    _least("7 P2", "gRPC unary / ours", 12, 20),
    _least("7 P0", "gRPC unary / ours", 3.5, 4.5),
    _least("7s P2", "gRPC stream / ours", 5, 7),
    _least("7s P0", "gRPC stream / ours", 2, 2.6),
    _least("8 P1", "one-way stream to an observer / raw TCP, bytes per second", 0.9, 0.97),
    _least("8 P2", "one-way stream to an observer / raw TCP, bytes per second", 0.9, 0.97),
    Goal("9 P2", "step through shared memory / raw TCP, the same bytes", 0.5, 0.3),
    Goal("10 P2", "CPU of both ends for a step / raw TCP's", 1.4, 1.15),
    Goal("17", "snapshot of all of P2 under the locks, p50", 5, 1.5, "us"),
    Goal("18", "a sensor's wait for the lock, reader in a tight loop, p99", 50, 15, "us"),
    Goal("19", "P0 step beside 3 x 500 Hz and 2 x 30 Hz sensor threads / without", 1.15, 1.05),
    Goal("20", "P0 step beside a busy Python thread in the server, p50", 0.8, 0.3, "ms"),
    Goal("21 bytes", "P2 at 100 Hz, cameras at 30: bytes when only news is sent / all", 0.32, 0.3),
    Goal("21 time", "the same: time on the way", 0.6, 0.45),
    _least("22", "the same rig flat out", 10_000, 30_000, "steps/s"),
    _least("23 rate", "1 Gb/s link, P2 asked for at 100 Hz", 99, 99.9, "Hz"),
    Goal("23 time", "the same: mean time on the way", 4, 2, "ms"),
    Goal("24 p50", "lateness of a control period of 10 ms, p50", 0.25, 0.06, "ms"),
    Goal("24 p99", "the same, p99", 1, 0.2, "ms"),
    Goal("25 P0", "to encode and decode an answer, beside what goes to the socket", 10, 3, "us"),
    Goal("25 P2", "to encode and decode an answer, beside what goes to the socket", 10, 6, "us"),
    Goal("26", "a step with 8 VGA RGB-D cameras (17.2 MB) over TCP, p50", 8, 6.5, "ms"),
    Goal("26 host", "the same through shared memory, p50", 4, 2, "ms"),
    _least("27", "100 Hz of actions beside that stream at 30 Hz: kept", 99, 99.9, "%"),
    Goal("28 steps", "growth of memory for 1e6 steps, the worse end", 1, 1, "MB"),
    Goal("28 peers", "memory for a stalled VGA connection; 3 frames and 1 MiB", 3.64, 3.64, "MiB"),
)
GOALS: Final[dict[str, Goal]] = {goal.key: goal for goal in _ALL}

NOT_HERE: Final = {
    "11 to 16": "many robots from one process: below, by `benchmarks/vector.py`",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a goal.

    Attributes:
        goal: Which.
        value: In the goal's unit; None if it was not measured.
        ours: Median and p99 in microseconds, or empty.
        other: The same of what it is compared with.
        note: Why it was not measured, or what one must know.
        rounds: The value of each round, if there were several.
    """

    goal: Goal
    value: float | None
    ours: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    note: str = ""
    rounds: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.value is None:
            return "not measured"
        if self.goal.is_met(self.value, reach=True):
            return "reached"
        return "met" if self.goal.is_met(self.value) else "missed"

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        goal = self.goal
        bounds = (f"{goal.sign} {goal.show(bound)}" for bound in (goal.must, goal.reach))
        value = self.note if self.value is None else goal.show(self.value)
        if len(self.rounds) > 1:
            value += f" ({_number(min(self.rounds))} to {_number(max(self.rounds))})"
        return goal.key, goal.text, *bounds, value, _pair(self.ours), _pair(self.other)

    def values(self) -> dict[str, Any]:
        """Return it in plain values."""
        goal = self.goal
        return {
            "goal": goal.key,
            "text": goal.text,
            "sign": goal.sign,
            "must": goal.must,
            "reach": goal.reach,
            "unit": goal.unit,
            "value": self.value,
            "verdict": self.verdict,
            "ours_us": list(self.ours),
            "other_us": list(self.other),
            "note": self.note,
            "rounds": list(self.rounds),
        }


def row(
    key: str,
    value: float | None,
    ours: Sequence[float] = (),
    other: Sequence[float] = (),
    note: str = "",
    rounds: Sequence[float] = (),
) -> Row:
    """Return what was measured of the goal with this key; times in seconds."""
    pairs = [tuple(t * 1e6 for t in pair) for pair in (ours, other)]
    return Row(GOALS[key], value, pairs[0], pairs[1], note, tuple(rounds))


def markdown(rows: Iterable[Row]) -> str:
    """Return the table of goals."""
    lines = [
        "| # | What | must | reach | measured | ours, us: p50 (p99) | other, us: p50 (p99) | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join((*row.cells, row.verdict)) + " |" for row in rows]
    lines += [f"| {key} | not measured here: {why} | | | | | | |" for key, why in NOT_HERE.items()]
    return "\n".join(lines)


def markdown_of_peers(tables: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]) -> str:
    """Return a table: a line for each way to make a step, a column for each payload.

    Args:
        tables: By payload and way, what ``Result.values`` gives, with ``x_ours``.
        missing: Ways that could not be measured, and why.
    """
    payloads = list(tables)
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    lines = [
        "| us: p50 (p99), x ours | " + " | ".join(payloads) + " |",
        "| --- |" + " --- |" * len(payloads),
    ]
    for name in names:
        cells = []
        for payload in payloads:
            one = tables[payload].get(name)
            if one is None:
                cells.append("")
                continue
            times = _pair((one["p50_us"], one["p99_us"]))
            cells.append(times if name == "ours" else f"{times}, **{_number(one['x_ours'])}**")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    empty = " |" * (len(payloads) - 1)
    lines += [f"| {name} | not measured: {why} |{empty}" for name, why in missing.items()]
    return "\n".join(lines)


def put_into_page(page: Path, sections: Mapping[str, str]) -> None:
    """Replace what stands between the markers of these names.

    Raises:
        ValueError: If the page has no such markers.
    """
    text = page.read_text()
    for name, content in sections.items():
        before, begin, rest = text.partition(f"<!-- {name}: begin -->\n")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        if not end:
            raise ValueError(f"{page} has no <!-- {name}: begin --> with an end to write between")
        text = f"{before}{begin}{content}\n{end}{after}"
    page.write_text(text)


def _pair(times: Sequence[float]) -> str:
    return "" if len(times) < 2 else f"{_number(times[0])} ({_number(times[1])})"


def _number(value: float) -> str:
    """Return three digits that count, and no exponent."""
    if value != value:
        return "unknown"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
