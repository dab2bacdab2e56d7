"""The report of a transfer: one table on the terminal, one page with its figure on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from spade_keras.files import write_bytes_atomic
from spade_keras.report import figures
from spade_keras.report.page import data_uri, short_count, table_of, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GONE = "#b4becc"
_NAMES = {"scratch": "from scratch"}
_PANELS = {"basis": "components pruned", "double": "channels, then components pruned"}
TRANSFER_COLUMNS = (
    "", "accuracy", "params", "left", "MACs", "left", "ms", "time", "95 % interval"
)  # fmt: skip


def transfer_table(metrics: Mapping[str, Any]) -> Table:
    """Returns the closing table of a transfer, from the content of `metrics.json`."""
    samples = metrics["samples"]
    return table_of(
        TRANSFER_COLUMNS,
        transfer_rows(metrics),
        title=f"Test data of the target task, {samples['test']} samples; {samples['train']} to "
        f"train on; ms: median for a batch of {metrics['batch_size']}; time: of original, "
        "interleaved",
        caption="original: transferred; basis: components pruned; channel: channels, to the same "
        "size; double: channels, then components. The original is timed against itself: how far "
        "that is from 1 is noise.",
    )


def transfer_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for every network that was compared, under `TRANSFER_COLUMNS`."""
    original = metrics["networks"]["original"]
    return [
        (
            _NAMES.get(name, name),
            f"{cost['accuracy']:.1%}",
            short_count(cost["parameters"]),
            f"{cost['parameters'] / original['parameters']:.1%}",
            short_count(cost["macs"]),
            f"{cost['macs'] / original['macs']:.1%}",
            f"{cost['ms']:.2f}",
            f"{cost['time_ratio']['value']:.2f}",
            f"{cost['time_ratio']['low']:.2f} to {cost['time_ratio']['high']:.2f}",
        )
        for name, cost in metrics["networks"].items()
    ]


def write_transfer_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` and `ranks.png` whole or not at all; returns the path of the page.

    Args:
        folder: An existing folder.
        metrics: The content of `metrics.json`.
    """
    folder = Path(folder)
    ranks = figures.png(rank_profile(metrics["ranks"]))
    path = write_page(
        folder,
        "transfer",
        name=folder.resolve().name,
        columns=TRANSFER_COLUMNS,
        rows=transfer_rows(metrics),
        metrics=metrics,
        ranks=data_uri(ranks),
    )
    write_bytes_atomic(folder / "ranks.png", ranks)
    return path


def rank_profile(ranks: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws, per layer, its components and those that stay, for both pruned networks.

    Args:
        ranks: One dict per layer in running order: "layer", "components", and per network
            ("basis", "double") the kept components "NAME", their number "NAME_of" after channel
            pruning, and "NAME_form" ("one" layer or a "pair").
    """
    rows = np.arange(len(ranks))
    whole = np.array([row["components"] for row in ranks], float)
    names = [str(row["layer"]) for row in ranks]
    with figures.styled(9, 1.5 + figures.row_height(len(ranks)) * len(ranks)) as figure:
        panels = figures.bar_rows(figure, names, len(_PANELS), sharex=True)
        for axes, (name, title) in zip(panels, _PANELS.items(), strict=True):
            left = np.array([row[f"{name}_of"] for row in ranks], float)
            kept = np.array([row[name] for row in ranks], float)
            paired = np.array([row[f"{name}_form"] == "pair" for row in ranks])
            for widths, height, color, label in (
                (whole, 0.7, figures.GRID, "of the original"),
                (np.where(left < whole, left, 0), 0.7, _GONE, "left when channels are gone"),
                (np.where(paired, kept, 0), 0.42, figures.FEASIBLE, "kept, as two layers"),
                (np.where(paired, 0, kept), 0.42, figures.CHOSEN, "kept, merged into one layer"),
            ):
                axes.barh(rows, widths, height=height, color=color, label=label)
            for row, (most, least) in enumerate(zip(whole, kept, strict=True)):
                axes.text(most, row, f"  {most:.0f} → {least:.0f}", va="center", fontsize=8)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("components")
        panels[0].set_xlim(0, 1.3 * float(whole.max(initial=1)))
        figures.legend(figure, 4, loc="outside lower center", fontsize=8)
        return figure
