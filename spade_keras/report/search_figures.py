"""The figures of a search's trials. Each function takes plain data and draws, nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.report.figures import CHOSEN, FEASIBLE, GRID, INFEASIBLE, INK, styled
from spade_keras.report.search_summary import PARTS, Scale, Trial, front, judged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by marker as well as by color.
_ORIGINS = (
    (FEASIBLE, "o"),
    ("#009e73", "s"),
    ("#b4488c", "D"),
    ("#b7791f", "^"),
    ("#0e7490", "v"),
    ("#64748b", "P"),
)
_PART_COLORS = {
    "build": "#56b4e9",
    "compile": "#e69f00",
    "measure": "#2563eb",
    "evaluate": "#009e73",
    "overhead": INK,
}
_STRIP_MARKERS = {"infeasible": "|", "stopped": "x", "failed": "x"}
_UNSCORED = {"infeasible": "over budget", "stopped": "stopped early", "failed": "failed"}


def tradeoff(
    trials: Sequence[Trial], *, scale: Scale, quality_name: str, chosen: int | None = None
) -> Figure:
    """Draws quality against latency for all trials, with the budget and the front as lines.

    A trial that was rejected by its latency before its quality was computed stands on a strip
    below the axes.

    Args:
        trials: Dicts with "number", "state", "quality" and the keys `scale` names.
        scale: What the budget limits.
        quality_name: What the vertical axis shows, with its unit.
        chosen: Number of the trial that was taken.

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    timed = [trial for trial in trials if trial.get(scale.value) is not None]
    scored = judged(timed)
    rest = [trial for trial in scored if trial["number"] != chosen]
    rejected = [trial for trial in timed if trial.get("quality") is None]
    with styled(8, 4.8 if scored else 2.2) as figure:
        ratios = [10 if scored else 2, 1]
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        _draw_front(axes, scored, scale)
        for state, color in (("infeasible", INFEASIBLE), ("feasible", FEASIBLE)):
            _scatter(axes, [t for t in rest if t["state"] == state], scale, (color, "o", 7))
        _scatter(axes, [t for t in scored if t["number"] == chosen], scale, (CHOSEN, "*", 17))
        for part in (axes, strip):
            part.axvline(scale.limit, color=INK, linestyle="--", linewidth=1.2)
        ends = [scale.interval(trial) for trial in rejected]
        ys = np.zeros(len(rejected))
        strip.hlines(
            ys,
            [low for low, _ in ends],
            [high for _, high in ends],
            color=INFEASIBLE,
            linewidth=1,
            alpha=0.6,
        )
        for state, marker in _STRIP_MARKERS.items():
            values = [trial[scale.value] for trial in rejected if trial["state"] == state]
            look = {"color": INFEASIBLE, "markersize": 14 if marker == "|" else 7, "mew": 1.8}
            strip.plot(values, np.zeros(len(values)), marker, **look)
        left, right = _span(timed, scale)
        axes.set_xlim(left, right)
        axes.axvspan(scale.limit, right, color=GRID, alpha=0.5, linewidth=0)
        _quality_axis(axes, quality_name, empty=not scored)
        strip.set_yticks([0], ["not scored"], fontsize=8)
        strip.spines["left"].set_visible(False)
        strip.tick_params(axis="y", length=0)
        strip.set_xlabel(scale.label)
        _tradeoff_legend(figure, scale, chosen, {trial["state"] for trial in rejected})
        return figure


def history(trials: Sequence[Trial], *, quality_name: str, chosen: int | None = None) -> Figure:
    """Draws the quality of every trial in the order tried, by what proposed it, and the best yet.

    Args:
        trials: Dicts with "number", "state", "origin" and "quality".
        quality_name: What the vertical axis shows, with its unit.
        chosen: Number of the trial that was taken.

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    scored = [t for t in trials if t["state"] == "feasible" and t.get("quality") is not None]
    origins = list(dict.fromkeys(trial.get("origin") or "unknown" for trial in trials))
    states = [s for s in _UNSCORED if any(t["state"] == s for t in trials)]
    with styled(8, 4.2) as figure:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[9, 0.6 + 0.7 * len(states)])
        numbers = [trial["number"] for trial in scored]
        best = np.maximum.accumulate(np.array([trial["quality"] for trial in scored], float))
        axes.step(numbers, best, where="post", color=INK, linewidth=1, label="best yet")
        for index, origin in enumerate(origins):
            color, marker = _ORIGINS[min(index, len(_ORIGINS) - 1)]
            own = [t for t in scored if (t.get("origin") or "unknown") == origin]
            axes.plot(
                [t["number"] for t in own],
                [t["quality"] for t in own],
                marker,
                color=color,
                markeredgecolor="white",
                label=origin,
                zorder=3,
            )
        for taken in (trial for trial in scored if trial["number"] == chosen):
            axes.plot(
                taken["number"], taken["quality"], "*", color=CHOSEN, markersize=16, zorder=4,
                markeredgecolor="white", label="chosen",
            )  # fmt: skip
        for row, state in enumerate(states):
            own = [trial["number"] for trial in trials if trial["state"] == state]
            strip.plot(own, np.full(len(own), row), "|", color=INFEASIBLE, markersize=9, mew=1.5)
        strip.set_yticks(range(len(states)), [_UNSCORED[state] for state in states], fontsize=8)
        strip.set_ylim(len(states) - 0.4 if states else 1, -0.6)
        strip.spines["left"].set_visible(False)
        strip.tick_params(axis="y", length=0)
        strip.set_xlabel("trial")
        axes.locator_params(axis="x", integer=True)
        _quality_axis(axes, quality_name, empty=not scored)
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
        return figure


def time_split(split: Mapping[str, Any]) -> Figure:
    """Draws the seconds of every trial as a bar of its parts.

    Args:
        split: What `search_summary.time_split` returned.

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = split["trials"]
    numbers = [row["number"] for row in rows]
    bottom = np.zeros(len(rows))
    with styled(8, 3.4) as figure:
        axes = figure.subplots()
        for part in PARTS:
            seconds = np.array([row[part] for row in rows], float)
            axes.bar(numbers, seconds, 0.85, bottom=bottom, color=_PART_COLORS[part], label=part)
            bottom += seconds
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel("seconds")
        axes.grid(color=GRID, axis="y")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
        return figure


def _draw_front(axes: Any, scored: Sequence[Trial], scale: Scale) -> None:
    points = front(scored, scale.value)
    if len(points) > 1:
        axes.step(
            [trial[scale.value] for trial in points],
            [trial["quality"] for trial in points],
            where="post",
            color=FEASIBLE,
            linewidth=1.2,
            alpha=0.6,
        )


def _span(timed: Sequence[Trial], scale: Scale) -> tuple[float, float]:
    """Ends of the horizontal axis: a very uncertain trial's interval may run out of it."""
    values = [scale.limit, *(trial[scale.value] for trial in timed)]
    ends = [scale.limit, *(end for trial in timed for end in scale.interval(trial))]
    reach = 0.5 * (max(values) - min(values))
    left, right = max(min(ends), min(values) - reach), min(max(ends), max(values) + reach)
    margin = 0.04 * (right - left) + 0.01 * scale.limit
    return max(0.0, left - margin), right + margin


def _scatter(
    axes: Any, trials: Sequence[Trial], scale: Scale, look: tuple[str, str, float]
) -> None:
    color, marker, size = look
    values = np.array([trial[scale.value] for trial in trials], float)
    ends = np.array([scale.interval(trial) for trial in trials], float).reshape(-1, 2)
    axes.errorbar(
        values,
        [trial["quality"] for trial in trials],
        xerr=np.maximum(0, [values - ends[:, 0], ends[:, 1] - values]),
        fmt=marker,
        color=color,
        ecolor=color,
        elinewidth=1,
        markersize=size,
        markeredgecolor="white",
        zorder=3,
    )


def _quality_axis(axes: Any, quality_name: str, *, empty: bool) -> None:
    if empty:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no trial was scored", ha="center", transform=axes.transAxes)
        return
    axes.margins(y=0.12)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    # A long name on one line would run beyond the axis.
    axes.set_ylabel(textwrap.fill(quality_name, 30, break_long_words=False))


def _tradeoff_legend(figure: Any, scale: Scale, chosen: int | None, strip: set[str]) -> None:
    from matplotlib.lines import Line2D

    def handle(label: str, color: str, **look: Any) -> Any:
        return Line2D([], [], color=color, label=label, **{"linestyle": "", **look})

    handles = [handle("within budget", FEASIBLE, marker="o")]
    if chosen is not None:
        handles.append(handle("chosen", CHOSEN, marker="*", markersize=12))
    handles.append(handle("over budget", INFEASIBLE, marker="|", mew=2))
    if "stopped" in strip:
        handles.append(handle("stopped early", INFEASIBLE, marker="x", mew=2))
    handles.append(handle("front", FEASIBLE, linestyle="-", alpha=0.6))
    handles.append(handle(f"budget {scale.limit:.4g}", INK, linestyle="--"))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=6,
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handletextpad=0.5,
    )
