"""What the sections of a page on a search show: pictures, rows and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spade_keras.report import figures, group_figures, search_figures
from spade_keras.report.front_slider import slider
from spade_keras.report.page import data_uri
from spade_keras.report.search_summary import (
    PARTS,
    Scale,
    SearchFindings,
    Trial,
    bottleneck,
    changes,
    counted,
    fastest,
    front,
    group_profile,
    joint_choices,
    percent,
    ratio_words,
    staircases,
    state_counts,
    time_split,
)

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


def search_sections(findings: SearchFindings) -> dict[str, Any]:
    """Returns what `search_sections.html.jinja` shows.

    Args:
        findings: The search.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    trials, taken = findings.trials, findings.taken
    scale = Scale.of(findings.result["budget"])
    shown = taken or fastest(trials)
    profile = group_profile(findings, shown)
    costs = [row for row in profile if row["ms_before"] is not None]
    steps, split = staircases(findings.table), time_split(trials)
    along = slider(findings)
    return {
        "images": {
            name: data_uri(figures.png(figure))
            for name, figure in _figures(findings, profile, split)
        },
        "counts": counts_words(findings),
        "target": scale.target if scale.target != scale.limit else None,
        "intervals": scale.ends is not None,
        "quality_name": str(findings.result["quality_name"]),
        "shown": None if shown is None else f"trial {shown['number']}",
        "shown_as": "chosen" if taken else "fastest",
        "bottleneck": bottleneck(findings, shown),
        "importance_known": any(row["importance_kept"] is not None for row in costs),
        "costs": [_cost_row(row) for row in costs],
        "stair_rows": [(g, ", ".join(str(e) for e in s["edges"])) for g, s in steps.items()],
        "undrawn": max(0, len(steps) - group_figures.MAX_STAIRCASES),
        "front": [front_row(findings, trial) for trial in front(trials)],
        "finalists": [_finalist_row(finalist) for finalist in findings.finalists],
        "slider": along,
        "panels": bool(findings.front_panels),
        "why_no_pictures": None
        if along is None or along["image_top"] is not None
        else "No pictures: none were handed to this report, or the model does not make images.",
        "seconds": [(p, split["total"][p], split["median"][p]) for p in PARTS],
        "trials": [_trial_row(findings, trial) for trial in trials],
        "joint": bool(taken and joint_choices(taken)),
        "joint_words": changes(findings, taken) if taken else "",
    }


def _figures(
    findings: SearchFindings, profile: Sequence[Mapping[str, Any]], split: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yields those figures for which there is something to show."""
    trials, taken = findings.trials, findings.taken
    quality_name = str(findings.result["quality_name"])
    shown = taken or fastest(trials)
    name, number = ("chosen", taken["number"]) if taken else ("fastest", None)
    if shown:
        scale = Scale.of(findings.result["budget"])
        yield (
            "tradeoff",
            search_figures.tradeoff(trials, scale=scale, quality_name=quality_name, chosen=number),
        )
    if taken:
        yield "history", search_figures.history(trials, quality_name=quality_name, chosen=number)
    if profile:
        yield "widths", figures.widths_before_after(profile)
    costs = [row for row in profile if row["ms_before"] is not None]
    if costs:
        yield "costs", group_figures.group_costs(costs, name=name)
    if steps := staircases(findings.table):
        widths = shown["widths"] if shown else {}
        yield "staircases", group_figures.staircases(steps, widths, name=name)
    if split["trials"]:
        yield "seconds", search_figures.time_split(split)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the entries of a fingerprint as names and values for people.

    Args:
        values: May hold mappings.
        prefix: Put before every name.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}".replace("_", " "), _plain(str(key), value)


def _plain(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB ({value:,})"
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return "; ".join(" ".join(str(part) for part in item.values()) for item in value)
    return str(value)


def counts_words(findings: SearchFindings) -> str:
    """Says how many trials ended in which state, and why the search ended."""
    counts = state_counts(findings.trials)
    told = [f"{counts[s]} {words}" for s, words in _COUNTED.items() if counts[s] or s == "feasible"]
    ending = _ENDINGS.get(findings.result.get("ended_by") or "")
    ended = f" The search ended because {ending}." if ending else ""
    return f"{counted(counts['total'], 'trial')}: {', '.join(told)}.{ended}"


def time_words(findings: SearchFindings) -> str:
    """Says where the time of the search went, or nothing where that is not known."""
    total = time_split(findings.trials)["total"]
    if not any(total.values()):
        return ""
    return "Seconds: " + ", ".join(f"{part} {total[part]:.1f}" for part in PARTS) + "."


def front_row(findings: SearchFindings, trial: Trial) -> tuple[str, ...]:
    """Returns number, state, ratio, milliseconds, quality and size of a judged trial."""
    taken = findings.taken
    return (
        str(trial["number"]),
        "chosen" if taken is not None and trial["number"] == taken["number"] else trial["state"],
        ratio_words(trial),
        f"{trial['latency_ms']:.3g}",
        f"{trial['quality']:.4g}",
        changes(findings, trial),
    )


def _trial_row(findings: SearchFindings, trial: Trial) -> tuple[str, ...]:
    taken = findings.taken
    chosen = taken is not None and trial["number"] == taken["number"]
    widths = ", ".join(f"{group} {width}" for group, width in trial["widths"].items())
    return (
        str(trial["number"]),
        str(trial.get("origin") or ""),
        "chosen" if chosen else str(trial["state"]),
        ratio_words(trial),
        "" if trial.get("latency_ms") is None else f"{trial['latency_ms']:.3g}",
        "" if trial.get("quality") is None else f"{trial['quality']:.4g}",
        str(trial["reason"])
        if trial.get("reason")
        else "; ".join(filter(None, (widths, joint_choices(trial)))),
    )


def _finalist_row(finalist: Mapping[str, Any]) -> tuple[str, ...]:
    ratio, quality = finalist["ratio"], finalist.get("quality")
    return (
        str(finalist["trial"]),
        "met the budget" if finalist["accepted"] else "missed the budget",
        f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        "" if quality is None else f"{quality:.4g}",
    )


def _cost_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    kept = row["ms_after"] / row["ms_before"] if row["ms_before"] else 1.0
    return (
        str(row["group"]),
        f"{row['before']} → {row['after']}",
        f"{row['ms_before']:.3g}",
        f"{row['ms_after']:.3g}",
        percent(kept),
        "" if row["importance_kept"] is None else percent(row["importance_kept"]),
    )
