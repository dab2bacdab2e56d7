"""The report of a run: one table on the terminal, one page with figures on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from spade_keras.files import write_bytes_atomic
from spade_keras.report import figures
from spade_keras.report.findings import SearchFindings
from spade_keras.report.page import data_uri, short_count, table_of, write_page
from spade_keras.report.search import search_sections

_BASELINES = {"zero_filled": "zero-filled", "interpolated": "interpolated"}
_ROWS = {
    **_BASELINES,
    "full": "full",
    "pruned": "slim, as pruned",
    "finetuned": "slim, fine-tuned",
    "from_scratch": "slim, from scratch",
    "fewer_iterations": "fewer iterations",
}
# The network whose cost a row shows: one trained from scratch has the size of the slim one.
_COSTS = {"full": "full", "pruned": "slim", "finetuned": "slim", "from_scratch": "slim"}
_IMAGE_COLUMNS = {"psnr_db": "PSNR / dB", "ssim": "SSIM", "nmse": "NMSE"}
# Columns of the page for which a terminal of 80 characters has no room.
_PAGE_ONLY = ("NMSE", "MACs")
# Digits of a score, and whether its standard deviation is shown.
_DIGITS = {"psnr_db": (2, True), "ssim": (3, True), "kspace_snr_db": (2, True)}


def columns(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the headings of the table: the task's scores ("columns" of `metrics`), then costs."""
    return "", *_scores(metrics).values(), "ms", "time", "params", "MACs", "train / s"


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """Returns the closing table of a run; its caption says whether the budget is met.

    Before that, in red, that quality was not kept.
    """
    title, sentence = verdict(metrics)
    warning, headings = _warning(metrics), columns(metrics)
    shown = [i for i, heading in enumerate(headings) if heading not in _PAGE_ONLY]
    return table_of(
        [headings[i] for i in shown],
        [[row[i] for i in shown] for row in table_rows(metrics)],
        title=f"Test data{_convention(metrics)}; ±: standard deviation; ms: exported, median; "
        "time: of full; train: seconds of training, those of the full network first",
        caption=Text.assemble(
            (f"{warning}\n" if warning else "", "bold red"),
            "\n".join(filter(None, [f"{title}: {sentence}", what_pruning_saves(metrics)])),
        ),
    )


def verdict(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Says whether the exported slim network meets the budget, in a title and a sentence.

    The budget counts as met when the upper end of the interval is within it. For a budget in words,
    such as "8ms", "exported_excess" is measured / allowed - 1 at that end.
    """
    ratio, budget = metrics["exported_ratio"], metrics["latency_budget"]
    if isinstance(budget, str):
        met = metrics["exported_excess"] <= 0
        slim = metrics["latency_ms"]["slim"]["exported"]
        took = f"a median of {slim['median']:.3g} ms, which is "
        allowed = metrics.get("budget", budget)
    else:
        met = ratio["high"] <= budget
        took = ""
        allowed = f"{budget:g}"
    sentence = (
        f"the exported slim network takes {took}{ratio['value']:.3f} of the full network's time "
        f"(95 % interval {ratio['low']:.3f} to {ratio['high']:.3f}); allowed is {allowed}."
    )
    return ("Budget met" if met else "Budget not met"), sentence


def _warning(metrics: Mapping[str, Any]) -> str | None:
    """What the receipt says of a quality that was not kept."""
    return metrics.get("search", {}).get("chosen", {}).get("warning")


def table_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for every network that was evaluated, under `columns`."""
    scores = _scores(metrics)
    return [
        (
            name,
            *(_score(quality, key) for key in scores),
            *_costs(metrics, network),
            " + ".join(f"{s:.0f}" for s in metrics.get("training_seconds", {}).get(network, ())),
        )
        for network, name in _ROWS.items()
        if (quality := metrics["quality"].get(network)) is not None
    ]


def what_pruning_saves(metrics: Mapping[str, Any]) -> str:
    """Says what a small network reaches from scratch in all the time of the full one.

    Empty unless the record of the full network's weights ("pretrained") tells of such a network.
    """
    half = (metrics.get("pretrained") or {}).get("half_width_from_scratch")
    if half is None:
        return ""
    scores = ", ".join(
        f"{heading} {_score(half['scores'], key)}" for key, heading in _scores(metrics).items()
    )
    return (
        f"Given all of the full network's training, {half['steps']} steps from scratch "
        f"({half['seconds']:.0f} s when the weights were made), a network of half the widths "
        f"reaches {scores}. What pruning saves is training and, with school, ground truth."
    )


def _scores(metrics: Mapping[str, Any]) -> Mapping[str, str]:
    return metrics.get("columns") or _IMAGE_COLUMNS


def _convention(metrics: Mapping[str, Any]) -> str:
    """The name of the convention, to be appended to a score."""
    name = metrics.get("convention_name")
    return f" (convention {name})" if name else ""


def _score(quality: Mapping[str, float], key: str) -> str:
    digits, spread = _DIGITS.get(key, (4, False))
    value = f"{quality[key]:.{digits}f}"
    return f"{value} ± {quality[f'{key}_std']:.{digits}f}" if spread else value


def _costs(metrics: Mapping[str, Any], key: str) -> tuple[str, str, str, str]:
    if key == "fewer_iterations":
        ratio = metrics.get("rivals", {}).get(key, {}).get("ratio")
        return "", f"{ratio['value']:.3f}" if ratio else "", "", ""
    if key not in _COSTS:
        return "", "", "", ""
    network = _COSTS[key]
    ratio = 1 if network == "full" else metrics["exported_ratio"]["value"]
    return (
        f"{metrics['latency_ms'][network]['exported']['median']:.2f}",
        f"{ratio:.3f}",
        short_count(metrics["parameters"][network]),
        short_count(metrics["macs"][network]),
    )


def write_report(
    folder: str | Path,
    metrics: Mapping[str, Any],
    found: SearchFindings,
    *,
    panel: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Writes `report.html` and `pictures.png`; each file appears whole or not at all.

    The page holds its figures, so it can be sent alone.

    Args:
        folder: An existing folder.
        metrics: The content of `metrics.json`.
        found: The search.
        panel: "truth", where it is known, a baseline, "full", "finetuned" -> pictures
            `(height, width)`; None where the network does not make images.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    pictures = None if panel is None else figures.png(figures.pictures(panel))
    title, sentence = verdict(metrics)
    path = write_page(
        folder,
        "run",
        name=folder.resolve().name,
        met=title == "Budget met",
        verdict=title,
        warning=_warning(metrics),
        sentence=sentence,
        change=_change(metrics),
        columns=columns(metrics),
        rows=table_rows(metrics),
        metrics=metrics,
        convention=_convention(metrics),
        saving=what_pruning_saves(metrics),
        error_gain=figures.ERROR_GAIN,
        compared_with="truth" if panel is None or "truth" in panel else "full network",
        search=search_sections(found),
        pictures=pictures and data_uri(pictures),
    )
    if pictures is not None:
        write_bytes_atomic(folder / "pictures.png", pictures)
    return path


def _change(metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    """The change of the task's first score between full and slim network, as a card."""
    quality = metrics["quality"]
    key, heading = next(iter(_scores(metrics).items()))
    name, _, unit = heading.partition(" / ")
    full, digits = quality["full"][key], _DIGITS.get(key, (4, False))[0]

    def written(value: float, sign: str = "") -> str:
        return f"{value:{sign}.{digits}f} {unit}".strip()

    name = f"{name} change{_convention(metrics)}"
    change = written(quality["finetuned"][key] - full, "+")
    baseline = next((baseline for baseline in _BASELINES if baseline in quality), None)
    if baseline is None:
        return name, change, f"against full, {written(full)}"
    gain = written(full - quality[baseline][key])
    return name, change, f"against full, which gains {gain} on {_BASELINES[baseline]}"
