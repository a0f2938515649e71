"""Pictures of how a training run went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from remote_env_agents.display import duration
from remote_env_agents.run_folder import ProgressRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_learning_curve"]

_INK: Final = "#2b2f36"
_FAINT: Final = "#9aa1ab"
_GRID: Final = "#e6e8eb"
_TRAINING: Final = "#2f5fb3"
_EVALUATION: Final = "#d9622b"


def plot_learning_curve(path: Path, rows: Sequence[ProgressRow], *, title: str = "") -> None:
    """Draw success rate, if the robot says it, and return against steps.

    Args:
        path: Of the picture; its ending says which kind, such as .png.
        rows: Of the training, as ``read_progress`` returns them.
        title: Above it.
    """
    # Not pyplot: it keeps figures, and may want a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    has_success = any(row.success_rate is not None for row in rows)
    panels = 2 if has_success else 1
    figure = Figure(figsize=(7.2, 1.3 + 2.3 * panels), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    figure.suptitle(title, x=0.015, ha="left", fontsize=13, fontweight="bold", color=_INK)
    if has_success:
        _draw_success(axes[0], rows)
        axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _draw_return(axes[-1], rows)
    for axis in axes:
        _style(axis)
    axes[-1].xaxis.set_major_formatter(FuncFormatter(_thousands))
    took = f"{rows[-1].step:,} steps in {duration(rows[-1].seconds)}" if rows else ""
    axes[-1].set_xlabel(f"steps of all robots together ({took})", color=_INK, fontsize=9)
    figure.savefig(path, facecolor="white")


def _draw_success(axis: Axes, rows: Sequence[ProgressRow]) -> None:
    _line(axis, rows, "success_rate", "last 100 episodes, exploring")
    seen = [row for row in rows if row.evaluation_success_rate is not None]
    if seen:
        rates = [row.evaluation_success_rate or 0.0 for row in seen]
        low = [rate - (row.evaluation_low or 0.0) for rate, row in zip(rates, seen, strict=True)]
        high = [(row.evaluation_high or 0.0) - rate for rate, row in zip(rates, seen, strict=True)]
        axis.errorbar(
            [row.step for row in seen],
            rates,
            yerr=[low, high],
            fmt="o-",
            markersize=4.5,
            capsize=2.5,
            linewidth=1.0,
            color=_EVALUATION,
            label="evaluation, with 95 % interval",
        )
    axis.set_ylim(-0.03, 1.06)
    axis.set_title("success rate", loc="left", fontsize=10, color=_INK)
    _explain(axis)


def _draw_return(axis: Axes, rows: Sequence[ProgressRow]) -> None:
    _line(axis, rows, "episode_return", "last 100 episodes, exploring")
    seen = [row for row in rows if row.evaluation_return is not None]
    if seen:
        axis.plot(
            [row.step for row in seen],
            [row.evaluation_return or 0.0 for row in seen],
            "o-",
            markersize=4.5,
            linewidth=1.0,
            color=_EVALUATION,
            label="evaluation",
        )
    axis.margins(y=0.14)
    axis.set_title("return of an episode", loc="left", fontsize=10, color=_INK)
    if all(row.success_rate is None for row in rows):
        _explain(axis)  # else it stands above


def _explain(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        # Above the panel: inside it would hide something, wherever it stood.
        axis.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=2,
            frameon=False,
            fontsize=8.5,
            labelcolor=_INK,
            borderaxespad=0.1,
        )


def _line(axis: Axes, rows: Sequence[ProgressRow], name: str, label: str) -> None:
    known = [(row.step, getattr(row, name)) for row in rows if getattr(row, name) is not None]
    if not known:
        return
    steps, values = zip(*known, strict=True)
    axis.plot(steps, values, color=_TRAINING, linewidth=1.8, label=label, solid_capstyle="round")
    axis.plot(steps[-1:], values[-1:], "o", color=_TRAINING, markersize=3.5)


def _style(axis: Axes) -> None:
    axis.set_xlim(left=0)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_FAINT)
    axis.tick_params(colors=_INK, labelsize=8.5, length=0)


def _thousands(value: float, position: Any = None) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
