"""Pictures of how the cost of a step grows; see ``scaling.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.peers import OURS, RAW

__all__ = ["draw"]

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; and marks.
_STYLES: Final[dict[str, dict[str, Any]]] = {
    RAW.name: {"color": "#000000", "linestyle": "--", "marker": ""},
    OURS.name: {"color": "#0072B2", "linewidth": 2.6, "marker": "o"},
    "openpi's way": {"color": "#D55E00", "marker": "s"},
    "gRPC stream": {"color": "#009E73", "marker": "^"},
    "pyzmq": {"color": "#CC79A7", "marker": "D"},
}
_GAP: Final = 0.055  # of the height, between two labels


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured; return the files."""
    drawn = []
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        if "bytes" in found:
            drawn.append(_save(_draw_bytes(found["bytes"]), folder / "cost-of-bytes.png"))
        if "cameras" in found:
            drawn.append(_save(_draw_cameras(found["cameras"]), folder / "cost-of-cameras.png"))
        if "observers" in found:
            path = folder / "cost-of-observers.png"
            drawn.append(_save(_draw_observers(found["observers"]), path))
    return drawn


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, facecolor="white")
    plt.close(figure)
    return path


def _draw_bytes(tables: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    _draw_ways(axes, tables)
    axes.set_xlabel("bytes of a step's observation")
    axes.set_ylabel("a step, median")
    axes.set_title("What a step costs, by its bytes", loc="left", fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _amount(x)))
    return figure


def _draw_cameras(tables: dict[str, Any]) -> Figure:
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure, both = plt.subplots(1, 2, figsize=(8, 4.2), layout=layout)
    for axes, (size, table) in zip(both, tables.items(), strict=True):
        _draw_ways(axes, table)
        axes.set_xticks([int(count) for count in table], labels=list(table))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("cameras")
        axes.set_title(f"cameras of {size}", loc="left", fontweight="bold")
    both[0].set_ylabel("a step, median")
    return figure


def _draw_ways(axes: Axes, tables: dict[str, Any]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for name, style in _STYLES.items():
        points = [(float(x), t[name]["p50_us"]) for x, t in tables.items() if name in t]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, markersize=4.5, zorder=3 if name == OURS.name else 2, **style)
            ends.append((name, xs[-1], ys[-1], style["color"]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _time(y)))
    axes.yaxis.set_minor_formatter(FuncFormatter(_time_between))
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    _label(axes, ends)


def _label(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each name beside the end of its line, moved apart where they would overlap."""
    axes.figure.canvas.draw()  # or the limits are not those of all lines
    place = axes.transData + axes.transAxes.inverted()
    wanted = sorted((float(place.transform((x, y))[1]), name, c) for name, x, y, c in ends)
    heights = [height for height, _, _ in wanted]
    for _ in range(200):  # push neighbours apart, a little at a time
        for i in range(len(heights) - 1):
            lack = _GAP - (heights[i + 1] - heights[i])
            if lack > 0:
                heights[i] -= lack / 2
                heights[i + 1] += lack / 2
    for height, (_, name, colour) in zip(heights, wanted, strict=True):
        weight = "bold" if name == OURS.name else "normal"
        axes.annotate(
            name,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            fontweight=weight,
            va="center",
            annotation_clip=False,
        )


def _draw_observers(table: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    counts = [int(count) for count in table]
    rows = list(table.values())
    axes.set_xscale("log", base=2)
    ends = []
    for label, key, colour, line in (
        ("p99, watched", "p99_us", "#D55E00", "-"),
        ("p99, alone", "alone_p99_us", "#D55E00", ":"),
        ("median, watched", "p50_us", "#0072B2", "-"),
        ("median, alone", "alone_p50_us", "#0072B2", ":"),
    ):
        ys = [row[key] for row in rows]
        axes.plot(counts, ys, color=colour, linestyle=line, marker="o", markersize=4)
        ends.append((label, float(counts[-1]), ys[-1], colour))
    axes.set_xticks(counts, labels=[str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _time(y)))
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_xlabel("observers that take a picture of 128x128 at 30 Hz")
    axes.set_ylabel("the learner's step")
    axes.set_title("What observers cost the learner", loc="left", fontweight="bold")
    _label(axes, ends)
    return figure


def _time_between(microseconds: float, _: int) -> str:
    """Return what to write at a minor tick: at two and five of each decade, no more."""
    leading = f"{microseconds:.0e}"[0]
    return _time(microseconds) if leading in "25" else ""


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:g} s"
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:g} ms"
    return f"{microseconds:g} µs"


def _amount(count: float) -> str:
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:g} {unit}"
    return f"{count:g} B"
