"""How a search ended, in sentences: what is promised is only what was measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spade_keras.report.search_summary import (
    Scale,
    SearchFindings,
    bottleneck,
    changes,
    counted,
    fastest,
)


@dataclass(frozen=True)
class SearchVerdict:
    """How a search ended.

    Attributes:
        status: "met" (measured again, and accepted), "open" (met in the search, not measured
            again) or "missed".
        title: The same in a few words.
        sentences: What was measured, and what to do next.
    """

    status: str
    title: str
    sentences: tuple[str, ...]


def search_verdict(findings: SearchFindings) -> SearchVerdict:
    """Says how a search ended: what is promised is only what was measured again.

    Args:
        findings: The search.
    """
    result = findings.result
    budget = Scale.of(result["budget"]).budget
    tried = counted(len(findings.trials), "trial")
    receipt = findings.receipt
    if receipt is not None:
        met = str(receipt["verdict"]).startswith("meets")
        said = str(receipt["verdict"])
        how = (
            f"The slim model {said}. Full and slim were timed in turn in fresh processes; the "
            "budget counts as met when the pessimistic end of the interval is within it."
        )
        if met:
            return SearchVerdict("met", "Budget met", (how,))
        slow = bottleneck(findings, findings.taken)
        return SearchVerdict("missed", "Budget not met", (how, *_slow(slow)))
    taken = findings.taken
    if taken is not None:
        within = sum(trial["state"] == "feasible" for trial in findings.trials)
        return SearchVerdict(
            "open",
            "Met in the search, not yet confirmed",
            (
                f"{within} of {tried} met the budget: {budget}. The best is {_trial_words(taken)}.",
                "It was not measured again in fresh processes, so nothing is promised: the best "
                "of many noisy times looks faster than it is.",
            ),
        )
    first = f"No configuration met the budget, {budget}, in {tried}."
    if findings.rejected:
        first += (
            f" {counted(len(findings.finalists), 'trial')} met it in the search and missed it when "
            "measured again in fresh processes."
        )
    quickest = fastest(findings.trials)
    if quickest is None:
        reasons = sorted({str(t["reason"]) for t in findings.trials if t.get("reason")})
        return SearchVerdict(
            "missed", "Budget not met", (f"{first} None of them could be timed.", *reasons)
        )
    sentences = [f"{first} The fastest was {_trial_words(quickest)}."]
    if said := changes(findings, quickest):
        sentences.append(f"It kept {said}.")
    sentences += _slow(bottleneck(findings, quickest))
    sentences.append("Raise the budget, allow narrower layers, or use fewer iterations.")
    return SearchVerdict("missed", "Budget not met", tuple(sentences))


def _slow(slow: str | None) -> tuple[str, ...]:
    if slow is None:
        return ("Which group is the bottleneck is not known: no layer was timed alone.",)
    return (f"The bottleneck is {slow}.",)


def _trial_words(trial: Mapping[str, Any]) -> str:
    quality = trial.get("quality")
    interval = (
        f" (95 % interval {trial['ratio_low']:.3f} to {trial['ratio_high']:.3f})"
        if None not in (trial.get("ratio_low"), trial.get("ratio_high"))
        else ""
    )
    times = f"median {trial['latency_ms']:.3g} ms" if trial.get("latency_ms") is not None else ""
    if trial.get("p99_ms") is not None:
        times += f", p99 {trial['p99_ms']:.3g} ms"
    return (
        f"trial {trial['number']} with {trial['latency_ratio']:.3f} of the full network's latency"
        f"{interval}"
        + (f"; {times}" if times else "")
        + ("" if quality is None else f"; quality {quality:.4g}")
    )
