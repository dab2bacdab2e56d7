"""The figures of a network's channel groups. Each takes plain data and draws, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.report.figures import CHOSEN, FEASIBLE, GRID, INFEASIBLE, row_height, styled
from spade_keras.report.search_summary import group_ms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_STAIRCASES = 24


def group_costs(profile: Sequence[Mapping[str, Any]], *, name: str = "chosen") -> Figure:
    """Draws, per group, the time of its layers and how much time and importance stay.

    Args:
        profile: Rows of `search_summary.group_profile` with times; those whose
            "importance_kept" is None show no importance.
        name: What to call the configuration they were made for.

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = np.arange(len(profile))
    height = row_height(len(profile))
    before = np.array([row["ms_before"] for row in profile], float)
    after = np.array([row["ms_after"] for row in profile], float)
    kept = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    importance = np.array([row["importance_kept"] for row in profile], float)
    known = np.isfinite(importance)
    with styled(8.6, 1.3 + height * len(profile)) as figure:
        bars, shares = figure.subplots(1, 2, sharey=True, width_ratios=[1.1, 1])
        bars.barh(rows, before, height=0.7, color=GRID, label="time, full network")
        bars.barh(rows, after, height=0.7, color=FEASIBLE, label=f"time, {name}")
        shares.hlines(rows[known], kept[known], importance[known], color=INFEASIBLE, linewidth=1.5)
        shares.plot(kept, rows, "o", color=FEASIBLE, markersize=7, label="share of time kept")
        if known.any():
            look = {"color": CHOSEN, "markersize": 6, "label": "share of importance kept"}
            shares.plot(importance[known], rows[known], "D", **look)
        bars.set_yticks(rows, [str(row["group"]) for row in profile], fontsize=28 * height)
        bars.set_ylim(len(profile) - 0.4, -0.6)
        bars.set_xlabel("ms of the group's layers")
        shares.set_xlabel("share that stays")
        shares.set_xlim(0, max(1.05, 1.05 * float(kept.max(initial=1))))
        shares.grid(color=GRID, axis="both")
        shares.set_axisbelow(True)
        for axes in (bars, shares):
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        return figure


def staircases(
    steps: Mapping[str, Mapping[str, Sequence[float]]],
    widths: Mapping[str, int],
    *,
    name: str = "chosen",
) -> Figure:
    """Draws, per group, the time of its layers against its width, with the edges that were kept.

    Args:
        steps: Group -> "widths", "latency_ms" and "edges"; of many groups the slowest
            `MAX_STAIRCASES` are drawn.
        widths: Width of every group in the configuration to mark.
        name: What to call it.

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    slowest = sorted(steps, key=lambda group: -max(steps[group]["latency_ms"]))[:MAX_STAIRCASES]
    drawn = [group for group in steps if group in slowest]
    columns = min(4, max(1, len(drawn)))
    lines = -(-len(drawn) // columns)
    with styled(max(4.5, 2.3 * columns), 0.8 + 1.75 * lines) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        for axes, group in zip(grid.flat, drawn, strict=False):
            _draw_staircase(axes, steps[group], widths.get(group), name)
            axes.set_title(_title(group), fontsize=8)
        figure.supxlabel("channels", fontsize=10)
        figure.supylabel("ms of the group's layers", fontsize=10)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        return figure


def _draw_staircase(
    axes: Any, step: Mapping[str, Sequence[float]], marked: int | None, name: str
) -> None:
    order = np.argsort(step["widths"])
    widths = np.asarray(step["widths"])[order]
    times = np.asarray(step["latency_ms"], float)[order]
    edges = np.isin(widths, step["edges"])
    axes.plot(widths, times, color=INFEASIBLE, linewidth=1, zorder=1)
    look = {"linestyle": "", "marker": "o", "markersize": 5, "color": FEASIBLE}
    axes.plot(widths[~edges], times[~edges], **look, markerfacecolor="white", label="timed")
    axes.plot(widths[edges], times[edges], **look, label="kept edge")
    if marked is not None:
        axes.plot(
            marked, group_ms(step, marked), "*", color=CHOSEN, markersize=13,
            markeredgecolor="white", label=name, zorder=4,
        )  # fmt: skip
    axes.set_ylim(0, 1.15 * float(times.max(initial=1e-9)))
    axes.set_xlim(0, 1.06 * float(widths.max(initial=1)))
    axes.tick_params(labelsize=8)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def _title(name: str, length: int = 27) -> str:
    """A long name on two lines; of a very long one, its ends."""
    if len(name) > 2 * length:
        name = f"{name[:length]}…{name[-(length - 1) :]}"
    return "\n".join(name[start : start + length] for start in range(0, len(name), length))
