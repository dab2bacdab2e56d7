"""What a search found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from spade_keras.errors import BudgetNotMetError
from spade_keras.search.budget import LatencyBudget

FEASIBLE, INFEASIBLE, FAILED = "feasible", "infeasible", "failed"


@dataclass(frozen=True)
class TrialRecord:
    """One candidate.

    Attributes:
        number: Its number in the study.
        state: "feasible", "infeasible" (rejected by its latency, quality never computed) or
            "failed".
        origin: "seed" or the name of the sampler.
        widths: Width of every group.
        latency_ms: Median latency; None if it failed before being timed.
        latency_ratio: Its latency / the full network's, timed in turn.
        ratio_low: Lower end of the 95 % interval of that ratio.
        ratio_high: Upper end.
        quality: In dB; None unless feasible.
    """

    number: int
    state: str
    origin: str
    widths: dict[str, int]
    latency_ms: float | None = None
    latency_ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    quality: float | None = None

    @classmethod
    def from_trial(cls, trial: optuna.trial.FrozenTrial) -> TrialRecord:
        """Reads a finished trial of a width search."""
        timing: Mapping[str, float] = trial.user_attrs.get("timing", {})
        state = {
            optuna.trial.TrialState.COMPLETE: FEASIBLE,
            optuna.trial.TrialState.PRUNED: INFEASIBLE,
        }.get(trial.state, FAILED)
        return cls(
            number=trial.number,
            state=state,
            origin=trial.user_attrs.get("origin", "unknown"),
            widths=trial.user_attrs.get("widths", {}),
            quality=trial.value if state == FEASIBLE else None,
            **timing,
        )


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search.

    Attributes:
        budget: What they had to meet.
        trials: In the order of their numbers.
        quality_name: What `TrialRecord.quality` measures.
    """

    budget: LatencyBudget
    trials: tuple[TrialRecord, ...]
    quality_name: str

    @property
    def ranking(self) -> tuple[TrialRecord, ...]:
        """Feasible trials with distinct widths, the best quality first."""
        feasible = [t for t in self.trials if t.state == FEASIBLE and t.quality is not None]
        feasible.sort(key=lambda t: (-(t.quality or 0.0), t.latency_ratio or 0.0))
        distinct = {tuple(t.widths.items()): t for t in reversed(feasible)}
        return tuple(t for t in feasible if distinct[tuple(t.widths.items())] is t)

    @property
    def best(self) -> TrialRecord:
        """The feasible trial of the best quality.

        Raises:
            BudgetNotMetError: If no trial met the budget; names the fastest one.
        """
        if not self.ranking:
            raise BudgetNotMetError(self.failure())
        return self.ranking[0]

    @property
    def fastest(self) -> TrialRecord | None:
        """The timed trial with the smallest ratio, or None if none was timed."""
        timed = [t for t in self.trials if t.latency_ratio is not None]
        return min(timed, key=lambda t: t.latency_ratio or 0.0, default=None)

    def counts(self) -> dict[str, int]:
        """Returns the number of trials: total, feasible, infeasible, failed."""
        states = [t.state for t in self.trials]
        return {"total": len(states)} | {
            state: states.count(state) for state in (FEASIBLE, INFEASIBLE, FAILED)
        }

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchResult:
        """Reads what `as_dict` returned."""
        return cls(
            budget=LatencyBudget(**content["budget"]),
            trials=tuple(TrialRecord(**trial) for trial in content["trials"]),
            quality_name=content["quality_name"],
        )

    def failure(self) -> str:
        """Says that the budget was not met, and by how much the fastest trial missed it."""
        message = (
            f"No configuration met the latency budget of {self.budget.fraction:g} times the full "
            f"network's latency in {len(self.trials)} trials"
        )
        fastest = self.fastest
        if fastest is None:
            return f"{message}; none could be timed."
        return (
            f"{message}. The fastest took {fastest.latency_ratio:.3f} times "
            f"(95 % interval {fastest.ratio_low:.3f} to {fastest.ratio_high:.3f}; "
            f"{fastest.latency_ms:.2f} ms), with the widths {fastest.widths}. "
            "Raise `search.latency_budget`, allow narrower layers, or use fewer iterations."
        )
