"""The end of a search: its best candidates rebuilt, fine-tuned, timed again, and one accepted."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from spade_keras import latency
from spade_keras.backend.batches import count_samples, first_samples
from spade_keras.errors import BudgetNotMetError
from spade_keras.files import load_model, save_model, write_bytes_atomic
from spade_keras.pruning import Calibration, PruningPlan
from spade_keras.pruning.importance import find_importance
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import plan_for, realize
from spade_keras.search.objective import Objective
from spade_keras.search.receipt import ModelIdentity, Quality, Receipt, write_receipt
from spade_keras.search.result import SearchResult
from spade_keras.search.scores import HeldOutScore, OutputAgreement
from spade_keras.search.space import Configuration
from spade_keras.search.trial import Timer

Compare = Callable[..., latency.Comparison]
"""Has the signature of `latency.compare_in_fresh_process`."""
FineTune = Callable[[keras.Model, keras.Model], Any]
"""Called with the slim and the full model; trains the slim one, or returns another to take."""

PROCESSES, MOST_PROCESSES = 3, 9
_PAIRS, _TAIL_PAIRS = 30, 600
_ATTEMPTS, _HALVINGS = 3, 5
_COMPARED = 64  # samples of which full and slim outputs are compared


@dataclass(frozen=True)
class Finalist:
    """A candidate that was timed again after the search.

    `comparison` is the latest measurement, interleaved with the full model; `quality` that of the
    search, None where it was widened, then of its final form; and `accepted` whether it met the
    budget in fresh processes.
    """

    trial: int
    configuration: Configuration
    plan: PruningPlan
    comparison: latency.Comparison
    quality: float | None = None
    accepted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "trial": self.trial,
            "accepted": self.accepted,
            "ratio": self.comparison.ratio.as_dict(),
            "quality": self.quality,
        }


Candidate = tuple[Finalist, keras.Model]


def preselect(
    network: keras.Model,
    result: SearchResult,
    *,
    count: int,
    timer: Callable[[int], Timer],
    pairs: int,
    rejected: list[Finalist],
    say: Callable[[str], None],
    calibration: Calibration | None = None,
) -> Iterator[Iterator[Candidate]]:
    """Rebuilds contenders `count` at a time and yields those that meet the budget, timed again.

    The best of many noisy timings is too optimistic. So each contender is timed again in this
    process, by `timer(pairs)`, for longer while it is undecided, and must meet the budget with its
    safety margin; those that miss it are added to `rejected`. The network is in the dtype of the
    budget; with a calibration of it, readers are refitted layer by layer: those of candidates that
    are asked for, since weights do not change the time.

    One that leaves room in the budget is widened: all widths move toward the full ones, halving
    the way in at most five timings. After each group comes one, which may be empty, of those
    that were widened, as the search found them: in case the wider ones miss in fresh processes.
    """
    budget, importance = result.budget, find_importance(result.importance, calibration)
    timer = functools.cache(timer)  # each one compiles the full network

    def refitted(finalists: Sequence[Finalist]) -> Iterator[Candidate]:
        for finalist in finalists:
            chosen = finalist.configuration
            plan = plan_for(network, chosen, importance=importance, calibration=calibration)
            yield replace(finalist, plan=plan), realize(network, chosen, plan, calibration)

    def passing() -> Iterator[tuple[Finalist, Finalist]]:
        for trial in result.contenders:
            plan = plan_for(network, trial.configuration, importance=importance)
            slim = realize(network, trial.configuration, plan)
            for attempt in range(_ATTEMPTS):
                comparison = timer(pairs * 2**attempt)(slim)
                if not budget.is_undecided(comparison, margin=True):
                    break
            say(f"trial {trial.number} timed again: {budget.describe(comparison)}")
            finalist = Finalist(trial.number, trial.configuration, plan, comparison, trial.quality)
            if budget.excess(comparison) > 0:
                rejected.append(finalist)
                continue
            wider = _widened(network, result, finalist, timer(pairs))
            if wider is not finalist:
                described = budget.describe(wider.comparison)
                say(f"trial {trial.number} widened: {described}, with {wider.configuration}")
            yield finalist, wider

    passed = passing()
    while group := list(itertools.islice(passed, count)):
        yield refitted([wider for _, wider in group])
        yield refitted([found for found, wider in group if found is not wider])


def _widened(
    network: keras.Model, result: SearchResult, finalist: Finalist, time: Timer
) -> Finalist:
    """The widest that was found to meet the budget, not judged yet; or the finalist itself."""
    budget, own, widest = result.budget, finalist.configuration, finalist
    fits = {own.key(): True}
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        if not budget.leaves_room(widest.comparison):
            break
        middle = (low + high) / 2
        wider = result.space.widen(own, middle)
        if wider.key() not in fits:
            plan = plan_for(network, wider)
            comparison = time(realize(network, wider, plan))
            fits[wider.key()] = budget.excess(comparison) <= 0
            if fits[wider.key()]:
                widest = Finalist(finalist.trial, wider, plan, comparison)
        low, high = (middle, high) if fits[wider.key()] else (low, middle)
    return widest


def accept(  # noqa: PLR0913 - every setting is a keyword of its own
    groups: Iterable[Iterable[Candidate]],
    *,
    full: keras.Model,
    full_path: Path,
    slim_path: Path,
    inputs: Any,
    budget: LatencyBudget,
    score: Objective,
    say: Callable[[str], None],
    finetune: FineTune | None = None,
    pairs: int | None = None,
    imports: Sequence[str] = (),
    compare: Compare | None = None,
) -> tuple[list[Finalist], Finalist | None]:
    """Fine-tunes candidates and accepts the best that meets the budget in fresh processes.

    They are taken group by group: all are tuned and scored (higher is better), then timed in their
    final form, best first, until one meets the budget, safety margin aside, with the pessimistic
    end of its interval, and is expected to meet it again (see `LatencyBudget.is_met_again`).
    Without `finetune` they are shipped as pruned.

    Every process gets other ones of the held-out inputs, since the time of some networks depends
    on them, and that of a slim one may depend on them differently. The full model is in the dtype
    of the budget; `full_path` is its original file. The accepted model goes to `slim_path`,
    `plan.json` and `receipt.json` beside it. See `compare_for` for the last three arguments.

    Returns:
        Those timed in fresh processes, in that order; and the accepted one, if any.
    """
    folder = slim_path.parent
    reference = full_path
    if budget.dtype is not None:
        reference = folder / ".full.keras"
        save_model(full, reference)
    compare = _with_varied_inputs(inputs, budget.batch_size, compare)
    tried: list[Finalist] = []
    for group in groups:
        tuned: list[tuple[Finalist, Path]] = []
        for finalist, slim in group:
            if finetune is not None:
                slim = finetuned(finetune, slim, full)
            finalist = replace(finalist, quality=float(score(slim)))
            path = folder / f"finalist_{len(tried) + len(tuned)}.keras"
            save_model(slim, path)
            tuned.append((finalist, path))
        for finalist, path in sorted(tuned, key=_by_quality):
            comparison = compare_for(
                budget, reference, path, inputs, pairs=pairs, imports=imports, compare=compare
            )
            met = budget.is_met_again(comparison)
            say(
                f"trial {finalist.trial} in fresh processes {'meets' if met else 'misses'} the "
                f"budget: {budget.describe(comparison)}"
            )
            tried.append(replace(finalist, comparison=comparison, accepted=met))
            if met:
                path.rename(slim_path)
                quality = _judged(finalist, slim_path, full, score, inputs)
                if quality.warning:
                    say(quality.warning)
                _record(tried[-1], quality, full_path, slim_path, budget, imports)
                return tried, tried[-1]
    return tried, None


def not_met(
    result: SearchResult, rejected: Sequence[Finalist], tried: Sequence[Finalist] = ()
) -> BudgetNotMetError:
    """Says why no finalist was accepted.

    `rejected` missed the budget when timed again in one process, `tried` in fresh processes.
    """
    if tried:
        times = [f"trial {f.trial} took {result.budget.describe(f.comparison)}" for f in tried]
        return BudgetNotMetError(
            f"No finalist met the latency budget ({result.budget}) when it was timed in fresh "
            f"processes: {'; '.join(times)}. Rerun on a quieter machine, raise `safety_margin`, or "
            "allow more `finalists`."
        )
    missed = (
        f" {len(rejected)} candidates that met it during the search missed it when they were "
        "timed again."
    )
    return BudgetNotMetError(result.failure() + (missed if rejected else ""))


def compare_for(
    budget: LatencyBudget,
    full: Path,
    slim: Path,
    inputs: Any,
    *,
    pairs: int | None = None,
    mode: str | None = None,
    imports: Sequence[str] = (),
    compare: Compare | None = None,
) -> latency.Comparison:
    """Times two saved models interleaved in several processes, as a budget demands.

    Three processes show how much processes differ. Until the budget is missed, or is expected to
    be met by as many again, three more are added, up to nine in all: a close call is decided by
    more evidence, never by the best of several tries, since all of them count. They are pooled.

    By default the first three make 30 windows of each model together, or 600 single calls for a
    tail. `mode` is that of `latency.compare`, `imports` are modules that register the models' own
    classes, and `compare` times them: by default `latency.compare_in_fresh_process`.
    """
    compare = compare or latency.compare_in_fresh_process
    pairs = pairs or (_TAIL_PAIRS if budget.single_calls else _PAIRS)
    options: dict[str, Any] = {
        "pairs": max(5, math.ceil(pairs / PROCESSES)),
        "mode": mode,
        "single_calls": budget.single_calls,
        "imports": imports,
    }
    comparisons: list[latency.Comparison] = []
    while len(comparisons) < MOST_PROCESSES:
        comparisons += [compare(full, slim, inputs, **options) for _ in range(PROCESSES)]
        pooled = latency.pool(comparisons)
        if budget.is_met_again(pooled) or budget.is_missed(pooled):
            break
    return pooled


def finetuned(finetune: FineTune, slim: keras.Model, full: keras.Model) -> keras.Model:
    """Returns the model that a `FineTune` has trained, in place or as another one.

    Raises:
        ValueError: If the function returns anything but a model or None.
    """
    returned = finetune(slim, full)
    if returned is None:
        return slim
    if not isinstance(returned, keras.Model):
        raise ValueError(
            "`finetune` must train the model it is given and return nothing, or return a Keras "
            f"model to take in its place. Received: {type(returned).__name__}"
        )
    return returned


def _with_varied_inputs(inputs: Any, size: int, compare: Compare | None) -> Compare:
    starts = itertools.cycle(range(0, count_samples(inputs), size))

    def varied(full: Path, slim: Path, _: Any, **options: Any) -> latency.Comparison:
        sample = latency.fill_batch(first_samples(inputs, size, next(starts)), size)
        return (compare or latency.compare_in_fresh_process)(full, slim, sample, **options)

    return varied


def _by_quality(tuned: tuple[Finalist, Path]) -> float:
    quality = tuned[0].quality
    return math.inf if quality is None or math.isnan(quality) else -quality


def _judged(
    accepted: Finalist, slim: Path, full: keras.Model, score: Objective, inputs: Any
) -> Quality:
    value = agreement = accepted.quality
    assert value is not None and agreement is not None  # it was scored
    if not isinstance(score, OutputAgreement):
        agreement = OutputAgreement(full, first_samples(inputs, _COMPARED))(load_model(slim))
    least = score.least(full) if isinstance(score, HeldOutScore) else None
    return Quality(score.name, value, least, agreement)


def _record(
    accepted: Finalist,
    quality: Quality,
    full: Path,
    slim: Path,
    budget: LatencyBudget,
    imports: Sequence[str],
) -> None:
    write_bytes_atomic(slim.parent / "plan.json", accepted.plan.to_json().encode())
    receipt = Receipt(
        budget=budget,
        comparison=accepted.comparison,
        plan=accepted.plan,
        configuration=accepted.configuration,
        full=ModelIdentity.of(full),
        slim=ModelIdentity.of(slim),
        imports=tuple(imports),
        trial=accepted.trial,
        quality=quality,
    )
    write_receipt(slim.parent / "receipt.json", receipt)
