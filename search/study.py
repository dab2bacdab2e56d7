"""The search itself: propose a configuration, time the network that has it, keep or reject it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import optuna

from spade_keras import latency
from spade_keras.errors import CandidateError, SpadeError
from spade_keras.registry import PRUNERS, SAMPLERS, SEEDS
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import CandidateBuilder
from spade_keras.search.evaluation import Evaluation, Timer
from spade_keras.search.identity import check_same, network_digest
from spade_keras.search.layer_insights import bottleneck, measured_space, prediction_error
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.objectives import AsPruned, Objective
from spade_keras.search.precision import with_dtype
from spade_keras.search.quality import TeacherAgreement, ValidationPSNR
from spade_keras.search.result import FAILED, FEASIBLE, SearchResult, TrialRecord
from spade_keras.search.seeds import propose
from spade_keras.search.space import Configuration, SearchSpace
from spade_keras.search.storage import (
    describe_storage,
    open_storage,
    quiet_optuna,
    storage_errors,
)
from spade_keras.search.timer import interleaved_timer
from spade_keras.search.workers import join


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
        storage: Journal file, or URL of a PostgreSQL database, to keep trials in; several
            processes may work on one. None keeps them in memory.
        on_trial: Called with every finished trial.
        **options: `quality`, which judges candidates as pruned, in place of `objective`; `pairs`,
            the timed windows of each network; and the fields of `Search`: `objective`, `timer`,
            `space` (default: the edges of staircases measured here), `importance`, `sampler`,
            `pruner`, `seeds`, `table`, `pareto`, `warm_start`, `seed`, `name`, `mix_devices`.

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
        if quality is None and targets is None:
            quality = TeacherAgreement(inputs, network)
        options["objective"] = AsPruned(quality or ValidationPSNR(inputs, targets))
    if budget.dtype is not None:
        network = with_dtype(network, budget.dtype)
    pairs = options.pop("pairs", 10)
    if inputs is not None:
        options["example"] = latency.fill_batch(inputs, budget.batch_size)
    if "timer" not in options:
        options["timer"] = interleaved_timer(
            network,
            inputs,
            pairs=pairs,
            batch_size=budget.batch_size,
            single_calls=budget.single_calls,
        )
    if "space" not in options:
        options["space"], options["table"] = measured_space(network, options["example"])
    search = Search(network, budget, **options)
    return search.optimize(
        trials, timeout_s=timeout_s, stagnation=stagnation, storage=storage, on_trial=on_trial
    )


_MOST_FAILURES = 3
_WARM_STARTS = 10


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
        table: A `LayerTable`, for seeds that propose by time; None: they count multiplications.
        example: Inputs of one call, to count multiplications for.
        pareto: Whether to search the whole front of time and quality instead of the best quality
            within the budget; then over-budget candidates are judged too.
        warm_start: An earlier search, whose best configurations are tried first.
        seed: Of the sampler; trial n draws with `seed + n`, whatever was interrupted before.
        name: Name of the study in its storage.
        mix_devices: Whether a study timed on another device may go on.
    """

    network: keras.Model
    budget: LatencyBudget
    objective: Objective
    timer: Timer
    space: SearchSpace
    importance: str = "group_l1"
    sampler: str = "tpe"
    pruner: str = "none"
    seeds: Sequence[str] = tuple(SEEDS)
    table: LayerTable | None = None
    example: Any = None
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

        def ended_by() -> str | None:
            if stagnation is not None and _stagnates(_records(study), stagnation):
                return "stagnation"
            return "timeout" if _is_over(started, timeout_s) else None

        with quiet_optuna(), join(open_storage(storage)) as worker:
            study = self._open(worker.storage)
            worker.seed_once(study, lambda: self._seed(study))
            for record in _records(study):
                self._evaluation.remember(record)
            tried: list[TrialRecord] = []
            while not ended_by():
                trial = worker.claim(
                    study, trials, sampler=self._sampler, stop=lambda: ended_by() is not None
                )
                if trial is None:
                    break
                done = worker.work(study, trial, self._objective, catch=(CandidateError,))
                record = TrialRecord.from_trial(done)
                self._evaluation.remember(record)
                tried.append(record)
                if on_trial:
                    on_trial(record)
                _check_failures(tried, describe_storage(worker.storage))
            return self._result(tuple(_records(study)), ended_by() or "trials")

    def _result(self, trials: tuple[TrialRecord, ...], ended_by: str) -> SearchResult:
        error = None if self.table is None else prediction_error(self.table, trials)
        return SearchResult(
            budget=self.budget,
            trials=trials,
            quality_name=self.objective.name,
            space=self.space,
            fingerprint=latency.fingerprint(),
            ended_by=ended_by,
            bottleneck=None if self.table is None else bottleneck(self.table, self.space),
            prediction_error=None if error is None else asdict(error),
        )

    def _open(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        directions = ["maximize", "minimize"] if self.pareto else ["maximize"]
        with storage_errors(storage):
            study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                directions=directions,
                load_if_exists=True,
                pruner=PRUNERS.make(self.pruner),
            )
            now = {
                "network": network_digest(self.network),
                "space": self.space.as_dict(),
                "budget": asdict(self.budget),
                "quality": self.objective.name,
                "directions": directions,
                "fingerprint": latency.fingerprint(),
            }
            if "network" in study.user_attrs:
                where = f"{self.name!r} in {describe_storage(storage)}"
                check_same(study.user_attrs, now, where, mix_devices=self.mix_devices)
            else:
                for key in sorted(now, key="network".__eq__):  # last: then all are there
                    study.set_user_attr(key, now[key])
        return study

    def _seed(self, study: optuna.Study) -> None:
        for origin, configuration in self._proposals():
            study.enqueue_trial(
                self.space.parameters(configuration),
                user_attrs={"origin": origin},
                skip_if_exists=True,
            )

    def _proposals(self) -> Iterator[tuple[str, Configuration]]:
        if self.warm_start is not None:
            for record in self.warm_start.ranking[:_WARM_STARTS]:
                yield "warm start", record.configuration
        yield from propose(
            self.seeds,
            self.network,
            self.space,
            excess=self._excess,
            quality=self._evaluation.quality_as_pruned,
            table=self.table,
            importance=self.importance,
            inputs=self.example,
        )

    def _excess(self, configuration: Configuration) -> float:
        with contextlib.suppress(CandidateError):
            return self._evaluation.timing(configuration).excess
        return math.inf

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return SAMPLERS.make(self.sampler, self.seed + number)

    def _objective(self, trial: optuna.Trial) -> float | tuple[float, float]:
        started = time.perf_counter()
        if "origin" not in trial.user_attrs:
            trial.set_user_attr("origin", self.sampler)
        configuration = self.space.suggest(trial)
        trial.set_user_attr("configuration", configuration.as_dict())
        seconds: dict[str, float] = {}
        try:
            quality, timing = self._evaluation.run(trial, configuration, seconds)
        finally:
            # Written once: to a database every attribute is a transaction.
            overhead = time.perf_counter() - started - sum(seconds.values())
            trial.set_user_attr("seconds", {**seconds, "overhead": overhead})
        return (quality, timing.latency_ratio) if self.pareto else quality


def _records(study: optuna.Study) -> list[TrialRecord]:
    done = (t for t in study.get_trials(deepcopy=False) if t.state.is_finished())
    return [TrialRecord.from_trial(trial) for trial in done]


def _stagnates(records: Sequence[TrialRecord], patience: int) -> bool:
    """Whether the last `patience` trials brought nothing better, once there is something."""
    best, since = None, 0
    for record in records:
        if record.state == FAILED:
            continue
        better = record.state == FEASIBLE and (best is None or (record.quality or 0) > best)
        best, since = (record.quality, 0) if better else (best, since + 1)
    return best is not None and since >= patience


def _is_over(started: float, timeout_s: float | None) -> bool:
    return timeout_s is not None and time.monotonic() - started >= timeout_s


def _check_failures(tried: Sequence[TrialRecord], where: str) -> None:
    """Ends a search whose candidates mostly fail: the cause is not in the candidates."""
    failed = [record for record in tried if record.state == FAILED]
    if len(failed) >= _MOST_FAILURES and len(failed) > len(tried) / 2:
        raise SpadeError(
            f"{len(failed)} of {len(tried)} candidates failed, the last one for this reason: "
            f"{failed[-1].reason} The study is kept in {where}; mend the cause and run again."
        )


def _check_name(argument: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(
            f"`{argument}` must be one of {sorted(known)}. Received: {argument}={name!r}"
        )
