"""The style of a report's figures, and those of widths, trials, layers and pictures."""

from __future__ import annotations

import contextlib
import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.errors import importing
from spade_keras.report.findings import PARTS, GroupProfile, group_ms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_keras.latency import Staircase
    from spade_keras.search import SearchResult

ERROR_GAIN = 5
MAX_STAIRCASES = 24
FEASIBLE, INFEASIBLE, CHOSEN = "#2563eb", "#7c8ba1", "#ea580c"
INK, GRID = "#1e293b", "#e2e8f0"
_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": "#94a3b8",
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_TITLES = {
    "truth": "truth",
    "zero_filled": "zero-filled",
    "interpolated": "interpolated",
    "full": "full network",
    "finetuned": "slim network",
}
# Markers differ too, for readers who cannot tell the colors apart.
_ORIGINS = tuple(
    zip((FEASIBLE, "#009e73", "#b4488c", "#b7791f", "#0e7490", "#64748b"), "osD^vP", strict=True)
)
_PART_COLORS = dict(zip(PARTS, ("#56b4e9", "#e69f00", "#2563eb", "#009e73", INK), strict=True))
_UNSCORED = {"infeasible": "over budget", "stopped": "stopped early", "failed": "failed"}


@contextlib.contextmanager
def styled(width: float, height: float) -> Iterator[Figure]:
    """Gives a figure of that size in inches and in the report's style, without pyplot's state."""
    with importing("matplotlib", "report"):
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """Renders a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


def bar_rows(figure: Figure, names: Sequence[str], columns: int = 1, **options: Any) -> list[Any]:
    """Returns axes side by side with one named row per bar, the first on top."""
    panels = list(figure.subplots(1, columns, sharey=True, squeeze=False, **options)[0])
    for axes in panels:
        name_rows(axes, names, fontsize=28 * row_height(len(names)))
    return panels


def name_rows(axes: Any, names: Sequence[str], *, fontsize: float = 8) -> None:
    """Names the rows of axes, the first on top, in place of the vertical axis."""
    axes.set_yticks(range(len(names)), names, fontsize=fontsize)
    axes.set_ylim(len(names) - 0.4 if names else 1, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def legend(figure: Figure, columns: int, **options: Any) -> None:
    """Puts a legend of everything that has a label above the figure, each label once."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place = {"loc": "outside upper center", "ncols": columns, "frameon": False, **options}
    figure.legend(handles.values(), handles.keys(), **place)


def row_height(rows: int) -> float:
    """Returns the inches of a row: 0.36, less where there are many."""
    return min(0.36, max(0.22, 9 / max(rows, 1)))


def widths_before_after(groups: Sequence[GroupProfile]) -> Figure:
    """Draws the width of every channel group before and after."""
    rows = np.arange(len(groups))
    height = row_height(len(groups))
    before = np.array([row.before for row in groups], float)
    after = np.array([row.after for row in groups], float)
    with styled(8, 1.1 + height * len(groups)) as figure:
        [axes] = bar_rows(figure, [row.group for row in groups])
        axes.barh(rows, before, height=0.7, color=GRID, label="before")
        axes.barh(rows, after, height=0.7, color=FEASIBLE, label="after")
        for row, (old, new) in enumerate(zip(before, after, strict=True)):
            axes.text(old, row, f"  {old:.0f} → {new:.0f}", va="center", fontsize=25 * height)
        axes.set_xlim(0, 1.15 * max(before, default=1))
        axes.set_xlabel("channels")
        legend(figure, 2)
        return figure


def group_costs(groups: Sequence[GroupProfile], *, name: str = "chosen") -> Figure:
    """Draws, per group that was timed, its layers' time and how much time and importance stay."""
    rows = np.arange(len(groups))
    before = np.array([row.ms_before for row in groups], float)
    after = np.array([row.ms_after for row in groups], float)
    kept = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    importance = np.array([row.importance_kept for row in groups], float)
    known = np.isfinite(importance)
    with styled(8.6, 1.3 + row_height(len(groups)) * len(groups)) as figure:
        bars, shares = bar_rows(figure, [row.group for row in groups], 2, width_ratios=[1.1, 1])
        bars.barh(rows, before, height=0.7, color=GRID, label="time, full network")
        bars.barh(rows, after, height=0.7, color=FEASIBLE, label=f"time, {name}")
        shares.hlines(rows[known], kept[known], importance[known], color=INFEASIBLE, linewidth=1.5)
        shares.plot(kept, rows, "o", color=FEASIBLE, markersize=7, label="share of time kept")
        if known.any():
            look = {"color": CHOSEN, "markersize": 6, "label": "share of importance kept"}
            shares.plot(importance[known], rows[known], "D", **look)
        bars.set_xlabel("ms of the group's layers")
        shares.set_xlabel("share that stays")
        shares.set_xlim(0, max(1.05, 1.05 * float(kept.max(initial=1))))
        _grid(shares)
        legend(figure, 2)
        return figure


def staircases(
    steps: Mapping[str, Staircase], widths: Mapping[str, int], *, name: str = "chosen"
) -> Figure:
    """Draws the time of a group's layers over its width, with the edges that were kept.

    Args:
        steps: Group -> times; of many groups the slowest `MAX_STAIRCASES` are drawn.
        widths: Width of every group in the configuration to mark.
        name: Name of that configuration in the legend.
    """
    slowest = sorted(steps, key=lambda group: -max(steps[group].latency_ms))[:MAX_STAIRCASES]
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
        legend(figure, 3)
        return figure


def history(result: SearchResult, *, chosen: int | None = None) -> Figure:
    """Draws the quality of every trial in order, by its origin, and the best so far.

    Args:
        result: The search.
        chosen: Number of the trial that was taken.
    """
    trials = result.trials
    scored = [t for t in trials if t.state == "feasible" and t.quality is not None]
    states = [s for s in _UNSCORED if any(t.state == s for t in trials)]
    with styled(8, 4.2) as figure:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[9, 0.6 + 0.7 * len(states)])
        best = np.maximum.accumulate(np.array([t.quality for t in scored], float))
        numbers = [t.number for t in scored]
        axes.step(numbers, best, where="post", color=INK, linewidth=1, label="best yet")
        origins = dict.fromkeys(t.origin for t in trials)
        looks = itertools.chain(_ORIGINS, itertools.repeat(_ORIGINS[-1]))
        marks = [
            ([t for t in scored if t.origin == origin], origin, *look)
            for origin, look in zip(origins, looks, strict=False)
        ]
        marks.append(([t for t in scored if t.number == chosen], "chosen", CHOSEN, "*"))
        for own, label, color, marker in (mark for mark in marks if mark[0]):
            look = {"color": color, "markersize": 16 if marker == "*" else 6, "label": label}
            points = [t.number for t in own], [t.quality for t in own]
            axes.plot(*points, marker, markeredgecolor="white", zorder=3, **look)
        for row, state in enumerate(states):
            numbers = [t.number for t in trials if t.state == state]
            rows = np.full(len(numbers), row)
            strip.plot(numbers, rows, "|", color=INFEASIBLE, markersize=9, mew=1.5)
        name_rows(strip, [_UNSCORED[state] for state in states])
        strip.set_xlabel("trial")
        axes.locator_params(axis="x", integer=True)
        quality_axis(axes, result.quality_name, empty=not scored)
        legend(figure, 5)
        return figure


def seconds(split: Mapping[str, Any]) -> Figure:
    """Draws the seconds of every trial, as `findings.time_split` returns them, part by part."""
    rows = split["trials"]
    numbers = [row["number"] for row in rows]
    bottom = np.zeros(len(rows))
    with styled(8, 3.4) as figure:
        axes = figure.subplots()
        for part in PARTS:
            spent = np.array([row[part] for row in rows], float)
            axes.bar(numbers, spent, 0.85, bottom=bottom, color=_PART_COLORS[part], label=part)
            bottom += spent
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel("seconds")
        _grid(axes, "y")
        legend(figure, 5)
        return figure


def pictures(panel: Mapping[str, np.ndarray]) -> Figure:
    """Draws reconstructions over their error maps, all on one stated scale.

    Where no truth is known, the maps show the differences from the full network instead.

    Args:
        panel: "truth", if it is known, "zero_filled" or "interpolated", "full" and "finetuned" ->
            magnitudes `(height, width)`.
    """
    titles = {key: title for key, title in _TITLES.items() if key in panel}
    reference = "truth" if "truth" in panel else "full"
    truth = np.asarray(panel[reference], "float64")
    top = float(truth.max()) or 1.0
    rows, columns = truth.shape
    gain = f"{ERROR_GAIN} x |error|"
    with styled(9.2, 0.5 + 2 * 2.05 * rows / columns) as figure:
        grid = figure.subplots(2, len(titles))
        for column, (key, title) in enumerate(titles.items()):
            image = np.asarray(panel[key], "float64")
            shown = grid[0, column].imshow(image, cmap="gray", vmin=0, vmax=top)
            grid[0, column].set_title(title, fontsize=10)
            if key != reference:
                error = ERROR_GAIN * np.abs(image - truth)
                errors = grid[1, column].imshow(error, cmap="magma", vmin=0, vmax=top)
        for axes in grid.flat:
            axes.set_axis_off()
        beside = grid[1, list(titles).index(reference)]
        words = f"{ERROR_GAIN} x |difference\nfrom {_TITLES[reference]}|"
        beside.text(0.5, 0.5, words, ha="center", va="center", transform=beside.transAxes)
        figure.colorbar(shown, ax=list(grid[0]), label="magnitude", shrink=0.85, pad=0.01)
        figure.colorbar(errors, ax=list(grid[1]), label=gain, shrink=0.85, pad=0.01)
        return figure


def quality_axis(axes: Any, name: str, *, empty: bool) -> None:
    """Names and scales the vertical axis of a plot over quality; says so where it is empty."""
    if empty:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no trial was scored", ha="center", transform=axes.transAxes)
        return
    axes.margins(y=0.12)
    _grid(axes)
    # A long name on one line would run beyond the axis.
    axes.set_ylabel(textwrap.fill(name, 30, break_long_words=False))


def _grid(axes: Any, axis: str = "both") -> None:
    axes.grid(color=GRID, axis=axis)
    axes.set_axisbelow(True)


def _draw_staircase(axes: Any, step: Staircase, marked: int | None, name: str) -> None:
    widths, times = np.asarray(step.widths), np.asarray(step.latency_ms, float)
    edges = np.isin(widths, step.edges)
    axes.plot(widths, times, color=INFEASIBLE, linewidth=1, zorder=1)
    look = {"linestyle": "", "marker": "o", "markersize": 5, "color": FEASIBLE}
    axes.plot(widths[~edges], times[~edges], **look, markerfacecolor="white", label="timed")
    axes.plot(widths[edges], times[edges], **look, label="kept edge")
    if marked is not None:
        look = {"color": CHOSEN, "markersize": 13, "markeredgecolor": "white", "zorder": 4}
        axes.plot(marked, group_ms(step, marked), "*", **look, label=name)
    axes.set_ylim(0, 1.15 * float(times.max(initial=1e-9)))
    axes.set_xlim(0, 1.06 * float(widths.max(initial=1)))
    axes.tick_params(labelsize=8)
    _grid(axes)


def _title(name: str, length: int = 27) -> str:
    """A long name on two lines; of a very long one, its ends."""
    if len(name) > 2 * length:
        name = f"{name[:length]}…{name[-(length - 1) :]}"
    return "\n".join(name[start : start + length] for start in range(0, len(name), length))
