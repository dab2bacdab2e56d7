"""The stages of a transfer that judge and ship: the table, exports, and the report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from spade_keras import latency
from spade_keras.backend.batches import predict
from spade_keras.export import check_saved_models, export_model
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.transfer_job import TransferJob
from spade_keras.pruning import LayerRank, PruningPlan, RankStep
from spade_keras.report import write_transfer_report
from spade_keras.transfer import measure_cost

SHIPPED = ("basis", "double")
_MOST_CHECKED = 256


def evaluate(job: TransferJob, folder: Path) -> None:
    """Scores every network on the test data, and times each in turn with the original."""
    settings = job.recipe.evaluation
    networks = job.arms()
    options = {"batch_size": settings.batch_size, "pairs": settings.pairs}
    costs = {
        name: measure_cost(network, networks["original"], job.target, **options)
        for name, network in networks.items()
    }
    sample = job.target["test"][0][: settings.batch_size]
    write_json_atomic(
        folder / "evaluation.json",
        {"networks": costs, "fingerprint": latency.fingerprint(sample)},
    )


def export(job: TransferJob, folder: Path) -> None:
    """Exports the pruned networks with their plans; checks and times them where no Keras is."""
    test = job.target["test"][0]
    batch = job.recipe.evaluation.batch_size
    inputs = latency.fill_batch(test[:_MOST_CHECKED], max(batch, min(len(test), _MOST_CHECKED)))
    networks = {name: job.model(name) for name in ("original", *SHIPPED)}
    expected = {}
    for name, network in networks.items():
        export_model(network, folder / name, inputs[:1])
        expected[name] = predict(network, inputs, batch_size=batch)
    checks = {}
    for name in SHIPPED:
        stage = job.stages.folder / name
        shutil.copyfile(stage / "network.keras", folder / f"{name}.keras")
        shutil.copyfile(stage / "plan.json", folder / f"{name}_plan.json")
        pair = ("original", name)
        checks[name] = check_saved_models(
            {arm: folder / arm for arm in pair},
            inputs,
            {arm: expected[arm] for arm in pair},
            pairs=job.recipe.export.pairs,
            timing_batch=batch,
        ).as_dict()
    write_json_atomic(folder / "check.json", checks)


def report(job: TransferJob) -> dict[str, Any]:
    """Writes `metrics.json`, `report.html` and its picture at the top of the run's folder."""
    metrics = _collect_metrics(job)
    write_transfer_report(job.recipe.run_folder, metrics)
    write_json_atomic(job.recipe.run_folder / "metrics.json", metrics)
    return metrics


def _collect_metrics(job: TransferJob) -> dict[str, Any]:
    """Gathers what the stages measured, as plain JSON values.

    Times in milliseconds; ratios are network / original, timed in turn, with 95 % interval.
    """
    recipe, facts = job.recipe, job.json("data", "facts")
    evaluation, checks = job.json("evaluate", "evaluation"), job.json("export", "check")
    return {
        "task": recipe.run.task,
        "networks": evaluation["networks"],
        "ranks": _rank_rows(job),
        "rounds": {name: job.json(name, "rounds") for name in SHIPPED},
        "samples": facts["samples"],
        "batch_size": recipe.evaluation.batch_size,
        "allowed_loss": recipe.pruning.allowed_loss,
        "tuning_epochs": recipe.pruning.tuning_epochs,
        "teacher_share": recipe.pruning.teacher_share,
        "export": {
            name: {
                "format": recipe.export.format,
                "ratio": check["ratio"],
                "max_abs_error": max(check["max_abs_error"].values()),
                "relative_error": max(check["relative_error"].values()),
            }
            for name, check in checks.items()
        },
        "data_note": facts["note"],
        "seconds": job.stages.seconds(),
        "fingerprint": evaluation["fingerprint"],
    }


def _rank_rows(job: TransferJob) -> list[dict[str, Any]]:
    """Components of every layer: all, and those that stay in either pruned network."""
    kept = {name: _layers(job, name) for name in SHIPPED}
    rows = []
    for name, layer in kept["basis"].items():
        row: dict[str, Any] = {"layer": name, "components": layer.rank}
        for arm in SHIPPED:
            found = kept[arm].get(name)
            # A layer of a single channel has nothing to decompose.
            row[arm] = len(found.kept) if found else 1
            row[f"{arm}_of"] = found.rank if found else 1
            row[f"{arm}_form"] = found.form if found else "one"
        rows.append(row)
    return rows


def _layers(job: TransferJob, stage: str) -> dict[str, LayerRank]:
    plan = PruningPlan.from_json((job.stages.folder / stage / "plan.json").read_text())
    ranks = plan.steps[-1]
    assert isinstance(ranks, RankStep)  # either network ends with components
    return {layer.name: layer for layer in ranks.layers}
