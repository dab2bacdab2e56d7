"""What a search found: sentences and a table on the terminal, one page, one JSON file.

All three are made from the same values, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from spade_keras import __version__
from spade_keras.files import write_bytes_atomic, write_json_atomic
from spade_keras.report.page import template
from spade_keras.report.search_sections import (
    counts_words,
    flat,
    front_row,
    search_sections,
    time_words,
)
from spade_keras.report.search_summary import (
    Scale,
    SearchFindings,
    bottleneck,
    fastest,
    front,
    full_widths,
    group_profile,
    percent,
    staircases,
    state_counts,
    time_split,
)
from spade_keras.report.search_verdict import search_verdict

_FRONT_ROWS = 12


def search_overview(
    result: Mapping[str, Any],
    table: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
) -> Group:
    """Makes what a search ends with on the terminal.

    Args:
        result: `SearchResult.as_dict()`.
        table: `LayerTable.as_dict()`, or None.
        receipt: The latency receipt, or None.

    Returns:
        Verdict, front and time spent; prints in 80 columns.
    """
    findings = SearchFindings(result, table, receipt)
    verdict = search_verdict(findings)
    color = {"met": "green", "open": "yellow", "missed": "red"}[verdict.status]
    parts: list[Any] = [Text(verdict.title, style=f"bold {color}"), *map(Text, verdict.sentences)]
    points = front(findings.trials)
    if points:
        parts.append(_front_table(findings, points))
    parts.append(Text(f"{counts_words(findings)} {time_words(findings)}", style="dim"))
    return Group(*parts)


def summarize_search(findings: SearchFindings) -> dict[str, Any]:
    """Returns what the page says as plain JSON values.

    Args:
        findings: The search.

    Returns:
        "verdict" ("status", "title", "sentences"), "budget" (in words), "quality_name",
        "counts" per state, "chosen" and "front" (trials), "groups" (rows of
        `search_summary.group_profile`), "bottleneck" (of the chosen trial, or of the fastest),
        "staircases" and "seconds" ("total" and "median" per part).
    """
    verdict = search_verdict(findings)
    taken = findings.taken
    split = time_split(findings.trials)
    return {
        "verdict": {
            "status": verdict.status,
            "title": verdict.title,
            "sentences": list(verdict.sentences),
        },
        "budget": Scale.of(findings.result["budget"]).budget,
        "quality_name": findings.result["quality_name"],
        "counts": state_counts(findings.trials),
        "chosen": None if taken is None else dict(taken),
        "front": [dict(trial) for trial in front(findings.trials)],
        "groups": group_profile(findings, taken or fastest(findings.trials)),
        "bottleneck": bottleneck(findings, taken or fastest(findings.trials)),
        "staircases": staircases(findings.table),
        "seconds": {"total": split["total"], "median": split["median"]},
    }


def write_search_report(  # noqa: PLR0913 - what a search leaves behind, one by one
    folder: str | Path,
    result: Mapping[str, Any],
    table: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
    front_panels: Sequence[Mapping[str, Any]] | None = None,
    *,
    importances: Mapping[str, Sequence[float]] | None = None,
    chosen: int | None = None,
    finalists: Sequence[Mapping[str, Any]] = (),
    title: str | None = None,
) -> Path:
    """Writes `report.html`, which opens offline, and `report.json`, which says the same.

    Each file appears whole or not at all.

    Args:
        folder: An existing folder.
        result: `SearchResult.as_dict()`.
        table: `LayerTable.as_dict()`; None leaves out staircases and times of groups.
        receipt: The latency receipt; None where no plan was accepted.
        front_panels: See `SearchFindings`; None or empty: the slider shows the front's trials in
            numbers.
        importances: See `SearchFindings`; None leaves out importance.
        chosen: See `SearchFindings`.
        finalists: See `SearchFindings`.
        title: Heading of the page; by default the folder's name.

    Returns:
        The path of the page.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    template_of_page = template("search_report.html.jinja")  # before anything is drawn in vain
    folder = Path(folder)
    findings = SearchFindings(
        result, table, receipt, front_panels or (), importances or {}, chosen, finalists
    )
    verdict = search_verdict(findings)
    page = template_of_page.render(
        name=title or folder.resolve().name,
        version=__version__,
        verdict=verdict,
        cards=list(_cards(findings)),
        search=search_sections(findings),
        receipt=None if receipt is None else list(_receipt_rows(receipt)),
        fingerprint=list(flat((receipt or result).get("fingerprint") or {})),
    )
    path = folder / "report.html"
    write_json_atomic(folder / "report.json", summarize_search(findings))
    write_bytes_atomic(path, page.encode())
    return path


def _front_table(findings: SearchFindings, points: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="The front: no other trial is both faster and better",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column, justify in (("trial", "right"), ("latency / full", "left"), ("ms", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("quality", justify="right", no_wrap=True)
    table.add_column("keeps")
    taken = findings.taken
    step = max(1, -(-len(points) // _FRONT_ROWS))
    kept = [
        point
        for index, point in enumerate(reversed(points))
        if index % step == 0 or (taken is not None and point["number"] == taken["number"])
    ]
    for point in reversed(kept):
        number, _, ratio, time, quality, keeps = front_row(findings, point)
        mark = "*" if taken is not None and point["number"] == taken["number"] else ""
        table.add_row(f"{mark}{number}", ratio, time, quality, keeps)
    table.caption = f"Quality: {findings.result['quality_name']}." + (
        " *: chosen." if taken else ""
    )
    table.caption_justify = "left"
    return table


def _cards(findings: SearchFindings) -> Iterator[tuple[str, str, str]]:
    receipt, shown = findings.receipt, findings.taken or fastest(findings.trials)
    counts = state_counts(findings.trials)
    if receipt is not None:
        ratio, full, slim = receipt["ratio"], *(receipt["latency"][k] for k in ("full", "slim"))
        yield (
            "time, measured again",
            f"{ratio['value']:.3f}",
            f"of full; {1 / ratio['value']:.2f}x as fast",
        )
        yield "median", f"{slim['median_ms']:.3g} ms", f"full: {full['median_ms']:.3g} ms"
    elif shown is not None:
        name = "chosen" if findings.taken else "fastest"
        yield (
            f"time, {name} trial",
            f"{shown['latency_ratio']:.3f}",
            "of full, as timed in the search",
        )
    if shown is not None and shown.get("quality") is not None:
        yield "quality in the search", f"{shown['quality']:.4g}", findings.result["quality_name"]
    full = full_widths(findings.result)
    if shown is not None and full:
        kept = sum(shown["widths"].get(group, width) for group, width in full.items())
        yield "channels", percent(kept / sum(full.values())), f"{kept} of {sum(full.values())}"
    yield "trials", str(counts["total"]), f"{counts['feasible']} within the budget"


def _receipt_rows(receipt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "measured", str(receipt["date"])
    yield "spade-keras", str(receipt["spade_keras"])
    for name in ("full", "slim"):
        latency = receipt["latency"][name]
        yield (
            f"{name}, median",
            f"{latency['median_ms']:.3f} ms (quartiles {latency['q1_ms']:.3f} to "
            f"{latency['q3_ms']:.3f}; p99 {latency['p99_ms']:.3f})",
        )
    for name in ("full", "slim"):
        yield from flat(receipt["files"][name], f"{name} ")
    if receipt.get("digest"):
        yield "digest", str(receipt["digest"])
