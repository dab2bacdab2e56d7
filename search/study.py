"""The search itself: propose widths, build the slim network, time it, keep or reject it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna

from spade_keras import backend, latency
from spade_keras.errors import SpadeError
from spade_keras.pruning import find_groups, make_plan, rebuild
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.journal import fail_orphans, open_journal
from spade_keras.search.quality import Quality, TeacherAgreement, ValidationPSNR
from spade_keras.search.result import FEASIBLE, INFEASIBLE, SearchResult, TrialRecord
from spade_keras.search.seeds import uniform_seeds
from spade_keras.search.space import WidthSpace

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
}
"""Samplers by name, each made from a seed."""

Timer = Callable[[keras.Model], latency.Comparison]
"""Times a candidate against the full network."""

Widths = tuple[int, ...]


def run(
    network: keras.Model,
    *,
    budget: LatencyBudget,
    data: Any,
    trials: int = 60,
    storage: str | Path | None = None,
    on_trial: Callable[[TrialRecord], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Searches the width of every channel group for the best quality within a latency budget.

    A search killed at any moment goes on when it is run again with the same `storage`.

    Args:
        network: The trained full network; it is left as it is.
        budget: What a candidate's latency must meet.
        data: Held-out data: inputs alone (quality is then the agreement with `network`), or a
            tuple `(inputs, targets)` (quality is then the PSNR).
        trials: Number of finished trials to end with.
        storage: Journal file to keep trials in; None keeps them in memory.
        on_trial: Called with every finished trial.
        **options: Fields of `WidthSearch`: `quality`, `timer`, `space` (default: multiples of 8),
            `importance`, `sampler`, `seed`, `name`.

    Returns:
        A `SearchResult`, whose `best` raises when nothing met the budget.

    Raises:
        ValueError: If an option is unknown or out of its range.
        SpadeError: If `storage` holds a study of that name over another space.
    """
    inputs, targets = data if isinstance(data, tuple) else (data, None)
    if "quality" not in options:
        options["quality"] = (
            TeacherAgreement(inputs, network)
            if targets is None
            else ValidationPSNR(inputs, targets)
        )
    if "timer" not in options:
        options["timer"] = interleaved_timer(network, inputs)
    if "space" not in options:
        options["space"] = WidthSpace.from_groups(find_groups(network))
    search = WidthSearch(network, budget, **options)
    return search.optimize(trials, storage=storage, on_trial=on_trial)


def interleaved_timer(
    network: keras.Model, inputs: Mapping[str, np.ndarray], *, pairs: int = 10
) -> Timer:
    """Returns a function that times a candidate in turn with `network`, on the first sample.

    The full network is compiled once, not once a candidate.

    Args:
        network: The full network.
        inputs: Dict of arrays; the first sample of each is used.
        pairs: Timed windows of each.
    """
    sample = {name: np.asarray(array)[:1] for name, array in inputs.items()}
    full = backend.inference_function(network, sample)

    def time_candidate(candidate: keras.Model) -> latency.Comparison:
        return latency.compare(full, backend.inference_function(candidate, sample), pairs=pairs)

    return time_candidate


@dataclass
class WidthSearch:
    """One search over the widths of a network; see `run`.

    Attributes:
        network: The trained full network.
        budget: What a candidate's latency must meet.
        quality: Scores a candidate, higher is better.
        timer: Times a candidate against the full network.
        space: The widths allowed.
        importance: Criterion by which channels are kept.
        sampler: A key of `SAMPLERS`.
        seed: Of the sampler; trial n draws with `seed + n`, whatever was interrupted before.
        name: Name of the study in its storage.
    """

    network: keras.Model
    budget: LatencyBudget
    quality: Quality
    timer: Timer
    space: WidthSpace
    importance: str = "group_l1"
    sampler: str = "tpe"
    seed: int = 0
    name: str = "widths"
    _known: dict[Widths, TrialRecord] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"`sampler` must be one of {sorted(SAMPLERS)}. Received: sampler={self.sampler!r}"
            )

    def optimize(
        self,
        trials: int,
        *,
        storage: str | Path | None = None,
        on_trial: Callable[[TrialRecord], None] | None = None,
    ) -> SearchResult:
        """Runs until `trials` trials are feasible or infeasible; see `run`."""
        study = self._open(storage)
        for record in self._records(study):
            self._remember(record)
        attempts = 0
        while len(self._finished(study)) < trials:
            attempts += 1
            if attempts > 2 * trials:
                raise SpadeError(
                    f"More than half of {attempts - 1} trials failed; the study is kept in "
                    f"{storage or 'memory'}. The quality must be finite for most candidates."
                )
            study.sampler = SAMPLERS[self.sampler](self.seed + len(study.trials))
            study.optimize(self._objective, n_trials=1)
            record = self._records(study)[-1]
            self._remember(record)
            if on_trial:
                on_trial(record)
        return SearchResult(self.budget, tuple(self._records(study)), self.quality.name)

    def _open(self, storage: str | Path | None) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.name,
            storage=None if storage is None else open_journal(storage),
            direction="maximize",
            load_if_exists=True,
        )
        edges = self.space.as_dict()
        stored = study.user_attrs.get("edges")
        if stored is not None and stored != edges:
            raise SpadeError(
                f"The study {self.name!r} in {storage} searches other widths. Use another name or "
                f"file. Received: {json.dumps(edges)}, stored: {json.dumps(stored)}"
            )
        study.set_user_attr("edges", edges)
        for orphan in fail_orphans(study):
            fixed = orphan.system_attrs.get("fixed_params", orphan.params)
            study.enqueue_trial(fixed, user_attrs={"origin": _origin(orphan, self.sampler)})
        for seed in uniform_seeds(self.space):
            study.enqueue_trial(seed, user_attrs={"origin": "seed"}, skip_if_exists=True)
        return study

    def _objective(self, trial: optuna.Trial) -> float:
        widths = self.space.suggest(trial)
        trial.set_user_attr("widths", widths)
        trial.set_user_attr("origin", _origin(trial, self.sampler))
        known = self._known.get(self.space.key(widths))
        candidate = None
        if known is None:
            candidate = self._build(widths)
            timing = _timing(self.timer(candidate))
        else:
            timing = {name: getattr(known, name) for name in _TIMING}
        trial.set_user_attr("timing", timing)
        excess = timing["ratio_high"] / self.budget.target - 1
        # Before any pruning: a sampler takes a trial without a constraint for a feasible one.
        trial.set_constraint("latency", excess)
        if excess > 0:
            raise optuna.TrialPruned
        if known is not None and known.quality is not None:
            return known.quality
        return self.quality(candidate if candidate is not None else self._build(widths))

    def _build(self, widths: Mapping[str, int]) -> keras.Model:
        plan = make_plan(self.network, widths=dict(widths), importance=self.importance)
        return rebuild(self.network, plan)

    def _remember(self, record: TrialRecord) -> None:
        if record.state in (FEASIBLE, INFEASIBLE):
            self._known.setdefault(self.space.key(record.widths), record)

    def _records(self, study: optuna.Study) -> list[TrialRecord]:
        done = (t for t in study.get_trials(deepcopy=False) if t.state.is_finished())
        return [TrialRecord.from_trial(trial) for trial in done]

    def _finished(self, study: optuna.Study) -> list[TrialRecord]:
        return [r for r in self._records(study) if r.state in (FEASIBLE, INFEASIBLE)]


_TIMING = ("latency_ms", "latency_ratio", "ratio_low", "ratio_high")


def _timing(comparison: latency.Comparison) -> dict[str, float]:
    ratio = comparison.ratio
    return dict(
        zip(_TIMING, (comparison.b.median_ms, ratio.value, ratio.low, ratio.high), strict=True)
    )


def _origin(trial: Any, sampler: str) -> str:
    return str(trial.user_attrs.get("origin", sampler))
