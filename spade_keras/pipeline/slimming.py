"""The stages that slim a network: search, finalists, and the one that is accepted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from spade_keras import latency, pruning, search
from spade_keras.backend.batches import count_samples, first_samples
from spade_keras.errors import BudgetNotMetError
from spade_keras.files import write_bytes_atomic, write_json_atomic
from spade_keras.pipeline.job import Job
from spade_keras.pipeline.progress import ProgressBar
from spade_keras.pipeline.training import fit_by_strategy, strategy_batches, strategy_tuner
from spade_keras.pruning import PruningPlan
from spade_keras.search.acceptance import compare_for, measured, undecided
from spade_keras.search.layer_insights import measured_space
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.receipt import Receipt, write_receipt

_ATTEMPTS = 3


def search_widths(job: Job, folder: Path) -> None:
    """Searches what meets the latency budget at the best quality."""
    settings = job.recipe.search
    network = job.model("train")
    inputs = job.call_of("validation")
    space, table = _space(job, network, inputs)
    with ProgressBar(job.console, "trial", settings.trials) as bar:
        result = search.run(
            network,
            budget=job.budget,
            data=inputs,
            trials=settings.trials,
            timeout_s=settings.timeout_minutes and settings.timeout_minutes * 60,
            stagnation=settings.stagnation,
            storage=settings.storage or folder / "study.journal",
            on_trial=lambda trial: bar.advance(_describe_trial(trial)),
            objective=_objective(job, network),
            timer=_timer(job, network, settings.pairs),
            space=space,
            table=table,
            importance=job.recipe.pruning.importance,
            sampler=settings.sampler,
            pruner=settings.pruner,
            seeds=settings.seeds,
            pareto=settings.pareto,
            example=inputs,
            warm_start=_earlier_search(settings.warm_start),
            seed=job.recipe.run.seed,
            name=job.recipe.run.name,
        )
    write_json_atomic(folder / "result.json", result.as_dict())
    write_json_atomic(folder / "table.json", table and table.as_dict())


def prune(job: Job, folder: Path) -> None:
    """Builds the best candidates that still meet the budget when they are timed again.

    The best of many noisy timings is too good to be true; so candidates are timed afresh, longer
    while it is undecided, in the order of `SearchResult.contenders`, until there are as many
    finalists as the recipe asks for.

    Raises:
        BudgetNotMetError: If none meets the budget.
    """
    network = job.model("train")
    result = job.search_result()
    if not result.ranking:
        raise BudgetNotMetError(result.failure())
    importance = job.recipe.pruning.importance
    finalists: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for trial in result.contenders:
        slim = search.build(network, trial.configuration, importance=importance)
        comparison = _time_again(job, network, slim)
        met = job.budget.excess(comparison) <= 0
        job.console.print(
            f"  trial {trial.number} timed again: {measured(job.budget, comparison)}",
            highlight=False,
        )
        ratio = comparison.ratio.as_dict()
        if not met:
            rejected.append({"number": trial.number, "ratio": ratio})
            continue
        name = f"finalist_{len(finalists)}"
        slim.save(folder / f"{name}.keras")
        plan = search.plan_for(network, trial.configuration, importance=importance)
        write_bytes_atomic(folder / f"{name}.json", plan.to_json().encode())
        finalists.append(
            {
                "name": name,
                "number": trial.number,
                "configuration": trial.configuration.as_dict(),
                "ratio": ratio,
            }
        )
        if len(finalists) == job.recipe.search.finalists:
            break
    if not finalists:
        raise BudgetNotMetError(
            f"{result.failure()} {len(rejected)} candidates that met it during the search missed "
            "it when they were timed again."
        )
    write_json_atomic(folder / "finalists.json", {"finalists": finalists, "rejected": rejected})


def finetune(job: Job, folder: Path) -> None:
    """Fine-tunes every finalist and accepts the best that meets the budget in fresh processes.

    How good one is, is judged by what the strategy may see.

    Raises:
        BudgetNotMetError: If none meets the budget there.
    """
    finalists = job.json("prune", "finalists")["finalists"]
    quality = job.quality(job.model("train"))
    tuned = []
    for finalist in finalists:
        job.seed(2)
        network = job.model("prune", finalist["name"])
        label = "epoch" if len(finalists) == 1 else f"trial {finalist['number']}, epoch"
        history = fit_by_strategy(job, folder, network, label)
        network.save(folder / f"{finalist['name']}.keras")
        tuned.append({**finalist, "quality": quality(network), "history": history})
    tuned.sort(key=lambda finalist: -finalist["quality"])
    measurements: list[dict[str, Any]] = []
    missed: list[str] = []
    for finalist in tuned:
        path = folder / f"{finalist['name']}.keras"
        comparison = _time_afresh(job, path)
        accepted = job.budget.excess(comparison, margin=False) <= 0
        times = measured(job.budget, comparison)
        job.console.print(
            f"  trial {finalist['number']} in fresh processes: {times}", highlight=False
        )
        measurements.append(
            {
                "trial": finalist["number"],
                "accepted": accepted,
                "ratio": comparison.ratio.as_dict(),
                "quality": finalist["quality"],
            }
        )
        if accepted:
            path.rename(folder / "network.keras")
            write_json_atomic(folder / "finalists.json", measurements)
            _record(job, folder, finalist, comparison)
            return
        missed.append(f"trial {finalist['number']} took {times}")
    raise BudgetNotMetError(
        f"No fine-tuned finalist met the latency budget ({job.budget}) when it was timed in "
        f"fresh processes: {'; '.join(missed)}. Run again on a quieter machine, raise "
        "`search.safety_margin`, or allow more `search.finalists`."
    )


def _space(
    job: Job, network: keras.Model, inputs: Any
) -> tuple[search.SearchSpace, LayerTable | None]:
    """The configurations to choose from, and, where layers are timed for it, their times."""
    settings = job.recipe.search
    joint: dict[str, Any] = {
        "iterations": settings.iterations and sorted({*settings.iterations, network.iterations}),
        "dtypes": settings.dtypes and dict.fromkeys([job.recipe.network.dtype, *settings.dtypes]),
    }
    if settings.blocks:
        joint["blocks"] = [block.name for block in pruning.find_residual_blocks(network)]
    if settings.ranks:
        joint["ranks"] = search.rank_choices(network, multiple=settings.width_multiple)
    widths: dict[str, Any] = {
        "multiple": settings.width_multiple,
        "minimum": settings.minimum_width or settings.width_multiple,
    }
    if not settings.staircase:
        groups = pruning.find_groups(network)
        return search.SearchSpace.from_groups(groups, **widths, **joint), None
    return measured_space(network, inputs, **widths, **joint)


def _objective(job: Job, network: keras.Model) -> search.Objective:
    """What the search maximizes: always something that the fine-tuning strategy may see."""
    searched = job.recipe.search
    name = searched.objective_name
    if name == "kept_importance":
        return search.KeptImportance(network, job.recipe.pruning.importance)
    quality = job.quality(network)
    if name == "as_pruned":
        return search.AsPruned(quality)
    settings = job.recipe.finetuning
    return search.ShortFineTune(
        quality,
        lambda candidate: strategy_tuner(job, candidate),
        strategy_batches(job, settings.on),
        learning_rate=settings.learning_rate,
        clip_norm=job.task.clip_norm,
    )


def _timer(job: Job, network: keras.Model, pairs: int) -> Callable[..., latency.Comparison]:
    timer = search.interleaved_timer(
        job.task.timed(network),
        job.call_of("validation"),
        pairs=pairs,
        batch_size=job.budget.batch_size,
        single_calls=job.budget.single_calls,
    )
    return lambda candidate: timer(job.task.timed(candidate))


def _time_again(job: Job, network: keras.Model, slim: keras.Model) -> latency.Comparison:
    """Times a candidate in this process, twice as long again while the target is in doubt."""
    for attempt in range(_ATTEMPTS):
        comparison = _timer(job, network, job.recipe.export.pairs * 2**attempt)(slim)
        if not undecided(job.budget, comparison, margin=True):
            break
    return comparison


def _earlier_search(path: str | None) -> search.SearchResult | None:
    """The result of an earlier run."""
    if path is None:
        return None
    content = json.loads((Path(path).expanduser() / "search" / "result.json").read_text())
    return search.SearchResult.from_dict(content)


def _time_afresh(job: Job, slim: Path) -> latency.Comparison:
    """Times a fine-tuned network as it will be used: to its tolerance, where it has one.

    Every process is given other held-out inputs: the time of some networks depends on them, and
    that of a slim one may depend on them otherwise.
    """
    inputs = job.samples("validation").inputs
    size = job.budget.batch_size
    starts = itertools.cycle(range(0, count_samples(inputs), size))

    def compare(full: Path, slim: Path, _: Any, **options: Any) -> latency.Comparison:
        sample = latency.fill_batch(first_samples(inputs, size, next(starts)), size)
        return latency.compare_in_fresh_process(full, slim, sample, **options)

    return compare_for(
        job.budget,
        job.stages.folder / "train" / "network.keras",
        slim,
        inputs,
        pairs=job.recipe.export.pairs,
        imports=job.task.imports,
        compare=compare,
    )


def _record(
    job: Job, folder: Path, finalist: dict[str, Any], comparison: latency.Comparison
) -> None:
    plan = PruningPlan.from_json(
        (job.stages.folder / "prune" / f"{finalist['name']}.json").read_text()
    )
    configuration = search.Configuration.from_dict(finalist["configuration"])
    write_bytes_atomic(folder / "plan.json", plan.to_json().encode())
    write_json_atomic(folder / "history.json", finalist["history"])
    write_json_atomic(
        folder / "chosen.json",
        {
            "name": finalist["name"],
            "number": finalist["number"],
            "widths": plan.widths,
            "configuration": finalist["configuration"],
            "quality": finalist["quality"],
            "ratio": comparison.ratio.as_dict(),
            "latency_ms": comparison.b.median_ms,
        },
    )
    receipt = Receipt.of(
        job.stages.folder / "train" / "network.keras",
        folder / "network.keras",
        budget=job.budget,
        comparison=comparison,
        plan=plan,
        configuration=configuration,
        imports=job.task.imports,
    )
    write_receipt(folder / "receipt.json", receipt)


def _describe_trial(trial: search.TrialRecord) -> str:
    if trial.latency_ratio is None:
        return f"#{trial.number} failed"
    quality = trial.state if trial.quality is None else f"quality {trial.quality:.4g}"
    return f"#{trial.number} {trial.origin}: ratio {trial.latency_ratio:.3f}, {quality}"
