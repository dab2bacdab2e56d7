"""The style of a report's figures, and those of any run. Each takes plain data and draws."""

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
FEASIBLE, INFEASIBLE, CHOSEN = "#2563eb", "#7c8ba1", "#ea580c"
INK, GRID = "#1e293b", "#e2e8f0"
_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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
    height = row_height(len(widths))
    before = np.array([row["before"] for row in widths], float)
    after = np.array([row["after"] for row in widths], float)
    with styled(8, 1.1 + height * len(widths)) as figure:
        axes = figure.subplots()
        axes.barh(rows, before, height=0.7, color=GRID, label="before")
        axes.barh(rows, after, height=0.7, color=FEASIBLE, label="after")
        for row, (old, new) in enumerate(zip(before, after, strict=True)):
            axes.text(old, row, f"  {old:.0f} → {new:.0f}", va="center", fontsize=25 * height)
        axes.set_yticks(rows, [str(row["group"]) for row in widths], fontsize=28 * height)
        axes.set_ylim(-0.6, len(widths) - 0.4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(before, default=1))
        axes.set_xlabel("channels")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        return figure


def row_height(rows: int) -> float:
    """Returns the inches that each of many rows may take: 0.36, less where there are many."""
    return min(0.36, max(0.22, 9 / max(rows, 1)))


def pictures(panel: Mapping[str, np.ndarray]) -> Figure:
    """Draws reconstructions over their error maps, all on one stated scale.

    Where no truth is known, the maps show the differences from the full network instead.

    Args:
        panel: "truth", if it is known, "zero_filled" or "interpolated", "full" and "finetuned" ->
            magnitudes `(height, width)`.

    Returns:
        The figure; `png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    titles = {key: title for key, title in _TITLES.items() if key in panel}
    reference = "truth" if "truth" in panel else "full"
    truth = np.asarray(panel[reference], "float64")
    top = float(truth.max()) or 1.0
    rows, columns = truth.shape
    with styled(9.2, 0.5 + 2 * 2.05 * rows / columns) as figure:
        grid = figure.subplots(2, len(titles))
        for column, (key, title) in enumerate(titles.items()):
            image = np.asarray(panel[key], "float64")
            shown = grid[0, column].imshow(image, cmap="gray", vmin=0, vmax=top)
            grid[0, column].set_title(title, fontsize=10)
            if key != reference:
                error = error_map(image, truth)
                errors = grid[1, column].imshow(error, cmap="magma", vmin=0, vmax=top)
        for axes in grid.flat:
            axes.set_axis_off()
        beside = grid[1, list(titles).index(reference)]
        beside.text(
            0.5,
            0.5,
            f"{ERROR_GAIN} x |difference\nfrom {_TITLES[reference]}|",
            ha="center",
            va="center",
            transform=beside.transAxes,
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


@contextlib.contextmanager
def styled(width: float, height: float) -> Iterator[Figure]:
    """Gives a figure in the report's style, without pyplot's global state.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")
