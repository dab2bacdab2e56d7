"""The search itself: propose a configuration, time the network that has it, keep or reject it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna

from spade_keras import backend, latency
from spade_keras.errors import SpadeError
from spade_keras.pruning import find_groups
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import CandidateBuilder
from spade_keras.search.evaluation import CandidateError, Evaluation, Timer
from spade_keras.search.identity import check_same, network_digest
from spade_keras.search.journal import fail_orphans, open_journal
from spade_keras.search.quality import Quality, TeacherAgreement, ValidationPSNR
from spade_keras.search.result import FEASIBLE, INFEASIBLE, STOPPED, SearchResult, TrialRecord
from spade_keras.search.seeds import uniform_seeds
from spade_keras.search.space import Configuration, SearchSpace

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Samplers by name, each made from a seed."""

PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
}
"""Optuna pruners by name, which stop short fine-tunings that are not promising."""


def run(
    network: keras.Model,
    *,
    budget: LatencyBudget,
    data: Any,
    trials: int = 60,
    timeout_s: float | None = None,
    stagnation: int | None = None,
    storage: str | Path | None = None,
    on_trial: Callable[[TrialRecord], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Searches the widths of a network for the best quality within a latency budget.

    A search killed at any moment goes on when it is run again with the same `storage`.

    Args:
        network: The trained full network; it is left as it is.
        budget: What a candidate's latency must meet.
        data: Held-out data: inputs alone (quality is then the agreement with `network`), or a
            tuple `(inputs, targets)` (quality is then the PSNR).
        trials: Number of finished trials to end with.
        timeout_s: Seconds after which no new trial starts; None: no limit.
        stagnation: Trials without a better one after which the search ends; None: no limit.
        storage: Journal file to keep trials in; None keeps them in memory.
        on_trial: Called with every finished trial.
        **options: Fields of `Search`: `objective` or `quality`, `timer`, `space` (default:
            multiples of 8), `importance`, `sampler`, `pruner`, `seeds`, `table`, `pareto`,
            `warm_start`, `seed`, `name`, `mix_devices`.

    Returns:
        A `SearchResult`, whose `best` raises when nothing met the budget.

    Raises:
        ValueError: If an option is unknown or out of its range.
        SpadeError: If `storage` holds a study of that name for another network, space, budget,
            quality or device; or if most trials fail.
    """
    inputs, targets = data if isinstance(data, tuple) else (data, None)
    quality = options.pop("quality", None)
    if "objective" not in options:
        if quality is None:
            supervised = targets is not None
            quality = (
                ValidationPSNR(inputs, targets) if supervised else TeacherAgreement(inputs, network)
            )
        options["objective"] = _AsPruned(quality)
    if "timer" not in options:
        options["timer"] = interleaved_timer(
            network, inputs, batch_size=budget.batch_size, single_calls=budget.single_calls
        )
    if "space" not in options:
        options["space"] = SearchSpace.from_groups(find_groups(network))
    search = Search(network, budget, **options)
    return search.optimize(
        trials, timeout_s=timeout_s, stagnation=stagnation, storage=storage, on_trial=on_trial
    )


def interleaved_timer(
    network: keras.Model,
    inputs: Any,
    *,
    pairs: int = 10,
    batch_size: int = 1,
    single_calls: bool = False,
) -> Timer:
    """Returns a function that times a candidate in turn with `network`.

    The full network is compiled once, not once a candidate.

    Args:
        network: The full network.
        inputs: Arrays, or a dict, list or tuple of them, with the samples on the first axis; the
            first ones are used, repeated if they are too few.
        pairs: Timed windows of each; at least 100 when calls are timed singly, for their tail.
        batch_size: Samples in a call.
        single_calls: Whether a window is one call, however short.
    """
    chosen = np.arange(batch_size)
    sample = keras.tree.map_structure(lambda array: np.asarray(array)[chosen % len(array)], inputs)
    full = backend.inference_function(network, sample)
    windows = max(pairs, _TAIL_PAIRS) if single_calls else pairs

    def time_candidate(candidate: keras.Model) -> latency.Comparison:
        return latency.compare(
            full,
            backend.inference_function(candidate, sample),
            pairs=windows,
            single_calls=single_calls,
            described=sample,
        )

    return time_candidate


_TAIL_PAIRS = 100


@dataclass
class Search:
    """One search; see `run`.

    Attributes:
        network: The trained full network.
        budget: What a candidate's latency must meet.
        objective: Judges a candidate, higher is better.
        timer: Times a candidate against the full network.
        space: What may be chosen.
        importance: Criterion by which channels are kept.
        sampler: A key of `SAMPLERS`.
        pruner: A key of `PRUNERS`; stops the short fine-tuning of a candidate.
        seeds: Names of `seeds.SEEDS`, tried first.
        table: Layer times, for seeds that propose by time.
        pareto: Whether to search the whole front of time and quality instead of the best quality
            within the budget; then over-budget candidates are judged too.
        warm_start: An earlier search, whose best configurations are tried first.
        seed: Of the sampler; trial n draws with `seed + n`, whatever was interrupted before.
        name: Name of the study in its storage.
        mix_devices: Whether a study timed on another device may go on.
    """

    network: keras.Model
    budget: LatencyBudget
    objective: Any
    timer: Timer
    space: SearchSpace
    importance: str = "group_l1"
    sampler: str = "tpe"
    pruner: str = "none"
    seeds: Sequence[str] = ("uniform",)
    table: Any = None
    pareto: bool = False
    warm_start: SearchResult | None = None
    seed: int = 0
    name: str = "widths"
    mix_devices: bool = False
    _evaluation: Evaluation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_name("sampler", self.sampler, SAMPLERS)
        _check_name("pruner", self.pruner, PRUNERS)
        if self.pareto and self.pruner != "none":
            raise ValueError(
                "`pruner` must be 'none' with `pareto=True`: Optuna's pruners compare one "
                f"objective alone. Received: pruner={self.pruner!r}"
            )
        self._evaluation = Evaluation(
            CandidateBuilder(self.network, importance=self.importance),
            self.timer,
            self.budget,
            self.objective,
            judge_all=self.pareto,
        )

    def optimize(
        self,
        trials: int,
        *,
        timeout_s: float | None = None,
        stagnation: int | None = None,
        storage: str | Path | None = None,
        on_trial: Callable[[TrialRecord], None] | None = None,
    ) -> SearchResult:
        """Runs until enough trials are finished; see `run`."""
        started = time.monotonic()
        with _quiet_optuna():
            study = self._open(storage)
            for record in _records(study):
                self._evaluation.remember(record)
            failures = 0
            while True:
                records = _records(study)
                ended_by = _end(records, trials, stagnation)
                if timeout_s is not None and time.monotonic() - started >= timeout_s:
                    ended_by = ended_by or "timeout"
                if ended_by:
                    break
                record = self._try_one(study)
                failures += record.state == "failed"
                self._check_failures(record, failures, len(records) + 1, storage)
                if on_trial:
                    on_trial(record)
            return self._result(study, ended_by)

    def _open(self, storage: str | Path | None) -> optuna.Study:
        study = optuna.create_study(
            study_name=self.name,
            storage=None if storage is None else open_journal(storage),
            directions=["maximize", "minimize"] if self.pareto else ["maximize"],
            load_if_exists=True,
            pruner=PRUNERS[self.pruner](),
        )
        now = {
            "network": network_digest(self.network),
            "space": self.space.as_dict(),
            "budget": asdict(self.budget),
            "quality": self.objective.name,
            "direction": [direction.name for direction in study.directions],
            "fingerprint": latency.fingerprint(),
        }
        if study.user_attrs:
            where = f"{self.name!r} in {storage or 'memory'}"
            check_same(study.user_attrs, now, where, mix_devices=self.mix_devices)
        else:
            for key, value in now.items():
                study.set_user_attr(key, value)
        for orphan in fail_orphans(study):
            fixed = orphan.system_attrs.get("fixed_params", orphan.params)
            study.enqueue_trial(fixed, user_attrs={"origin": _origin(orphan, self.sampler)})
        for origin, configuration in self._proposals():
            study.enqueue_trial(
                self.space.parameters(configuration),
                user_attrs={"origin": origin},
                skip_if_exists=True,
            )
        return study

    def _proposals(self) -> Iterator[tuple[str, Configuration]]:
        for configuration in uniform_seeds(self.space):
            yield "seed", configuration
        if self.warm_start is not None:
            for record in self.warm_start.ranking[:10]:
                yield "warm start", record.configuration

    def _try_one(self, study: optuna.Study) -> TrialRecord:
        number = len(study.get_trials(deepcopy=False))
        study.sampler = SAMPLERS[self.sampler](self.seed + number)
        study.optimize(self._objective, n_trials=1, catch=(CandidateError,))
        record = _records(study)[-1]
        self._evaluation.remember(record)
        return record

    def _objective(self, trial: optuna.Trial) -> float | tuple[float, float]:
        started = time.perf_counter()
        trial.set_user_attr("origin", _origin(trial, self.sampler))
        configuration = self.space.suggest(trial)
        trial.set_user_attr("configuration", configuration.as_dict())
        try:
            quality, timing = self._evaluation.run(trial, configuration)
        except KeyboardInterrupt:
            trial.study.enqueue_trial(trial.params, user_attrs={"origin": _origin(trial, "")})
            raise
        finally:
            seconds = trial.user_attrs.get("seconds", {})
            overhead = time.perf_counter() - started - sum(seconds.values())
            trial.set_user_attr("seconds", {**seconds, "overhead": overhead})
        return (quality, timing.latency_ratio) if self.pareto else quality

    def _check_failures(
        self, record: TrialRecord, failures: int, attempts: int, storage: str | Path | None
    ) -> None:
        if failures >= 3 and failures > attempts / 2:
            raise SpadeError(
                f"{failures} of {attempts} candidates failed, the last one for this reason: "
                f"{record.reason} The study is kept in {storage or 'memory'}; mend the cause and "
                "run again."
            )

    def _result(self, study: optuna.Study, ended_by: str) -> SearchResult:
        return SearchResult(
            budget=self.budget,
            trials=tuple(_records(study)),
            quality_name=self.objective.name,
            space=self.space,
            fingerprint=latency.fingerprint(),
            ended_by=ended_by,
        )


class _AsPruned:
    def __init__(self, quality: Quality) -> None:
        self.name = quality.name
        self._quality = quality

    def __call__(self, candidate: keras.Model, report: Any = None) -> float:
        return self._quality(candidate)


def _records(study: optuna.Study) -> list[TrialRecord]:
    done = (t for t in study.get_trials(deepcopy=False) if t.state.is_finished())
    return [TrialRecord.from_trial(trial) for trial in done]


def _end(records: Sequence[TrialRecord], trials: int, stagnation: int | None) -> str | None:
    """Why the search is over, or None."""
    finished = [r for r in records if r.state in (FEASIBLE, INFEASIBLE, STOPPED)]
    if len(finished) >= trials:
        return "trials"
    if stagnation is not None:
        best, since = None, 0
        for record in finished:
            better = record.state == FEASIBLE and (best is None or (record.quality or 0) > best)
            best, since = (record.quality, 0) if better else (best, since + 1)
        if best is not None and since >= stagnation:
            return "stagnation"
    return None


def _check_name(argument: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(
            f"`{argument}` must be one of {sorted(known)}. Received: {argument}={name!r}"
        )


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Failed candidates are reported with their reason; Optuna's own log would repeat them."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _origin(trial: Any, sampler: str) -> str:
    return str(trial.user_attrs.get("origin", sampler))
