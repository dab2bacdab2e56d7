"""The figures of a report. Each function takes plain data and draws, nothing else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR_GAIN = 5
FEASIBLE, INFEASIBLE, CHOSEN = "#2563eb", "#94a3b8", "#ea580c"
_INK, _GRID = "#1e293b", "#e2e8f0"
_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def tradeoff(
    trials: Sequence[Mapping[str, Any]], *, latency_budget: float, quality_name: str
) -> Figure:
    """Draws quality against latency for all trials, with the budget as a line.

    An infeasible trial was rejected by its latency before its quality was computed: it stands on a
    strip below the axes.

    Args:
        trials: Dicts with "state", "latency_ratio", "ratio_low", "ratio_high", "quality", "chosen".
        latency_budget: Largest allowed latency, as a fraction of the full network's.
        quality_name: What the vertical axis shows, with its unit.

    Returns:
        The figure; `png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    timed = [trial for trial in trials if trial.get("latency_ratio") is not None]
    scored = [
        trial for trial in timed if trial["state"] == "feasible" and trial["quality"] is not None
    ]
    rejected = [trial for trial in timed if trial["state"] == "infeasible"]
    with _figure(8, 4.8) as figure:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[10, 1])
        _scatter(axes, [trial for trial in scored if not trial["chosen"]], FEASIBLE, "o", 7)
        _scatter(axes, [trial for trial in scored if trial["chosen"]], CHOSEN, "*", 17)
        for part in (axes, strip):
            part.axvline(latency_budget, color=_INK, linestyle="--", linewidth=1.2)
        axes.axvspan(latency_budget, 1e3, color=_GRID, alpha=0.5, linewidth=0)
        strip.hlines(
            np.zeros(len(rejected)),
            [_ends(trial)[0] for trial in rejected],
            [_ends(trial)[1] for trial in rejected],
            color=INFEASIBLE,
            linewidth=1,
            alpha=0.6,
        )
        strip.plot(
            [trial["latency_ratio"] for trial in rejected],
            np.zeros(len(rejected)),
            "|",
            color=INFEASIBLE,
            markersize=14,
            mew=1.8,
        )
        everything = [latency_budget, *(end for trial in timed for end in _ends(trial))]
        margin = 0.04 * (max(everything) - min(everything)) + 0.01
        axes.set_xlim(min(everything) - margin, max(everything) + margin)
        axes.margins(y=0.12)
        axes.grid(color=_GRID)
        axes.set_axisbelow(True)
        axes.set_ylabel(quality_name)
        strip.set_yticks([0], ["over budget,\nnot scored"], fontsize=8)
        strip.spines["left"].set_visible(False)
        strip.tick_params(axis="y", length=0)
        strip.set_xlabel("measured latency / full network's latency")
        _tradeoff_legend(figure, latency_budget)
        return figure


def widths_before_after(widths: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the width of every channel group before and after.

    Args:
        widths: Dicts with "group", "before" and "after".

    Returns:
        The figure; `png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = np.arange(len(widths))
    before = np.array([row["before"] for row in widths], float)
    after = np.array([row["after"] for row in widths], float)
    with _figure(8, 1.1 + 0.36 * len(widths)) as figure:
        axes = figure.subplots()
        axes.barh(rows, before, height=0.7, color=_GRID, label="before")
        axes.barh(rows, after, height=0.7, color=FEASIBLE, label="after")
        for row, (old, new) in enumerate(zip(before, after, strict=True)):
            axes.text(old, row, f"  {old:.0f} → {new:.0f}", va="center", fontsize=9)
        axes.set_yticks(rows, [str(row["group"]) for row in widths])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(before, default=1))
        axes.set_xlabel("channels")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        return figure


def pictures(panel: Mapping[str, np.ndarray]) -> Figure:
    """Draws truth and reconstructions over their error maps, all on one stated scale.

    Args:
        panel: "truth", "zero_filled", "full" and "finetuned" -> magnitudes `(height, width)`.

    Returns:
        The figure; `png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    titles = {
        "truth": "truth",
        "zero_filled": "zero-filled",
        "full": "full network",
        "finetuned": "slim network",
    }
    truth = np.asarray(panel["truth"], "float64")
    top = float(truth.max()) or 1.0
    rows, columns = truth.shape
    with _figure(9.2, 0.5 + 2 * 2.05 * rows / columns) as figure:
        grid = figure.subplots(2, len(titles))
        for column, (key, title) in enumerate(titles.items()):
            image = np.asarray(panel[key], "float64")
            shown = grid[0, column].imshow(image, cmap="gray", vmin=0, vmax=top)
            grid[0, column].set_title(title, fontsize=10)
            if key != "truth":
                error = error_map(image, truth)
                errors = grid[1, column].imshow(error, cmap="magma", vmin=0, vmax=top)
        for axes in grid.flat:
            axes.set_axis_off()
        grid[1, 0].text(
            0.5,
            0.5,
            f"{ERROR_GAIN} x |difference\nfrom truth|",
            ha="center",
            va="center",
            transform=grid[1, 0].transAxes,
        )
        figure.colorbar(shown, ax=list(grid[0]), label="magnitude", shrink=0.85, pad=0.01)
        figure.colorbar(
            errors, ax=list(grid[1]), label=f"{ERROR_GAIN} x |error|", shrink=0.85, pad=0.01
        )
        return figure


def png(figure: Figure) -> bytes:
    """Renders a figure as a PNG file.

    Args:
        figure: What one of the functions above returned.

    Returns:
        The file's content.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


def error_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns ERROR_GAIN * |image - truth|.

    Args:
        image: A magnitude image.
        truth: The true magnitudes, same shape.

    Returns:
        The amplified absolute difference.
    """
    return ERROR_GAIN * np.abs(np.asarray(image, "float64") - np.asarray(truth, "float64"))


def _scatter(
    axes: Any, trials: Sequence[Mapping[str, Any]], color: str, marker: str, size: float
) -> None:
    ratios = np.array([trial["latency_ratio"] for trial in trials], float)
    ends = np.array([_ends(trial) for trial in trials], float).reshape(-1, 2)
    axes.errorbar(
        ratios,
        [trial["quality"] for trial in trials],
        xerr=np.maximum(0, [ratios - ends[:, 0], ends[:, 1] - ratios]),
        fmt=marker,
        color=color,
        ecolor=color,
        elinewidth=1,
        markersize=size,
        markeredgecolor="white",
        zorder=3,
    )


def _tradeoff_legend(figure: Any, latency_budget: float) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], color=FEASIBLE, marker="o", linestyle="", label="within budget"),
            Line2D([], [], color=CHOSEN, marker="*", markersize=12, linestyle="", label="chosen"),
            Line2D([], [], color=INFEASIBLE, marker="|", mew=2, linestyle="", label="over budget"),
            Line2D([], [], color=_INK, linestyle="--", label=f"budget {latency_budget:g}"),
        ],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )


def _ends(trial: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a trial's latency ratio; the ratio itself where there is none."""
    low, high = trial.get("ratio_low"), trial.get("ratio_high")
    ratio = trial["latency_ratio"]
    return (ratio if low is None else low), (ratio if high is None else high)


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the report's style, without pyplot's global state."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")
