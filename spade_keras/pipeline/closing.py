"""The stages that judge and ship: scores on test data, exports, and the report."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from spade_keras import latency, pruning
from spade_keras.backend.batches import first_samples, predict
from spade_keras.errors import BudgetNotMetError
from spade_keras.export import CheckReport, check_saved_models, export_model
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.front_panels import front_panels
from spade_keras.report import FrontPanel, Remeasured, SearchFindings, write_report
from spade_keras.search.finalists import compare_for
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.receipt import read_receipt
from spade_keras.search.result import TrialRecord
from spade_keras.tasks import Samples

if TYPE_CHECKING:
    from spade_keras.pipeline.latency_run import LatencyJob

# The checked inputs go through a file, and real test sets are large.
_MOST_CHECKED_BYTES = 2**28


def evaluate(job: LatencyJob, folder: Path) -> None:
    """Scores every network on the test data, and times full and slim interleaved."""
    test = job.samples("test")
    full, slim = job.full, job.model("finetune")
    networks = {
        "full": full,
        "pruned": job.model("prune", job.json("finetune", "chosen")["name"]),
        "finetuned": slim,
    }
    for rival in job.json("rivals", "rivals"):
        networks[rival] = job.model("rivals", rival)
    outputs = job.task.baselines(test)
    outputs |= {name: predict(network, test.inputs) for name, network in networks.items()}
    sample = job.call_of("test")
    timing = latency.compare(
        full,
        slim,
        sample,
        pairs=job.recipe.export.pairs,
        single_calls=job.budget.single_calls,
    )
    shown = [*job.task.baselines(test.take(0, 1)), "full", "finetuned"]
    pictures = job.task.panel(test, {name: outputs[name] for name in shown})
    np.savez(folder / "panel.npz", **pictures)  # type: ignore[arg-type]
    np.savez(folder / "front.npz", **_front_pictures(job, test))  # type: ignore[arg-type]
    write_json_atomic(
        folder / "evaluation.json",
        {
            "quality": {name: job.task.scores(test, output) for name, output in outputs.items()},
            "networks": {
                name: job.task.network_facts(network, test)
                for name, network in {"full": full, "slim": slim}.items()
            },
            "latency_ms": {"full": _quartiles(timing.a), "slim": _quartiles(timing.b)},
            "latency_ratio": timing.ratio.as_dict(),
            "parameters": {
                "full": pruning.count_parameters(full),
                "slim": pruning.count_parameters(slim),
            },
            "macs": {
                "full": pruning.count_macs(full, sample).total,
                "slim": pruning.count_macs(slim, sample).total,
            },
            "fingerprint": latency.fingerprint(sample),
        },
    )


def export(job: LatencyJob, folder: Path) -> None:
    """Exports full and slim network, and checks and times both without Keras.

    Raises:
        BudgetNotMetError: If the exported slim network misses the budget.
    """
    test = job.samples("test").inputs
    networks = {"full": job.full, "slim": job.model("finetune")}
    sample = first_samples(test, 1)
    for name, network in networks.items():
        export_model(network, folder / name, sample)
    check, comparison = _check_exports(job, folder, networks, test)
    excess = job.budget.excess(comparison, margin=False)
    if excess > 0:
        raise BudgetNotMetError(
            f"The slim network met the latency budget ({job.budget}) in Keras but not as "
            f"exported: it took {job.budget.describe(comparison)}. Run again on a quieter "
            "machine, or raise `search.safety_margin`."
        )
    write_json_atomic(folder / "check.json", {**check.as_dict(), "excess": excess})


def report(job: LatencyJob) -> dict[str, Any]:
    """Writes `metrics.json`, `report.html` and its pictures at the top of the run's folder."""
    metrics = _collect_metrics(job)
    result = job.search_result()
    table = job.json("search", "table")
    with (
        np.load(job.stages.folder / "evaluate" / "panel.npz") as panel,
        np.load(job.stages.folder / "evaluate" / "front.npz") as front,
    ):
        found = SearchFindings(
            result=result,
            table=table and LayerTable.from_dict(table),
            receipt=read_receipt(job.stages.folder / "finetune" / "receipt.json"),
            front_panels=_read_panels(front, result.trials),
            chosen=metrics["search"]["chosen"]["number"],
            finalists=[Remeasured.from_dict(f) for f in job.json("finetune", "finalists")],
        )
        write_report(job.recipe.run_folder, metrics, found, panel=dict(panel) or None)
    write_json_atomic(job.recipe.run_folder / "metrics.json", metrics)
    return metrics


def _collect_metrics(job: LatencyJob) -> dict[str, Any]:
    """Gathers what the stages measured.

    Args:
        job: A job all of whose stages are finished.

    Returns:
        Plain JSON values. Latencies in milliseconds; ratios are slim / full, timed interleaved,
        with their 95 % interval; `exported_excess` is measured / allowed - 1;
        `export.max_abs_error` is in the unit of the outputs, the worse of both networks.
    """
    evaluation = job.json("evaluate", "evaluation")
    check = job.json("export", "check")
    result = job.search_result()
    latency_ms = {
        name: {
            "keras": in_keras,
            "exported": {q: check["latency"][name][f"{q}_ms"] for q in ("median", "q1", "q3")},
        }
        for name, in_keras in evaluation["latency_ms"].items()
    }
    recipe, task, facts = job.recipe, job.task, job.json("data", "facts")
    return {
        "task": recipe.run.task,
        "columns": dict(task.columns),
        "quality": evaluation["quality"],
        "networks": evaluation["networks"],
        "latency_ms": latency_ms,
        "latency_ratio": evaluation["latency_ratio"],
        "exported_ratio": check["ratio"],
        "exported_excess": check["excess"],
        "latency_budget": recipe.search.latency_budget,
        "budget": str(result.budget),
        "parameters": evaluation["parameters"],
        "macs": evaluation["macs"],
        "trials": result.counts(),
        "search": {
            "quality": result.quality_name,
            "target": result.budget.target,
            "ended_by": result.ended_by,
            "chosen": job.json("finetune", "chosen"),
            "rejected": job.json("prune", "finalists")["rejected"],
        },
        "rivals": job.json("rivals", "rivals"),
        "finetuning": {"strategy": recipe.finetuning.strategy, "on": recipe.finetuning.on},
        "export": {
            "format": recipe.export.format,
            "max_abs_error": max(check["max_abs_error"].values()),
            "relative_error": max(check["relative_error"].values()),
        },
        "data_note": facts["note"],
        "skipped": facts["skipped"],
        "convention_name": task.convention_name,
        "convention": task.convention,
        **task.facts(job.samples("test")),
        "seconds": job.stages.seconds(),
        "fingerprint": evaluation["fingerprint"],
    }


def _check_exports(
    job: LatencyJob, folder: Path, networks: Mapping[str, keras.Model], test: Any
) -> tuple[CheckReport, latency.Comparison]:
    """Checks both exports and times them, in several processes, in more while it is undecided."""
    single = first_samples(test, 1)
    size = sum(np.asarray(array).nbytes for array in keras.tree.flatten(single))
    samples = min(len(job.samples("test")), max(1, _MOST_CHECKED_BYTES // size))
    samples = max(job.budget.batch_size, samples)
    inputs = latency.fill_batch(first_samples(test, samples), samples)
    expected = {name: predict(network, inputs) for name, network in networks.items()}
    checks: list[CheckReport] = []

    def compare(full: Path, slim: Path, inputs: Any, **options: Any) -> latency.Comparison:
        # Every process begins with other samples: the time of some networks depends on them.
        turn = functools.partial(np.roll, shift=-len(checks) * job.budget.batch_size, axis=0)
        checks.append(
            check_saved_models(
                {"full": full, "slim": slim},
                keras.tree.map_structure(turn, inputs),
                {name: turn(outputs) for name, outputs in expected.items()},
                pairs=options["pairs"],
                timing_batch=job.budget.batch_size,
                single_calls=options["single_calls"],
            )
        )
        check = checks[-1]
        assert check.ratio is not None  # two models were timed
        return latency.Comparison(check.latency["full"], check.latency["slim"], check.ratio)

    comparison = compare_for(
        job.budget,
        folder / "full",
        folder / "slim",
        inputs,
        pairs=job.recipe.export.pairs,
        compare=compare,
    )
    worst = max(checks, key=lambda check: max(check.max_abs_error.values()))
    times = {"full": comparison.a, "slim": comparison.b}
    return replace(worst, latency=times, ratio=comparison.ratio), comparison


def _front_pictures(job: LatencyJob, test: Samples) -> dict[str, np.ndarray]:
    """Image and error of the middle test sample for trials along the front, as pruned."""
    sample = test.take(len(test) // 2, 1)
    network = job.model("train")
    full = predict(network, sample.inputs)

    def draw(slim: keras.Model) -> tuple[np.ndarray, np.ndarray] | None:
        outputs = {"image": predict(slim, sample.inputs), "full": full}
        pictures = job.task.panel(sample, outputs)
        if not pictures:
            return None
        image = pictures["image"]
        return image, np.abs(image - pictures.get("truth", pictures["full"]))

    panels = front_panels(network, job.search_result(), draw, job.calibration)
    return {
        f"{kind}_{panel.trial.number}": getattr(panel, kind)
        for panel in panels
        for kind in ("image", "error")
    }


def _read_panels(
    front: Mapping[str, np.ndarray], trials: Sequence[TrialRecord]
) -> list[FrontPanel]:
    return [
        FrontPanel(trial, front[f"image_{trial.number}"], front[f"error_{trial.number}"])
        for trial in trials
        if f"image_{trial.number}" in front
    ]


def _quartiles(measured: latency.Latency) -> dict[str, float]:
    return {"median": measured.median_ms, "q1": measured.q1_ms, "q3": measured.q3_ms}
