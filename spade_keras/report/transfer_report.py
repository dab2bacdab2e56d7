"""What a transfer found: one table on the terminal, one page with its figure on disk.

Both are made from `metrics.json` by the same functions, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from spade_keras import __version__
from spade_keras.files import write_bytes_atomic
from spade_keras.report import figures
from spade_keras.report.page import data_uri, template
from spade_keras.report.rank_figures import rank_profile
from spade_keras.report.run_report import short_count
from spade_keras.report.search_sections import flat

_NAMES = {"scratch": "from scratch"}
TRANSFER_COLUMNS = (
    "", "accuracy", "params", "left", "MACs", "left", "ms", "time", "95 % interval"
)  # fmt: skip


def transfer_table(metrics: Mapping[str, Any]) -> Table:
    """Makes the table a transfer ends with.

    Args:
        metrics: The content of `metrics.json`; "networks", "samples" and "batch_size" are read.

    Returns:
        A rich table.
    """
    samples = metrics["samples"]
    table = Table(
        title=f"Test data of the target task, {samples['test']} samples; {samples['train']} to "
        f"train on; ms: median for a batch of {metrics['batch_size']}; time: of original, in turn",
        caption="original: transferred; basis: components pruned; channel: channels, to the same "
        "size; double: channels, then components. The original is timed against itself: how far "
        "that is from 1 is noise.",
        caption_justify="left",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(TRANSFER_COLUMNS):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in transfer_rows(metrics):
        table.add_row(*row)
    return table


def transfer_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Formats one row per network that was compared, under `TRANSFER_COLUMNS`.

    Args:
        metrics: The content of `metrics.json`.
    """
    networks = metrics["networks"]
    original = networks["original"]
    rows: list[tuple[str, ...]] = []
    for name, cost in networks.items():
        ratio = cost["time_ratio"]
        rows.append(
            (
                _NAMES.get(name, name),
                f"{cost['accuracy']:.1%}",
                short_count(cost["parameters"]),
                f"{cost['parameters'] / original['parameters']:.1%}",
                short_count(cost["macs"]),
                f"{cost['macs'] / original['macs']:.1%}",
                f"{cost['ms']:.2f}",
                f"{ratio['value']:.2f}",
                f"{ratio['low']:.2f} to {ratio['high']:.2f}",
            )
        )
    return rows


def write_transfer_report(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `report.html` and, beside it, `ranks.png`; each appears whole or not at all.

    Args:
        folder: An existing folder.
        metrics: The content of `metrics.json`.

    Returns:
        The path of the page.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    page = template("transfer_report.html.jinja")  # before anything is drawn in vain
    folder = Path(folder)
    ranks = figures.png(rank_profile(metrics["ranks"]))
    text = page.render(
        name=folder.resolve().name,
        version=__version__,
        cards=_cards(metrics),
        columns=TRANSFER_COLUMNS,
        rows=transfer_rows(metrics),
        metrics=metrics,
        exports=_export_rows(metrics),
        pruning=_pruning_rows(metrics),
        fingerprint=list(flat(metrics["fingerprint"])),
        ranks=data_uri(ranks),
    )
    write_bytes_atomic(folder / "ranks.png", ranks)
    path = folder / "report.html"
    write_bytes_atomic(path, text.encode())
    return path


def _cards(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    networks = metrics["networks"]
    original = networks["original"]
    cards = []
    for name in ("basis", "double"):
        cost = networks[name]
        loss = 100 * (original["accuracy"] - cost["accuracy"])
        removed = 1 - cost["parameters"] / original["parameters"]
        cards.append((f"{name}: parameters removed", f"{removed:.1%}", f"{loss:+.1f} points lost"))
        ratio = cost["time_ratio"]
        interval = f"95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"
        cards.append((f"{name}: time of original", f"{ratio['value']:.2f}", interval))
    return cards


def _export_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, found in metrics["export"].items():
        ratio = found["ratio"]
        rows.append(
            (
                name,
                f"{ratio['value']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                f"{found['max_abs_error']:.1e}",
            )
        )
    return rows


def _pruning_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per phase of pruning: epochs, those that met the allowed loss, components."""
    rows: list[tuple[str, ...]] = []
    for name, phases in metrics["rounds"].items():
        for index, rounds in enumerate(phases):
            met = [entry for entry in rounds if entry["met"]]
            left = met[-1]["components"] if met else rounds[0]["components"]
            rows.append(
                (
                    f"{name}, phase {index + 1}",
                    str(len(rounds)),
                    str(len(met)),
                    f"{rounds[0]['components']} → {left}",
                )
            )
    return rows
