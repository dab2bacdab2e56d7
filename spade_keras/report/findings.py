"""The findings of a search: the objects and sentences behind its figures and pages."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.latency.results import Ratio
from spade_keras.report.page import counted, interval, percent
from spade_keras.typing import Record

if TYPE_CHECKING:
    from spade_keras.latency import Staircase
    from spade_keras.search import LayerTable, SearchResult, TrialRecord
    from spade_keras.search.receipt import Receipt

PARTS = ("build", "compile", "measure", "evaluate", "overhead")  # of a trial, each timed


@dataclass(frozen=True)
class FrontPanel:
    """A trial of the front; image `(height, width)` and error map of its network, if it has one."""

    trial: TrialRecord
    image: np.ndarray | None = None
    error: np.ndarray | None = None


@dataclass(frozen=True)
class Remeasured(Record):
    """A trial that was timed again in fresh processes.

    Attributes:
        trial: Its number.
        accepted: Whether it met the budget.
        ratio: Its time / the full network's.
        quality: As it would be shipped; None: not judged.
    """

    trial: int
    accepted: bool
    ratio: Ratio
    quality: float | None = None


@dataclass(frozen=True)
class GroupProfile:
    """Channels of a group in the full network and in a trial, None where something is not known.

    Attributes:
        ms_before: Time of the group's layers, other groups at full width.
        ms_after: The same at the width of the trial.
        importance_kept: Share of the channels' importance that stays when the least important go.
    """

    group: str
    before: int
    after: int
    ms_before: float | None = None
    ms_after: float | None = None
    importance_kept: float | None = None


@dataclass(frozen=True)
class SearchFindings:
    """The inputs of a search's report.

    Attributes:
        result: All trials.
        table: Times of the layers, or None where no layer was timed alone.
        receipt: The latency receipt of the plan that was accepted, or None.
        front_panels: Points of the front whose networks were run, as pruned.
        importances: Group -> importance of each of its channels.
        chosen: Number of the trial that was taken; None: the one of the receipt, or the feasible
            one of the best quality unless all finalists were rejected.
        finalists: Trials that were timed again.
    """

    result: SearchResult
    table: LayerTable | None = None
    receipt: Receipt | None = None
    front_panels: Sequence[FrontPanel] = ()
    importances: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen: int | None = None
    finalists: Sequence[Remeasured] = ()

    @property
    def taken(self) -> TrialRecord | None:
        """The trial that was taken, or None if nothing met the budget.

        One that was widened is as it ships, with the receipt's configuration, time and quality.
        """
        found, receipt = self._found, self.receipt
        if found is None or receipt is None or not self.widened:
            return found
        time = receipt.comparison
        assert found.timing is not None  # it met the budget in the search
        timing = replace(
            found.timing,
            latency_ms=time.b.median_ms,
            latency_ratio=time.ratio.value,
            ratio_low=time.ratio.low,
            ratio_high=time.ratio.high,
            p99_ms=time.b.p99_ms,
            excess=receipt.budget.excess(time),
        )
        quality = receipt.quality.value
        return replace(found, configuration=receipt.configuration, timing=timing, quality=quality)

    @property
    def widened(self) -> bool:
        """Whether the accepted configuration is the trial's, widened to use the budget."""
        receipt, found = self.receipt, self._found
        if receipt is None or found is None or receipt.trial != found.number:
            return False
        return receipt.configuration.key() != found.configuration.key()

    @property
    def _found(self) -> TrialRecord | None:
        """The trial that was taken, as the search found it."""
        number = self.chosen
        if number is None and self.receipt is not None:
            number = self.receipt.trial
        if number is not None:
            return next(t for t in self.result.trials if t.number == number)
        return None if self.rejected else next(iter(self.result.ranking), None)

    @property
    def shown(self) -> TrialRecord | None:
        """The trial to describe: the one taken, or the fastest; None if none was timed."""
        return self.taken or self.result.fastest

    @property
    def rejected(self) -> bool:
        """Whether trials were timed again and none of them was accepted."""
        return bool(self.finalists) and not any(f.accepted for f in self.finalists)

    @cached_property
    def staircases(self) -> dict[str, Staircase]:
        """Time over width of every group that was timed."""
        return {} if self.table is None else {g: self.table.staircase(g) for g in self.table.widths}

    def is_taken(self, trial: TrialRecord) -> bool:
        """Whether it is the trial that was taken."""
        taken = self.taken
        return taken is not None and trial.number == taken.number

    def groups(self, trial: TrialRecord | None) -> list[GroupProfile]:
        """Returns every group as it is in a trial; None: the full network."""
        rows = []
        for group, before in self.result.space.full.widths.items():
            after = before if trial is None else trial.widths.get(group, before)
            row = GroupProfile(group, before, after)
            if (step := self.staircases.get(group)) is not None:
                row = replace(row, ms_before=group_ms(step, before), ms_after=group_ms(step, after))
            importance = np.sort(np.asarray(self.importances.get(group, ()), float))[::-1]
            if (total := importance.sum()) > 0:
                row = replace(row, importance_kept=float(importance[:after].sum() / total))
            rows.append(row)
        return rows

    def bottleneck(self, trial: TrialRecord | None) -> str | None:
        """Says which group's layers take the most time in a trial; None: the full network."""
        timed = [(row.ms_after, row) for row in self.groups(trial) if row.ms_after is not None]
        if not timed:
            return self.result.bottleneck
        ms, slowest = max(timed, key=lambda item: item[0])
        total = sum(time for time, _ in timed)
        share = f", {percent(ms / total)} of the time of all groups" if total > 0 else ""
        return (
            f"{slowest.group}, whose layers take {ms:.3g} ms with {slowest.after} of "
            f"{slowest.before} channels{share}"
        )

    def channels(self, trial: TrialRecord) -> tuple[int, int]:
        """Returns how many channels a trial keeps, and how many there are."""
        full = self.result.space.full.widths
        return sum(trial.widths.get(group, full[group]) for group in full), sum(full.values())

    def changes(self, trial: TrialRecord) -> str:
        """Says how many channels a trial keeps, and what it chose besides widths."""
        kept, full = self.channels(trial)
        channels = f"{percent(kept / full)} of the channels" if full else ""
        return "; ".join(filter(None, (channels, joint_choices(trial))))


def joint_choices(trial: TrialRecord) -> str:
    """Says what a trial chose besides widths: iterations, blocks left out, precision, ranks."""
    chosen = trial.configuration
    words = str(replace(chosen, widths={}, ranks={}))
    lower = f"{counted(len(chosen.ranks), 'layer')} of lower rank" if chosen.ranks else ""
    return "; ".join(filter(None, (words, lower)))


def group_ms(staircase: Staircase, width: int) -> float:
    """Returns the time of a group's layers at a width.

    Between two widths that were timed it is the wider one's time: a step is not interpolated.
    """
    index = bisect.bisect_left(staircase.widths, width)
    return staircase.latency_ms[min(index, len(staircase.widths) - 1)]


def time_split(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Returns the seconds per part: of "trials", in "total", and the "median" where it took any."""
    rows = [
        {"number": t.number, **{part: float(t.seconds.get(part, 0)) for part in PARTS}}
        for t in trials
        if t.seconds
    ]
    spent = {part: [row[part] for row in rows if row[part] > 0] for part in PARTS}
    return {
        "trials": rows,
        "total": {part: sum(seconds) for part, seconds in spent.items()},
        "median": {part: statistics.median(s) if s else 0.0 for part, s in spent.items()},
    }


def ratio_words(trial: TrialRecord) -> str:
    """Writes a trial's ratio with its 95 % interval, as "0.470 (0.460 to 0.480)"."""
    time = trial.timing
    return "" if time is None else interval(time.latency_ratio, time.ratio_low, time.ratio_high)


@dataclass(frozen=True)
class SearchVerdict:
    """How a search ended: "met" (timed again, and accepted), "open" (not timed again) or "missed".

    `sentences` say what was measured, and what to do next; `warning`, which comes before all, that
    the quality was not kept.
    """

    status: str
    title: str
    sentences: list[str]
    warning: str | None = None


def search_verdict(findings: SearchFindings) -> SearchVerdict:
    """Describes the end of a search; promises only times that were confirmed."""
    result, taken = findings.result, findings.taken
    tried = counted(len(result.trials), "trial")
    if findings.receipt is not None:
        how = (
            f"The slim model {findings.receipt.measured}. Full and slim were timed "
            "interleaved in fresh processes; the budget counts as met when the pessimistic end of "
            "the interval is within it."
        )
        said = [how]
        if findings.widened and taken is not None:
            said.append(
                f"It is trial {taken.number} widened to use the budget: {findings.changes(taken)}."
            )
        warning = findings.receipt.warning
        if findings.receipt.holds:
            return SearchVerdict("met", "Budget met", said, warning)
        said.append(_slow(findings, taken))
        return SearchVerdict("missed", "Budget not met", said, warning)
    if taken is not None:
        within = result.counts()["feasible"]
        met = f"{within} of {tried} met the budget: {result.budget}. The best is "
        unsure = (
            "It was not timed again in fresh processes, so nothing is promised: the best of many "
            "noisy times looks faster than it is."
        )
        title = "Met in the search, not yet confirmed"
        return SearchVerdict("open", title, [f"{met}{_trial_words(taken)}.", unsure])
    first = f"No configuration met the budget, {result.budget}, in {tried}."
    if findings.rejected:
        first += (
            f" {counted(len(findings.finalists), 'trial')} met it in the search and missed it when "
            "timed again in fresh processes."
        )
    fastest = result.fastest
    if fastest is None:
        reasons = sorted({t.reason for t in result.trials if t.reason})
        return SearchVerdict(
            "missed", "Budget not met", [f"{first} None of them could be timed.", *reasons]
        )
    kept = findings.changes(fastest)
    sentences = [
        f"{first} The fastest was {_trial_words(fastest)}.",
        f"It kept {kept}." if kept else "",
        _slow(findings, fastest),
        "Raise the budget, allow narrower layers, or use fewer iterations.",
    ]
    return SearchVerdict("missed", "Budget not met", [*filter(None, sentences)])


def _slow(findings: SearchFindings, trial: TrialRecord | None) -> str:
    slow = findings.bottleneck(trial)
    if slow is None:
        return "Which group is the bottleneck is not known: no layer was timed alone."
    return f"The bottleneck is {slow}."


def _trial_words(trial: TrialRecord) -> str:
    time = trial.timing
    assert time is not None  # asked of timed trials alone
    quality = "" if trial.quality is None else f"; quality {trial.quality:.4g}"
    return (
        f"trial {trial.number} with {time.latency_ratio:.3f} of the full network's latency (95 % "
        f"interval {time.ratio_low:.3f} to {time.ratio_high:.3f}); median {time.latency_ms:.3g} "
        f"ms, p99 {time.p99_ms:.3g} ms{quality}"
    )
