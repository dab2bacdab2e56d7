"""The end of a run: scores on test data, exports, pictures along the front, and the report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from spade_keras import latency, pruning
from spade_keras.backend.batches import first_samples, predict
from spade_keras.errors import BudgetNotMetError
from spade_keras.export import CheckReport, check_saved_models, export_model
from spade_keras.files import read_npz, write_json_atomic
from spade_keras.report import FrontPanel, Remeasured, SearchFindings, write_report
from spade_keras.search.finalists import compare_for
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.receipt import read_receipt
from spade_keras.search.result import SearchResult
from spade_keras.tasks import Samples

if TYPE_CHECKING:
    from spade_keras.pipeline.latency_run import LatencyJob

# The checked inputs go through a file, and real test sets are large.
_MOST_CHECKED_BYTES = 2**28
_MOST = 8
_QUARTILES = ("median", "q1", "q3")

Picture = Callable[[keras.Model], tuple[np.ndarray, np.ndarray] | None]
"""From a network to its image and its error, `(height, width)`; None where there is no image."""


def evaluate(job: LatencyJob, folder: Path) -> None:
    """Scores every network on the test data, and times full and slim interleaved."""
    test = job.samples("test")
    full, slim = job.full, job.model("finetune")
    pair = {"full": full, "slim": slim}
    pruned = job.model("prune", job.json("finetune", "chosen")["name"])
    networks = {"full": full, "pruned": pruned, "finetuned": slim}
    for rival in job.json("rivals", "rivals"):
        networks[rival] = job.model("rivals", rival)
    outputs = job.task.baselines(test)
    outputs |= {name: predict(network, test.inputs) for name, network in networks.items()}
    sample = job.call_of("test")
    pairs, single = job.recipe.export.pairs, job.budget.single_calls
    timing = latency.compare(full, slim, sample, pairs=pairs, single_calls=single)
    shown = [*job.task.baselines(test.take(0, 1)), "full", "finetuned"]
    pictures = job.task.panel(test, {name: outputs[name] for name in shown})
    np.savez(folder / "panel.npz", **pictures)  # type: ignore[arg-type]
    np.savez(folder / "front.npz", **_front_of(job, test))  # type: ignore[arg-type]
    write_json_atomic(
        folder / "evaluation.json",
        {
            "quality": {name: job.task.scores(test, output) for name, output in outputs.items()},
            "networks": {name: job.task.network_facts(n, test) for name, n in pair.items()},
            "latency_ms": {
                name: {q: getattr(measured, f"{q}_ms") for q in _QUARTILES}
                for name, measured in {"full": timing.a, "slim": timing.b}.items()
            },
            "latency_ratio": timing.ratio.as_dict(),
            "parameters": {name: pruning.count_parameters(n) for name, n in pair.items()},
            "macs": {name: pruning.count_macs(n, sample).total for name, n in pair.items()},
            "fingerprint": latency.fingerprint(sample),
        },
    )


def export(job: LatencyJob, folder: Path) -> None:
    """Exports full and slim network, and checks and times both without Keras."""
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
    panel, front = (
        read_npz(job.stages.folder / "evaluate" / f"{name}.npz") for name in ("panel", "front")
    )
    found = SearchFindings(
        result=result,
        table=table and LayerTable.from_dict(table),
        receipt=read_receipt(job.stages.folder / "finetune" / "receipt.json"),
        front_panels=[
            FrontPanel(trial, front[f"image_{trial.number}"], front[f"error_{trial.number}"])
            for trial in result.trials
            if f"image_{trial.number}" in front
        ],
        chosen=metrics["search"]["chosen"]["number"],
        finalists=[Remeasured.from_dict(f) for f in job.json("finetune", "finalists")],
    )
    write_report(job.recipe.run_folder, metrics, found, panel=panel or None)
    write_json_atomic(job.recipe.run_folder / "metrics.json", metrics)
    return metrics


def _collect_metrics(job: LatencyJob) -> dict[str, Any]:
    """Gathers what the stages measured, as plain JSON values.

    Latencies in ms; ratios are slim / full, timed interleaved, with their 95 % interval;
    `exported_excess` is measured / allowed - 1; errors are the worse of both networks.
    """
    evaluation = job.json("evaluate", "evaluation")
    check = job.json("export", "check")
    result = job.search_result()
    latency_ms = {
        name: {
            "keras": in_keras,
            "exported": {q: check["latency"][name][f"{q}_ms"] for q in _QUARTILES},
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
        "training_seconds": _training_seconds(job),
        "pretrained": job.pretrained,
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


def _training_seconds(job: LatencyJob) -> dict[str, list[float]]:
    """Seconds of training behind every network: of the full one it came from, then its own."""
    full, tuning = (
        sum(job.json(stage, "history").get("seconds", ())) for stage in ("train", "finetune")
    )
    rivals = job.json("rivals", "rivals")
    seconds = {"full": [full], "pruned": [full], "finetuned": [full, tuning]}
    if "from_scratch" in rivals:
        seconds["from_scratch"] = [rivals["from_scratch"]["seconds"]]
    if "fewer_iterations" in rivals:
        seconds["fewer_iterations"] = [full, rivals["fewer_iterations"]["seconds"]]
    return seconds


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
        check = check_saved_models(
            {"full": full, "slim": slim},
            keras.tree.map_structure(turn, inputs),
            {name: turn(outputs) for name, outputs in expected.items()},
            pairs=options["pairs"],
            timing_batch=job.budget.batch_size,
            single_calls=options["single_calls"],
        )
        checks.append(check)
        assert check.ratio is not None  # two models were timed
        return latency.Comparison(check.latency["full"], check.latency["slim"], check.ratio)

    options: dict[str, Any] = {"pairs": job.recipe.export.pairs, "compare": compare}
    comparison = compare_for(job.budget, folder / "full", folder / "slim", inputs, **options)
    worst = max(checks, key=lambda check: max(check.max_abs_error.values()))
    times = {"full": comparison.a, "slim": comparison.b}
    return replace(worst, latency=times, ratio=comparison.ratio), comparison


def front_panels(
    network: keras.Model,
    result: SearchResult,
    picture: Picture,
    calibration: pruning.Calibration | None = None,
) -> list[FrontPanel]:
    """Builds at most eight networks along the front, the fastest first, and draws their output.

    Args:
        network: The full network.
        result: The search.
        picture: Draws a network's output; where it draws nothing there are no panels.
        calibration: See `SearchResult.build`.
    """
    front = result.front
    places = np.unique(np.linspace(0, len(front) - 1, min(len(front), _MOST)).round().astype(int))
    panels = []
    for trial in (front[place] for place in places):
        drawn = picture(result.build(network, trial, calibration, sequential=False))
        if drawn is None:
            return []
        panels.append(FrontPanel(trial, *drawn))
    return panels


def picture_of_any(network: keras.Model, inputs: Any) -> Picture:
    """Returns what draws the first sample, with its distance from the full network's image.

    An output is drawn if it is one image of one channel, two (complex: its magnitude) or three.
    """
    sample = latency.fill_batch(inputs, 1)
    reference = _gray(network, sample)

    def draw(slim: keras.Model) -> tuple[np.ndarray, np.ndarray] | None:
        image = None if reference is None else _gray(slim, sample)
        return None if image is None else (image, np.abs(image - reference))

    return draw


def _gray(network: keras.Model, sample: Any) -> np.ndarray | None:
    output = network(sample, training=False)
    if isinstance(output, dict | list | tuple) or len(output.shape) != 4:
        return None
    image = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))[0]
    if image.shape[-1] not in (1, 2, 3) or min(image.shape[:2]) < 2:
        return None
    return np.linalg.norm(image, axis=-1) if image.shape[-1] == 2 else image.mean(axis=-1)


def _front_of(job: LatencyJob, test: Samples) -> dict[str, np.ndarray]:
    """Image and error of the middle test sample for trials along the front, as pruned."""
    sample = test.take(len(test) // 2, 1)
    network = job.model("train")
    full = predict(network, sample.inputs)

    def draw(slim: keras.Model) -> tuple[np.ndarray, np.ndarray] | None:
        pictures = job.task.panel(sample, {"image": predict(slim, sample.inputs), "full": full})
        if not pictures:
            return None
        image = pictures["image"]
        return image, np.abs(image - pictures.get("truth", pictures["full"]))

    pictures: dict[str, Any] = {}
    for panel in front_panels(network, job.search_result(), draw, job.calibration):
        pictures[f"image_{panel.trial.number}"] = panel.image
        pictures[f"error_{panel.trial.number}"] = panel.error
    return pictures
