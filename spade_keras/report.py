"""What a run found: one table on the terminal, one page with figures on disk.

Both are made from `metrics.json` by the same functions, so that they cannot disagree.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from spade_keras import __version__, figures
from spade_keras.errors import MissingExtraError
from spade_keras.stages import write_bytes_atomic

_ROWS = {
    "zero_filled": "zero-filled",
    "full": "full",
    "pruned": "slim, as pruned",
    "finetuned": "slim, fine-tuned",
    "from_scratch": "slim, from scratch",
    "fewer_iterations": "fewer iterations",
}
# Which network's cost a row shows: a network trained from scratch is as large as the slim one.
_COSTS = {"full": "full", "pruned": "slim", "finetuned": "slim", "from_scratch": "slim"}
_COLUMNS = ("", "PSNR / dB", "SSIM", "NMSE", "ms", "time", "params", "MACs")


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """Makes the table a run ends with.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        A rich table; its caption says whether the budget is met.
    """
    title, sentence = verdict(metrics)
    table = Table(
        title="Test slices, mean ± standard deviation; ms: exported, median; time: of full",
        caption=f"{title}: {sentence}",
        caption_justify="left",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    for row in table_rows(metrics):
        table.add_row(*row)
    return table


def verdict(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Says whether the exported slim network meets the budget.

    The budget counts as met when the upper end of the interval is within it.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        "Budget met" or "Budget not met", and a sentence with the measured ratio and its interval.
    """
    ratio, budget = metrics["exported_ratio"], metrics["latency_budget"]
    met = ratio["high"] <= budget
    sentence = (
        f"the exported slim network takes {ratio['value']:.3f} of the full network's time "
        f"(95 % interval {ratio['low']:.3f} to {ratio['high']:.3f}); allowed is {budget:g}."
    )
    return ("Budget met" if met else "Budget not met"), sentence


def table_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Formats one row per network that was evaluated.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        Rows of name, PSNR, SSIM, NMSE, latency, time relative to the full network, parameters and
        multiply-accumulates.
    """
    rows: list[tuple[str, ...]] = []
    for key, name in _ROWS.items():
        quality = metrics["quality"].get(key)
        if quality is not None:
            rows.append(
                (
                    name,
                    f"{quality['psnr_db']:.2f} ± {quality['psnr_db_std']:.2f}",
                    f"{quality['ssim']:.3f} ± {quality['ssim_std']:.3f}",
                    f"{quality['nmse']:.4f}",
                    *_costs(metrics, key),
                )
            )
    return rows


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
        _short(metrics["parameters"][network]),
        _short(metrics["macs"][network]),
    )


def write_report(
    folder: str | Path,
    *,
    metrics: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    widths: Sequence[Mapping[str, Any]],
    panel: Mapping[str, np.ndarray],
) -> Path:
    """Writes `report.html` and, beside it, its figures; each file appears whole or not at all.

    The page holds its figures, so that it can be sent alone.

    Args:
        folder: An existing folder.
        metrics: The content of `metrics.json`.
        trials: One dict per trial: "number", "state" ("feasible", "infeasible" or "failed"),
            "latency_ms", "latency_ratio", "ratio_low", "ratio_high", "quality", "origin",
            "widths", "chosen".
        widths: One dict per channel group: "group", "before", "after".
        panel: "truth", "zero_filled", "full", "finetuned" -> magnitudes `(height, width)`.

    Returns:
        The path of the page.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error

    folder = Path(folder)
    quality_name = metrics["search"]["quality"]
    drawn = {
        "tradeoff": figures.tradeoff(
            trials, latency_budget=metrics["latency_budget"], quality_name=quality_name
        ),
        "widths": figures.widths_before_after(widths),
        "pictures": figures.pictures(panel),
    }
    images = {name: figures.png(figure) for name, figure in drawn.items()}
    for name, data in images.items():
        write_bytes_atomic(folder / f"{name}.png", data)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    title, sentence = verdict(metrics)
    page = environment.get_template("report.html.jinja").render(
        name=folder.resolve().name,
        version=__version__,
        met=title == "Budget met",
        verdict=title,
        sentence=sentence,
        cards=_cards(metrics),
        columns=_COLUMNS,
        rows=table_rows(metrics),
        latencies=list(_latency_rows(metrics)),
        metrics=metrics,
        quality_name=quality_name,
        trials=[_trial_row(trial) for trial in trials],
        about=_about(metrics),
        error_gain=figures.ERROR_GAIN,
        fingerprint=list(_flat(metrics["fingerprint"])),
        images={name: base64.b64encode(data).decode() for name, data in images.items()},
    )
    path = folder / "report.html"
    write_bytes_atomic(path, page.encode())
    return path


def _cards(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    quality = metrics["quality"]
    change = quality["finetuned"]["psnr_db"] - quality["full"]["psnr_db"]
    gain = quality["full"]["psnr_db"] - quality["zero_filled"]["psnr_db"]
    ratio = metrics["exported_ratio"]
    cards = [
        ("time, exported", f"{ratio['value']:.3f}", f"of full; {1 / ratio['value']:.2f}x as fast"),
        (
            "PSNR change",
            f"{change:+.2f} dB",
            f"against full, which gains {gain:.2f} dB on zero-filled",
        ),
    ]
    for key, label in (("parameters", "parameters"), ("macs", "multiply-accumulates")):
        full, slim = metrics[key]["full"], metrics[key]["slim"]
        cards.append((label, f"{slim / full:.3f}", f"of full: {_short(slim)} of {_short(full)}"))
    return cards


def _about(metrics: Mapping[str, Any]) -> str:
    """The conventions behind the table."""
    rival = metrics.get("rivals", {}).get("fewer_iterations")
    sentences = [
        f"Quality: {metrics['convention']}",
        "ms: median latency of the exported model for the input shapes below",
        "time: relative to the full network; the slim widths trained from scratch cost the same",
        "MACs: multiply-accumulates of the prunable networks in all their calls, without Fourier "
        "transforms",
    ]
    if rival:
        sentences.insert(
            3,
            f"fewer iterations: the full network cut to {rival['iterations']}, its time measured "
            f"in Keras",
        )
    return ". ".join(sentences) + "."


def _latency_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    names = {"keras": "in Keras", "exported": "exported"}
    for where, name in names.items():
        for network in ("full", "slim"):
            time = metrics["latency_ms"][network][where]
            yield (
                f"{network}, {name}",
                f"{time['median']:.3f}",
                f"{time['q1']:.3f} to {time['q3']:.3f}",
            )


def _trial_row(trial: Mapping[str, Any]) -> tuple[Any, ...]:
    ratio, low, high = (trial.get(key) for key in ("latency_ratio", "ratio_low", "ratio_high"))
    interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    widths = trial.get("widths") or {}
    values = widths.values() if isinstance(widths, Mapping) else widths
    return (
        trial["number"],
        trial.get("origin") or "",
        "chosen" if trial["chosen"] else trial["state"],
        "" if ratio is None else f"{ratio:.3f}{interval}",
        "" if trial.get("quality") is None else f"{trial['quality']:.4g}",
        ", ".join(str(value) for value in values),
    )


def _short(count: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.3g}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}".replace("_", " "), _plain(str(key), value)


def _plain(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB ({value:,})"
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return "; ".join(" ".join(str(part) for part in item.values()) for item in value)
    return str(value)
