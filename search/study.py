"""The search itself: propose a configuration, time the network that has it, keep or reject it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import keras
import numpy as np
import optuna

from spade_keras import latency, pruning
from spade_keras.backend.batches import count_samples
from spade_keras.errors import CandidateError, SpadeError
from spade_keras.pruning.importance import ImportanceFunction, find_importance
from spade_keras.registry import PRUNERS, SAMPLERS
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import CandidateBuilder, in_dtype
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.objective import KeptImportance, Objective
from spade_keras.search.options import SearchFields, SearchOptions
from spade_keras.search.receipt import check_same, network_digest
from spade_keras.search.result import FAILED, FEASIBLE, SearchResult, TrialRecord
from spade_keras.search.scores import OutputError, TeacherAgreement, ValidationPSNR
from spade_keras.search.seeds import propose
from spade_keras.search.space import Configuration, SearchSpace, choose_space
from spade_keras.search.storage import describe_storage, open_storage, quiet_optuna, storage_errors
from spade_keras.search.trial import Evaluation, Timer, interleaved_timer
from spade_keras.search.workers import join


def run(  # noqa: PLR0913 - every setting is a keyword of its own
    network: keras.Model,
    *,
    data: Any,
    budget: LatencyBudget | float | str | None = None,
    options: SearchOptions | None = None,
    timer: Timer | None = None,
    space: SearchSpace | None = None,
    table: LayerTable | None = None,
    importance: str = "group_l1",
    calibration: pruning.Calibration | None = None,
    seed: int = 0,
    name: str = "widths",
    on_trial: Callable[[TrialRecord], None] | None = None,
    **fields: Unpack[SearchFields],
) -> SearchResult:
    """Searches a network for the best quality within a latency budget.

    An interrupted search continues when it is run again with the same `storage`.

    Args:
        network: The trained full network; it is left as it is.
        data: Held-out data, samples first: inputs alone (an unnamed objective is then the agreement
            with `network`), or a tuple `(inputs, targets)` (it is then the PSNR).
        budget: A `LatencyBudget`, or what its `parse` reads; None: that of `options`.
        options: See `SearchOptions`; None: the defaults.
        timer: Times a candidate; None: interleaved with `network`, in this process.
        space: The search space; None: see `choose_space`.
        table: Times of the layers, for seeds that propose by time; None: they count MACs.
        importance: Criterion by which channels are kept.
        calibration: Statistics of `network` (`pruning.calibrate`), by which the readers of every
            candidate are refitted in closed form; needed for the importance "obs". None: with
            `compensate`, they are measured on the inputs of `data`.
        seed: Seed of the sampler; trial n draws with `seed + n`, also after an interruption.
        name: Name of the study in its storage.
        on_trial: Called with every finished trial.
        **fields: Fields of `SearchOptions`, in place of those of `options`.

    Returns:
        A `SearchResult`, whose `best` raises when nothing met the budget.

    Raises:
        ValueError: If an option is unknown or out of its range.
        SpadeError: If `storage` holds a study of that name for another network, space, budget,
            objective or device; or if most trials fail.
    """
    given: dict[str, Any] = dict(fields)
    objective, warm_start, storage = (
        given.pop(key, getattr(options, key, None))
        for key in ("objective", "warm_start", "storage")
    )
    named = objective if isinstance(objective, str | None) else None
    options = SearchOptions.of(budget, options, objective=named, **given)
    limit = options.budget
    inputs, targets = data if isinstance(data, tuple) else (data, None)
    if calibration is None and options.compensate and inputs is not None:
        calibration = pruning.calibrate(network, inputs)
    if not isinstance(objective, Objective):
        criterion = find_importance(importance, calibration)
        objective = _objective(options, network, inputs, targets, criterion)
    network = in_dtype(network, limit.dtype)
    example = None if inputs is None else latency.fill_batch(inputs, limit.batch_size)
    if timer is None:
        timer = interleaved_timer(
            network,
            inputs,
            pairs=options.pairs,
            batch_size=limit.batch_size,
            single_calls=limit.single_calls,
        )
    if space is None:
        space, table = choose_space(network, example, options)
    if warm_start is not None and not isinstance(warm_start, SearchResult):
        warm_start = SearchResult.read(warm_start)
    search = Search(
        network=network,
        objective=objective,
        timer=timer,
        space=space,
        options=options,
        importance=importance,
        calibration=calibration,
        table=table,
        example=example,
        samples=None if inputs is None else _some(inputs),
        warm_start=warm_start,
        seed=seed,
        name=name,
    )
    return search.optimize(storage, on_trial)


def _some(inputs: Any) -> Any:
    """A few samples, spread over all."""
    count = count_samples(inputs)
    places = np.unique(np.linspace(0, count - 1, _SAMPLES).round().astype(int))
    return keras.tree.map_structure(lambda x: keras.ops.convert_to_numpy(x)[places], inputs)


def _objective(
    options: SearchOptions,
    network: keras.Model,
    inputs: Any,
    targets: Any,
    importance: ImportanceFunction,
) -> Objective:
    if options.objective == "kept_importance":
        return KeptImportance(network, importance)
    if options.objective == "short_finetune":
        raise ValueError(
            "`objective` must be search.ShortFineTune(score, tuner, batches), which says what to "
            "train on. Received: objective='short_finetune'"
        )
    if targets is None:
        return TeacherAgreement(inputs, network)
    return ValidationPSNR(inputs, targets)


_MOST_FAILURES = 3
_WARM_STARTS = 10
_SAMPLES = 8


@dataclass
class Search:
    """One search, with the arguments of `run`; the network is in the dtype of the budget.

    With `pareto` candidates over the budget are judged too. `example` are the inputs of one call,
    `samples` those on which seeds compare the outputs of cuts with the network's.
    """

    network: keras.Model
    objective: Objective
    timer: Timer
    space: SearchSpace
    options: SearchOptions
    importance: str = "group_l1"
    calibration: pruning.Calibration | None = None
    table: LayerTable | None = None
    example: Any = None
    samples: Any = None
    warm_start: SearchResult | None = None
    seed: int = 0
    name: str = "widths"

    def __post_init__(self) -> None:
        if self.options.pareto and self.options.pruner != "none":
            raise ValueError(
                "`pruner` must be 'none' with `pareto=True`: Optuna's pruners compare one "
                f"objective alone. Received: pruner={self.options.pruner!r}"
            )
        self.budget = self.options.budget
        self._criterion = find_importance(self.importance, self.calibration)
        builder = CandidateBuilder(
            self.network, importance=self._criterion, calibration=self.calibration
        )
        self._evaluation = Evaluation(
            builder, self.timer, self.budget, self.objective, judge_all=self.options.pareto
        )

    def optimize(
        self,
        storage: optuna.storages.BaseStorage | str | Path | None = None,
        on_trial: Callable[[TrialRecord], None] | None = None,
    ) -> SearchResult:
        """Runs until enough trials are finished; see `run`."""
        started, options = time.monotonic(), self.options

        def ended_by() -> str | None:
            minutes, patience = options.timeout_minutes, options.stagnation
            if patience is not None and _stagnates(_records(study), patience):
                return "stagnation"
            over = minutes is not None and time.monotonic() - started >= 60 * minutes
            return "timeout" if over else None

        def sampler(number: int) -> optuna.samplers.BaseSampler:
            return SAMPLERS.make(options.sampler, self.seed + number)

        with quiet_optuna(), join(open_storage(storage)) as worker:
            study = self._open(worker.storage)
            worker.seed_once(study, lambda: self._seed(study))
            for record in _records(study):
                self._evaluation.remember(record)
            tried: list[TrialRecord] = []
            while not ended_by():
                trial = worker.claim(study, options.trials, sampler=sampler, stop=ended_by)
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

    @property
    def _quality_name(self) -> str:
        """What is maximized; candidates that are refitted do not compare with cut ones."""
        return self.objective.name + (", readers refitted" if self.calibration else "")

    def _result(self, trials: tuple[TrialRecord, ...], ended_by: str) -> SearchResult:
        timed = [(t.configuration, t.timing.latency_ms) for t in trials if t.timing is not None]
        error = None if self.table is None else self.table.held_out_error(timed)
        return SearchResult(
            budget=self.budget,
            trials=trials,
            quality_name=self._quality_name,
            space=self.space,
            fingerprint=latency.fingerprint(),
            ended_by=ended_by,
            bottleneck=None if self.table is None else self.table.bottleneck(self.space),
            prediction_error=None if error is None else asdict(error),
            importance=self.importance,
        )

    def _open(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        directions = ["maximize", "minimize"] if self.options.pareto else ["maximize"]
        with storage_errors(storage):
            study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                directions=directions,
                load_if_exists=True,
                pruner=PRUNERS.make(self.options.pruner),
            )
            now = {
                "network": network_digest(self.network),
                "space": self.space.as_dict(),
                "budget": asdict(self.budget),
                "quality": self._quality_name,
                "directions": directions,
                "fingerprint": latency.fingerprint(),
            }
            if "network" in study.user_attrs:
                where = f"{self.name!r} in {describe_storage(storage)}"
                check_same(study.user_attrs, now, where, mix_devices=self.options.mix_devices)
            else:
                for key in sorted(now, key="network".__eq__):  # last: then all are there
                    study.set_user_attr(key, now[key])
        return study

    def _seed(self, study: optuna.Study) -> None:
        known = () if self.warm_start is None else self.warm_start.ranking[:_WARM_STARTS]
        proposals = propose(
            self.options.seeds,
            self.network,
            self.space,
            excess=self._excess,
            quality=self._evaluation.quality_as_pruned,
            table=self.table,
            importance=self._criterion,
            inputs=self.example,
            fidelity=self._fidelity(),
        )
        for origin, configuration in (
            *(("warm start", record.configuration) for record in known),
            *proposals,
        ):
            study.enqueue_trial(
                self.space.parameters(configuration),
                user_attrs={"origin": origin},
                skip_if_exists=True,
            )

    def _fidelity(self) -> Callable[[Configuration], float] | None:
        """Minus the output error of candidates as pruned, where their readers are refitted."""
        if self.calibration is None or self.samples is None:
            return None
        judge = OutputError(self.network, self.samples)
        return replace(self._evaluation, objective=judge).quality_as_pruned

    def _excess(self, configuration: Configuration) -> float:
        with contextlib.suppress(CandidateError):
            return self._evaluation.timing(configuration).excess
        return math.inf

    def _objective(self, trial: optuna.Trial) -> float | tuple[float, float]:
        started = time.perf_counter()
        if "origin" not in trial.user_attrs:
            trial.set_user_attr("origin", self.options.sampler)
        configuration = self.space.suggest(trial)
        trial.set_user_attr("configuration", configuration.as_dict())
        seconds: dict[str, float] = {}
        try:
            quality, timing = self._evaluation.run(trial, configuration, seconds)
        finally:
            # Written once: to a database every attribute is a transaction.
            overhead = time.perf_counter() - started - sum(seconds.values())
            trial.set_user_attr("seconds", {**seconds, "overhead": overhead})
        return (quality, timing.latency_ratio) if self.options.pareto else quality


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


def _check_failures(tried: Sequence[TrialRecord], where: str) -> None:
    """Ends a search whose candidates mostly fail: the cause is not in the candidates."""
    failed = [record for record in tried if record.state == FAILED]
    if len(failed) >= _MOST_FAILURES and len(failed) > len(tried) / 2:
        raise SpadeError(
            f"{len(failed)} of {len(tried)} candidates failed, the last one for this reason: "
            f"{failed[-1].reason} The study is kept in {where}; fix the cause and rerun."
        )


# Samplers, each made from a seed, and pruners: Optuna's, with the settings of a search.


def _seeded(kind: type[Any], **settings: Any) -> Callable[[int], optuna.samplers.BaseSampler]:
    return lambda seed: kind(seed=seed, **settings)


tpe = _seeded(optuna.samplers.TPESampler, n_startup_trials=8)
gp = _seeded(optuna.samplers.GPSampler)  # needs PyTorch, and suits at most about 300 trials
nsga2 = _seeded(optuna.samplers.NSGAIISampler, population_size=16)  # made for two objectives
random = _seeded(optuna.samplers.RandomSampler)
no_pruner = optuna.pruners.NopPruner
median = optuna.pruners.MedianPruner
hyperband = optuna.pruners.HyperbandPruner
successive_halving = optuna.pruners.SuccessiveHalvingPruner
