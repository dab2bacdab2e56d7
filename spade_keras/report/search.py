"""The report of a search: sentences and a table on the terminal, one page, one JSON file.

All three are made from one `SearchFindings`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spade_keras.files import write_json_atomic
from spade_keras.report import figures, front
from spade_keras.report.findings import (
    PARTS,
    GroupProfile,
    SearchFindings,
    joint_choices,
    ratio_words,
    search_verdict,
    time_split,
)
from spade_keras.report.page import counted, data_uri, flat, interval, percent, table_of, write_page

if TYPE_CHECKING:
    from spade_keras.search import TrialRecord

_FRONT_ROWS = 12
_COUNTED = {
    "feasible": "within the budget",
    "infeasible": "over it",
    "stopped": "stopped early",
    "failed": "failed",
}
_ENDINGS = {
    "trials": "the number of trials asked for was reached",
    "timeout": "the time allowed was over",
    "stagnation": "nothing better had come for long",
}


def search_overview(findings: SearchFindings) -> Group:
    """Returns the closing overview of a search: verdict, front and time, in 80 columns."""
    verdict = search_verdict(findings)
    color = {"met": "green", "open": "yellow", "missed": "red"}[verdict.status]
    parts: list[Any] = [Text(verdict.warning, style="bold red")] if verdict.warning else []
    parts += [Text(verdict.title, style=f"bold {color}"), *map(Text, verdict.sentences)]
    if findings.result.front:
        parts.append(_front_table(findings))
    seconds = time_split(findings.result.trials)["total"]
    spent = ", ".join(f"{part} {seconds[part]:.1f}" for part in PARTS)
    known = f" Seconds: {spent}." if any(seconds.values()) else ""
    return Group(*parts, Text(f"{_counts(findings)}{known}", style="dim"))


def summarize_search(findings: SearchFindings) -> dict[str, Any]:
    """Returns the content of the page as plain JSON values.

    "groups" and "bottleneck" are those of the chosen trial, or else of the fastest.
    """
    result, taken, shown = findings.result, findings.taken, findings.shown
    split = time_split(result.trials)
    return {
        "verdict": asdict(search_verdict(findings)),
        "budget": str(result.budget),
        "quality_name": result.quality_name,
        "counts": result.counts(),
        "chosen": taken and taken.as_dict(),
        "front": [trial.as_dict() for trial in result.front],
        "groups": [asdict(row) for row in findings.groups(shown)],
        "bottleneck": findings.bottleneck(shown),
        "staircases": {group: step.as_dict() for group, step in findings.staircases.items()},
        "seconds": {"total": split["total"], "median": split["median"]},
    }


def write_search_report(
    folder: str | Path, findings: SearchFindings, *, title: str | None = None
) -> Path:
    """Writes `report.html`, which opens offline, and `report.json`, which says the same.

    Each file appears whole or not at all.

    Args:
        folder: An existing folder.
        findings: The search; sections without content are left out.
        title: Heading of the page; by default the folder's name.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    path = write_page(
        folder,
        "search",
        name=title or folder.resolve().name,
        verdict=search_verdict(findings),
        search=search_sections(findings),
        measured=list(_measured_rows(findings)),
    )
    write_json_atomic(folder / "report.json", summarize_search(findings))
    return path


def search_sections(findings: SearchFindings) -> dict[str, Any]:
    """Returns the values that `search_sections.html.jinja` shows."""
    result, taken = findings.result, findings.taken
    budget = result.budget
    groups = findings.groups(findings.shown)
    costs = [row for row in groups if row.ms_before is not None]
    split = time_split(result.trials)
    trials = [(trial, _trial_row(findings, trial)) for trial in result.trials]
    return {
        "findings": findings,
        "images": {
            name: data_uri(figures.png(figure))
            for name, figure in _figures(findings, groups, costs, split)
        },
        "counts": _counts(findings),
        "target": budget.as_time(budget.target) if budget.safety_margin else None,
        "shown_as": "chosen" if taken else "fastest",
        "bottleneck": findings.bottleneck(findings.shown),
        "importance_known": any(row.importance_kept is not None for row in costs),
        "costs": [_cost_row(row) for row in costs],
        "undrawn": max(0, len(findings.staircases) - figures.MAX_STAIRCASES),
        "front": [(*_trial_row(findings, t), findings.changes(t)) for t in result.front],
        "finalists": [
            (
                finalist.trial,
                "met the budget" if finalist.accepted else "missed the budget",
                interval(finalist.ratio.value, finalist.ratio.low, finalist.ratio.high),
                _number(finalist.quality, 4),
            )
            for finalist in findings.finalists
        ],
        "readers": _reader_rows(findings),
        "slider": front.slider(findings),
        "seconds": split,
        "trials": [
            (row[0], trial.origin, *row[1:], trial.reason or str(trial.configuration))
            for trial, row in trials
        ],
        "joint": findings.changes(taken) if taken and joint_choices(taken) else "",
    }


def _reader_rows(findings: SearchFindings) -> list[tuple[str, ...]]:
    """The errors of the layers that read removed channels, as the accepted plan states them."""
    plan = findings.receipt and findings.receipt.plan
    return [
        (x.name, str(x.inputs), f"{x.before:.2%}", f"{x.after:.2%}", x.note)
        for x in (plan.reader_errors if plan else ())
    ]


def _figures(
    findings: SearchFindings,
    groups: list[GroupProfile],
    costs: list[GroupProfile],
    split: Mapping[str, Any],
) -> Iterator[tuple[str, Any]]:
    """Yields those figures for which there is something to show."""
    result, taken, shown = findings.result, findings.taken, findings.shown
    name, number = ("chosen", taken.number) if taken else ("fastest", None)
    if shown:
        yield "tradeoff", front.tradeoff(result, chosen=number)
    if taken:
        yield "history", figures.history(result, chosen=number)
    if groups:
        yield "widths", figures.widths_before_after(groups)
    if costs:
        yield "costs", figures.group_costs(costs, name=name)
    if findings.staircases:
        widths = shown.widths if shown else {}
        yield "staircases", figures.staircases(findings.staircases, widths, name=name)
    if split["trials"]:
        yield "seconds", figures.seconds(split)


def _counts(findings: SearchFindings) -> str:
    """Says how many trials ended in which state, and why the search ended."""
    counts = findings.result.counts()
    said = [f"{counts[s]} {words}" for s, words in _COUNTED.items() if counts[s] or s == "feasible"]
    ending = _ENDINGS.get(findings.result.ended_by)
    ended = f" The search ended because {ending}." if ending else ""
    return f"{counted(counts['total'], 'trial')}: {', '.join(said)}.{ended}"


def _front_table(findings: SearchFindings) -> Table:
    points = findings.result.front
    step = max(1, -(-len(points) // _FRONT_ROWS))
    rows = []
    for index, point in enumerate(points):
        # Counted from the slow end, so that the best quality is always among those shown.
        if (len(points) - 1 - index) % step == 0 or findings.is_taken(point):
            number, _, *numbers = _trial_row(findings, point)
            mark = "*" if findings.is_taken(point) else ""
            rows.append((f"{mark}{number}", *numbers, findings.changes(point)))
    chosen = " *: chosen." if findings.taken else ""
    return table_of(
        ("trial", "latency / full", "ms", "quality", "keeps"),
        rows,
        words=-1,
        gap=1,
        title="The front: no other trial is both faster and better",
        caption=f"Quality: {findings.result.quality_name}.{chosen}",
    )


def _measured_rows(findings: SearchFindings) -> Iterator[tuple[str, str]]:
    """What the times were measured with: as the receipt says, else as the search does."""
    receipt = findings.receipt
    if receipt is None:
        yield from flat(findings.result.fingerprint)
        return
    yield "measured", receipt.date
    yield "spade-keras", receipt.version
    for name, time in (("full", receipt.comparison.a), ("slim", receipt.comparison.b)):
        quartiles = f"quartiles {time.q1_ms:.3f} to {time.q3_ms:.3f}"
        yield f"{name}, median", f"{time.median_ms:.3f} ms ({quartiles}; p99 {time.p99_ms:.3f})"
    for name, file in (("full", receipt.full), ("slim", receipt.slim)):
        yield from flat(asdict(file), f"{name} ")
    yield "digest", receipt.digest
    yield from flat(receipt.fingerprint)


def _trial_row(findings: SearchFindings, trial: TrialRecord) -> tuple[str, ...]:
    """Number, state, ratio, milliseconds and quality."""
    return (
        str(trial.number),
        "chosen" if findings.is_taken(trial) else trial.state,
        ratio_words(trial),
        _number(None if trial.timing is None else trial.timing.latency_ms, 3),
        _number(trial.quality, 4),
    )


def _cost_row(row: GroupProfile) -> tuple[str, ...]:
    before, after = row.ms_before or 0.0, row.ms_after or 0.0
    return (
        row.group,
        f"{row.before} → {row.after}",
        f"{before:.3g}",
        f"{after:.3g}",
        percent(after / before if before else 1.0),
        "" if row.importance_kept is None else percent(row.importance_kept),
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}g}"
