"""Plots of an evaluation, as SVG to be put into a page: its style sheet has the colours.

Classes: ``ink`` text, ``faint`` axes and grid, ``mark`` what is measured, ``band`` an interval,
``good`` and ``bad`` episodes that succeeded and that did not, ``flag`` a robot that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

__all__ = ["RateRow", "ReturnRow", "histogram_of_returns", "rates_chart", "returns_chart"]

_WIDTH: Final = 640
_LEFT: Final = 150  # for the names of robots
_RIGHT: Final = 22
_ROW: Final = 30
_AXIS: Final = 34  # below
_DOTS: Final = 300  # of a row at most; the box is of all
_BINS: Final = 24


@dataclass(frozen=True, slots=True)
class RateRow:
    """A rate with its interval.

    Attributes:
        name: Of the robot.
        rate: From 0 to 1.
        low: Lower end of the interval.
        high: Upper end.
        text: For people.
        is_flagged: Whether it differs from the others.
        is_all: Whether it is of all robots.
    """

    name: str
    rate: float
    low: float
    high: float
    text: str
    is_flagged: bool = False
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class ReturnRow:
    """Returns of the episodes of one robot.

    Attributes:
        name: Of the robot.
        returns: Finite, at least one.
        is_good: For each of them, whether it succeeded; None where that is not known.
        is_flagged: Whether it differs from the others.
    """

    name: str
    returns: tuple[float, ...]
    is_good: tuple[bool | None, ...]
    is_flagged: bool = False


def rates_chart(rows: Sequence[RateRow]) -> str:
    """Draw rates with their intervals, one row each, from 0 to 100 %."""
    height = _ROW * len(rows) + _AXIS
    at = _scale(0.0, 1.0)
    parts = _axis(at, [0, 0.25, 0.5, 0.75, 1.0], lambda rate: f"{100 * rate:.0f} %", len(rows))
    for number, row in enumerate(rows):
        y = _ROW * number + _ROW / 2
        look = "flag" if row.is_flagged else "mark"
        parts += [
            _name(row.name, y, is_bold=row.is_all),
            f'<line class="band {look}" x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" '
            f'y1="{y}" y2="{y}"><title>{escape(row.text)}</title></line>',
            f'<circle class="{look}" cx="{at(row.rate):.1f}" cy="{y}" r="5.5">'
            f"<title>{escape(row.text)}</title></circle>",
        ]
    return _svg(height, parts, "Success rate of each robot with its 95 % interval")


def returns_chart(rows: Sequence[ReturnRow]) -> str:
    """Draw the returns of each robot: a dot for each episode, and a box over the quartiles."""
    everything = [value for row in rows for value in row.returns]
    low, high = _room(min(everything), max(everything))
    at = _scale(low, high)
    parts = _axis(at, _ticks(low, high), lambda value: f"{value:.4g}", len(rows))
    for number, row in enumerate(rows):
        parts += _returns_row(row, _ROW * number + _ROW / 2, at)
    return _svg(_ROW * len(rows) + _AXIS, parts, "Return of each episode, robot by robot")


def _returns_row(row: ReturnRow, y: float, at: Callable[[float], float]) -> list[str]:
    first, median, third = (float(q) for q in np.quantile(row.returns, (0.25, 0.5, 0.75)))
    look = "flag" if row.is_flagged else "mark"
    parts = [
        _name(row.name, y),
        f'<rect class="box {look}" x="{at(first):.1f}" y="{y - 9}" '
        f'width="{max(1.0, at(third) - at(first)):.1f}" height="18" rx="3"/>',
    ]
    every = math.ceil(len(row.returns) / _DOTS)
    pairs = list(zip(row.returns, row.is_good, strict=True))[::every]
    for index, (value, is_good) in enumerate(pairs):
        shift = 7 * math.sin(12.9898 * index)  # so that dots do not hide one another
        kind = {True: "good", False: "bad", None: "mark"}[is_good]
        parts.append(
            f'<circle class="dot {kind}" cx="{at(value):.1f}" cy="{y + shift:.1f}" r="2.2"/>'
        )
    parts.append(
        f'<line class="median" x1="{at(median):.1f}" x2="{at(median):.1f}" y1="{y - 11}" '
        f'y2="{y + 11}"><title>median {median:.4g}</title></line>'
    )
    return parts


def histogram_of_returns(good: Sequence[float], bad: Sequence[float]) -> str:
    """Draw how many episodes had which return, those that succeeded above the others.

    Args:
        good: Returns of episodes that succeeded; or of all, if success is not known.
        bad: Those of the others.
    """
    low, high = _room(min([*good, *bad]), max([*good, *bad]))
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for values in (bad, good)]
    tallest = max(1, int((counts[0] + counts[1]).max()))
    at, height = _scale(low, high), 170.0
    rise = (height - 22) / tallest
    rows = height / _ROW
    parts = _axis(at, _ticks(low, high), lambda value: f"{value:.4g}", rows)
    parts.append(f'<text class="faint" x="{_LEFT - 8}" y="24" text-anchor="end">{tallest}</text>')
    parts.append(f'<text class="faint" x="{_LEFT - 8}" y="{height}" text-anchor="end">0</text>')
    for number in range(_BINS):
        x, width = at(edges[number]), at(edges[number + 1]) - at(edges[number]) - 1.0
        y = height
        for kind, count in (("bad", int(counts[0][number])), ("good", int(counts[1][number]))):
            if count:
                y -= rise * count
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{rise * count:.1f}"><title>{count} episodes</title></rect>'
                )
    return _svg(round(height) + _AXIS, parts, "How many episodes had which return")


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _scale(low: float, high: float) -> Callable[[float], float]:
    factor = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    return lambda value: _LEFT + factor * (value - low)


def _room(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) or max(1e-9, 0.1 * abs(high)) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers."""
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [step * number for number in range(first, math.floor(high / step) + 1)]


def _axis(
    at: Callable[[float], float],
    ticks: Sequence[float],
    text: Callable[[float], str],
    rows: float,
) -> list[str]:
    bottom = _ROW * rows
    return [
        f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="0" y2="{bottom:.0f}"/>'
        f'<text class="faint" x="{at(tick):.1f}" y="{bottom + 20:.0f}" text-anchor="middle">'
        f"{escape(text(tick))}</text>"
        for tick in ticks
    ]


def _name(name: str, y: float, *, is_bold: bool = False) -> str:
    weight = ' font-weight="600"' if is_bold else ""
    short = name if len(name) <= 20 else f"...{name[-18:]}"
    return (
        f'<text class="ink" x="{_LEFT - 14}" y="{y + 4.5}" text-anchor="end"{weight}>'
        f"{escape(short)}<title>{escape(name)}</title></text>"
    )
