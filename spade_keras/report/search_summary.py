"""What a search found, in plain values: the numbers behind its figures, its table and its page.

Everything is made from JSON values (`SearchResult.as_dict()`, `LayerTable.as_dict()` and a latency
receipt), so that a report can be made again from a run's files alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PARTS = ("build", "compile", "measure", "evaluate", "overhead")
"""Where the time of a trial goes."""

STATES = ("feasible", "infeasible", "stopped", "failed")
"""How a trial may end."""

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class SearchFindings:
    """What a report on a search is made from.

    Attributes:
        result: `SearchResult.as_dict()`.
        table: `LayerTable.as_dict()`, or None where no layer was timed alone.
        receipt: The latency receipt of the plan that was accepted, or None.
        front_panels: One dict per point of the front that was evaluated: "label",
            "latency_ratio", "quality", and, for images, "image" and "error", both
            `(height, width)`.
        importances: Group -> importance of each of its channels.
        chosen: Number of the trial that was taken; None: the one of the receipt, or the feasible
            one of the best quality unless all finalists were rejected.
        finalists: One dict per trial that was measured again: "trial" (its number), "accepted",
            "ratio" ("value", "low", "high") and "quality" (None: not judged).
    """

    result: Mapping[str, Any]
    table: Mapping[str, Any] | None = None
    receipt: Mapping[str, Any] | None = None
    front_panels: Sequence[Mapping[str, Any]] = ()
    importances: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen: int | None = None
    finalists: Sequence[Mapping[str, Any]] = ()

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials, in the order of their numbers."""
        return self.result["trials"]

    @property
    def taken(self) -> Trial | None:
        """The trial that was taken, or None if nothing met the budget."""
        if self.chosen is not None:
            return next(trial for trial in self.trials if trial["number"] == self.chosen)
        if self.receipt is not None:
            wanted = self.receipt["configuration"]
            same = [t for t in judged(self.trials) if t.get("configuration") == wanted]
            if same:
                return same[0]
        if self.rejected:
            return None
        scored = [trial for trial in judged(self.trials) if trial["state"] == "feasible"]
        return max(scored, key=lambda trial: trial["quality"], default=None)

    @property
    def rejected(self) -> bool:
        """Whether trials were measured again and none of them was accepted."""
        return bool(self.finalists) and not any(f["accepted"] for f in self.finalists)


@dataclass(frozen=True)
class Scale:
    """The quantity a budget limits, as the horizontal axis of a figure.

    Attributes:
        value: Key of a trial under which the quantity stands.
        ends: Keys of its 95 % interval; None where a trial keeps no interval of it.
        label: What the axis shows, with its unit.
        limit: The budget itself.
        target: The limit less the search's safety margin.
        budget: The budget in words.
    """

    value: str
    ends: tuple[str, str] | None
    label: str
    limit: float
    target: float
    budget: str

    @classmethod
    def of(cls, budget: Mapping[str, Any]) -> Scale:
        """Reads a `LatencyBudget` as a dict.

        Args:
            budget: One of "fraction", "median_ms", "p99_ms" and "throughput" is a number;
                "safety_margin" and "batch_size" may be missing.
        """
        kept = 1 - budget.get("safety_margin", 0)
        batch = budget.get("batch_size", 1)
        conditions = f" at batch size {batch}" if batch > 1 else ""
        if budget.get("dtype"):
            conditions += f" in {budget['dtype']}"
        if budget.get("fraction") is not None:
            limit = budget["fraction"]
            return cls(
                "latency_ratio",
                ("ratio_low", "ratio_high"),
                "median latency / full network's",
                limit,
                limit * kept,
                f"{limit:g} of the full network's latency{conditions}",
            )
        if budget.get("p99_ms") is not None:
            limit = budget["p99_ms"]
            words = f"p99 of at most {limit:g} ms{conditions}"
            return cls("p99_ms", None, f"p99 latency{conditions} / ms", limit, limit * kept, words)
        label = f"median latency{conditions} / ms"
        if budget.get("median_ms") is not None:
            limit = budget["median_ms"]
            words = f"median of at most {limit:g} ms{conditions}"
            return cls("latency_ms", None, label, limit, limit * kept, words)
        limit = 1e3 * batch / budget["throughput"]
        words = f"at least {budget['throughput']:g} samples per second{conditions}"
        return cls("latency_ms", None, label, limit, limit * kept, words)

    def interval(self, trial: Trial) -> tuple[float, float]:
        """Returns the ends of a trial's interval; the value twice where it has none."""
        value = trial[self.value]
        low, high = (trial.get(end) for end in self.ends) if self.ends else (None, None)
        return (value if low is None else low), (value if high is None else high)


def timed(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials whose latency was measured."""
    return [trial for trial in trials if trial.get("latency_ratio") is not None]


def judged(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials whose latency and quality are both known."""
    return [trial for trial in timed(trials) if trial.get("quality") is not None]


def front(trials: Sequence[Trial], value: str = "latency_ratio") -> list[Trial]:
    """Returns the judged trials that no other beats in both time and quality, the fastest first.

    Args:
        trials: All trials.
        value: Key of the time.
    """
    kept: list[Trial] = []
    for trial in sorted(judged(trials), key=lambda trial: (trial[value], -trial["quality"])):
        if not kept or trial["quality"] > kept[-1]["quality"]:
            kept.append(trial)
    return kept


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """Returns the trial with the smallest ratio, or None if none was timed."""
    return min(timed(trials), key=lambda trial: trial["latency_ratio"], default=None)


def full_widths(result: Mapping[str, Any]) -> dict[str, int]:
    """Returns the full width of every group that was searched."""
    edges = (result.get("space") or {}).get("edges") or {}
    if edges:
        return {group: max(widths) for group, widths in edges.items()}
    full: dict[str, int] = {}
    for trial in result["trials"]:
        for group, width in trial["widths"].items():
            full[group] = max(width, full.get(group, 0))
    return full


def staircases(table: Mapping[str, Any] | None) -> dict[str, dict[str, list[float]]]:
    """Returns, per group, the "widths" that were timed, their "latency_ms" and the "edges"."""
    return {} if table is None else dict(table.get("staircases") or {})


def group_ms(staircase: Mapping[str, Sequence[float]], width: int) -> float:
    """Returns what a group's layers take at a width.

    Between two widths that were timed, the wider one's time: times are not interpolated over a
    step.

    Args:
        staircase: "widths" and "latency_ms".
        width: A width of that group.
    """
    order = np.argsort(staircase["widths"])
    widths = np.asarray(staircase["widths"], float)[order]
    times = np.asarray(staircase["latency_ms"], float)[order]
    return float(times[min(int(np.searchsorted(widths, width)), len(times) - 1)])


def group_profile(findings: SearchFindings, trial: Trial | None) -> list[dict[str, Any]]:
    """Returns, per group, what a trial made of it.

    Args:
        findings: The search.
        trial: The trial to compare with the full network.

    Returns:
        Dicts of "group", "before" and "after" (channels); "ms_before" and "ms_after" (of the
        group's layers, others at full width), None without a table; "importance_kept" (share of
        the channels' importance that stays when the least important go), None where unknown.
    """
    steps = staircases(findings.table)
    rows = []
    for group, before in full_widths(findings.result).items():
        after = before if trial is None else trial["widths"].get(group, before)
        step = steps.get(group)
        importance = np.sort(np.asarray(findings.importances.get(group, ()), float))[::-1]
        total = importance.sum()
        rows.append(
            {
                "group": group,
                "before": before,
                "after": after,
                "ms_before": None if step is None else group_ms(step, before),
                "ms_after": None if step is None else group_ms(step, after),
                "importance_kept": float(importance[:after].sum() / total) if total > 0 else None,
            }
        )
    return rows


def bottleneck(findings: SearchFindings, trial: Trial | None) -> str | None:
    """Says which group's layers take the most time in a trial, or None without a layer table.

    Args:
        findings: The search.
        trial: The trial; None: the full network.
    """
    rows = [row for row in group_profile(findings, trial) if row["ms_after"] is not None]
    if not rows:
        return findings.result.get("bottleneck")
    slowest = max(rows, key=lambda row: row["ms_after"])
    total = sum(row["ms_after"] for row in rows)
    share = (
        f", {percent(slowest['ms_after'] / total)} of the time of all groups" if total > 0 else ""
    )
    return (
        f"{slowest['group']}, whose layers take {slowest['ms_after']:.3g} ms with "
        f"{slowest['after']} of {slowest['before']} channels{share}"
    )


def time_split(trials: Sequence[Trial]) -> dict[str, Any]:
    """Says where the time of the search went.

    Returns:
        "trials" (number and seconds per part), "total" (seconds per part) and "median" (seconds
        of a trial per part, over the trials in which the part took any time).
    """
    rows = [
        {"number": trial["number"], **{part: float(spent.get(part, 0)) for part in PARTS}}
        for trial in trials
        if (spent := trial.get("seconds"))
    ]
    spent = {part: [row[part] for row in rows if row[part] > 0] for part in PARTS}
    return {
        "trials": rows,
        "total": {part: sum(seconds) for part, seconds in spent.items()},
        "median": {part: statistics.median(s) if s else 0.0 for part, s in spent.items()},
    }


def changes(findings: SearchFindings, trial: Trial) -> str:
    """Says how many channels a trial keeps, and what it chose besides widths."""
    full = full_widths(findings.result)
    parts = []
    if full:
        kept = sum(trial["widths"].get(group, width) for group, width in full.items())
        parts.append(f"{percent(kept / sum(full.values()))} of the channels")
    return "; ".join(filter(None, (*parts, joint_choices(trial))))


def joint_choices(trial: Trial) -> str:
    """Says what a trial chose besides widths: iterations, blocks left out, precision."""
    chosen = trial.get("configuration") or {}
    parts = []
    if chosen.get("iterations") is not None:
        parts.append(f"{chosen['iterations']} iterations")
    if chosen.get("dropped"):
        parts.append(f"without {', '.join(chosen['dropped'])}")
    if chosen.get("dtype") is not None:
        parts.append(str(chosen["dtype"]))
    return "; ".join(parts)


def state_counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Returns the number of trials in all and in each state."""
    states = [trial["state"] for trial in trials]
    return {"total": len(states)} | {state: states.count(state) for state in STATES}


def percent(share: float) -> str:
    """Writes "47 %"."""
    return f"{100 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """Writes "1 trial", "2 trials"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def ratio_words(trial: Trial) -> str:
    """Writes a trial's ratio with its 95 % interval, as "0.470 (0.460 to 0.480)"."""
    ratio, low, high = (trial.get(key) for key in ("latency_ratio", "ratio_low", "ratio_high"))
    if ratio is None:
        return ""
    return f"{ratio:.3f}" + (f" ({low:.3f} to {high:.3f})" if None not in (low, high) else "")
