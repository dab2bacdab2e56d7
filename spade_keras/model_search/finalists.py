"""The end of a search: candidates built, saved and timed again before one of them is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from spade_keras import latency, search
from spade_keras.files import save_model, write_bytes_atomic
from spade_keras.search.acceptance import Compare, compare_for, measured
from spade_keras.search.candidate import plan_for, realize
from spade_keras.search.receipt import Receipt, write_receipt

FineTune = Callable[[keras.Model, keras.Model], Any]
"""Called with the slim and the full model; trains the slim one, or returns another to take."""


@dataclass(frozen=True)
class Finalist:
    """A candidate that was measured again.

    Args:
        trial: Its number.
        comparison: The last measurement.
        accepted: Whether it met the budget.
        quality: As it would be shipped; None if it was not accepted.
    """

    trial: int
    comparison: latency.Comparison
    accepted: bool
    quality: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "trial": self.trial,
            "accepted": self.accepted,
            "ratio": self.comparison.ratio.as_dict(),
            "quality": self.quality,
        }


@dataclass
class FinalRound:
    """Measures the best candidates of a search again.

    Attributes:
        full: The full model, in the budget's dtype.
        path: Its `.keras` file as the user has it.
        sample: What to time with.
        budget: What the latency must meet.
        quality: Scores a model.
        console: Where it is shown.
        finetune: See `FineTune`; None ships candidates as pruned.
        imports: Modules that register the model's own classes.
        compare: See `compare_for`.
    """

    full: keras.Model
    path: Path
    sample: Any
    budget: search.LatencyBudget
    quality: Callable[[keras.Model], float]
    console: Console
    finetune: FineTune | None = None
    imports: tuple[str, ...] = ()
    compare: Compare | None = None

    def hold(
        self, result: search.SearchResult, folder: Path, count: int = 1
    ) -> tuple[list[Finalist], Finalist | None]:
        """Goes through the contenders until enough candidates meet the budget again.

        The best of many noisy timings is too good to be true: each candidate is rebuilt, saved
        and timed in fresh processes. A fine-tuned one is timed once more as it will be shipped.

        Args:
            result: The search.
            folder: Gets `slim.keras`, `plan.json` and `receipt.json` of the one taken.
            count: How many must meet the budget before the best of them is taken.

        Returns:
            Those measured again, in that order; and the one taken, None if none met the budget.
        """
        reference = self.path
        if self.budget.dtype is not None:
            reference = folder / ".full.keras"
            save_model(self.full, reference)
        tried: list[Finalist] = []
        best: Finalist | None = None
        for trial in result.contenders:
            finalist, slim = self._measure_again(trial, reference, folder / ".candidate.keras")
            tried.append(finalist)
            if finalist.accepted and (best is None or _score(finalist) > _score(best)):
                best = finalist
                self._keep(trial, finalist, slim, folder)
            if sum(other.accepted for other in tried) >= count:
                break
        return tried, best

    def _measure_again(
        self, trial: search.TrialRecord, full: Path, path: Path
    ) -> tuple[Finalist, keras.Model]:
        plan = plan_for(self.full, trial.configuration)
        slim = realize(self.full, trial.configuration, plan)
        comparison = self._time(full, slim, path, f"trial {trial.number}")
        if self.finetune is not None and self._met(comparison):
            slim = _finetuned(self.finetune, slim, self.full)
            comparison = self._time(full, slim, path, f"trial {trial.number}, fine-tuned,")
        if not self._met(comparison):
            return Finalist(trial.number, comparison, False), slim
        known = trial.quality if self.finetune is None else None
        quality = self.quality(slim) if known is None else known
        return Finalist(trial.number, comparison, True, quality), slim

    def _time(self, full: Path, slim: keras.Model, path: Path, what: str) -> latency.Comparison:
        save_model(slim, path)
        comparison = compare_for(
            self.budget, full, path, self.sample, imports=self.imports, compare=self.compare
        )
        path.unlink()
        verdict = "meets" if self._met(comparison) else "misses"
        times = measured(self.budget, comparison)
        self.console.print(
            f"  {what} in fresh processes {verdict} the budget: {times}",
            highlight=False,
            soft_wrap=True,
        )
        return comparison

    def _met(self, comparison: latency.Comparison) -> bool:
        return self.budget.excess(comparison, margin=False) <= 0

    def _keep(
        self, trial: search.TrialRecord, finalist: Finalist, slim: keras.Model, folder: Path
    ) -> None:
        plan = plan_for(self.full, trial.configuration)
        save_model(slim, folder / "slim.keras")
        write_bytes_atomic(folder / "plan.json", plan.to_json().encode())
        receipt = Receipt.of(
            self.path,
            folder / "slim.keras",
            budget=self.budget,
            comparison=finalist.comparison,
            plan=plan,
            configuration=trial.configuration,
            imports=self.imports,
        )
        write_receipt(folder / "receipt.json", receipt)


def _finetuned(finetune: FineTune, slim: keras.Model, full: keras.Model) -> keras.Model:
    returned = finetune(slim, full)
    if returned is None:
        return slim
    if not isinstance(returned, keras.Model):
        raise ValueError(
            "`--finetune` must train the model it is given and return nothing, or return a Keras "
            f"model to take in its place. Received: {type(returned).__name__}"
        )
    return returned


def _score(finalist: Finalist) -> float:
    return float("-inf") if finalist.quality is None else finalist.quality
