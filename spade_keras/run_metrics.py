"""The figures of a finished run under the keys of `metrics.json`."""

from __future__ import annotations

from typing import Any

from spade_keras import search
from spade_keras.job import Job
from spade_keras.metrics import CONVENTION

DATA_NOTE = (
    "MNI152 T1 template: one image averaged from many brains, smoother than any patient's. "
    "Training, validation and test are slabs of that one volume with gaps between them, so the "
    "figures show generalization along one brain, not across subjects. Coils, phase and noise are "
    "simulated, and the coil maps are known exactly."
)


def collect_metrics(job: Job) -> dict[str, Any]:
    """Gathers what the stages measured.

    Args:
        job: A job all of whose stages are finished.

    Returns:
        Plain JSON values. Latencies in milliseconds; ratios are slim / full, timed in turn, with
        their 95 % interval; `export.max_abs_error` is in the unit of the image (peak about 1), the
        worse of both networks.
    """
    evaluation = job.json("evaluate", "evaluation")
    check = job.json("export", "check")
    result = search.SearchResult.from_dict(job.json("search", "result"))
    latency_ms = {
        name: {
            "keras": in_keras,
            "exported": {q: check["latency"][name][f"{q}_ms"] for q in ("median", "q1", "q3")},
        }
        for name, in_keras in evaluation["latency_ms"].items()
    }
    recipe = job.recipe
    return {
        "quality": evaluation["quality"],
        "latency_ms": latency_ms,
        "latency_ratio": evaluation["latency_ratio"],
        "exported_ratio": check["ratio"],
        "latency_budget": recipe.search.latency_budget,
        "parameters": evaluation["parameters"],
        "macs": evaluation["macs"],
        "trials": result.counts(),
        "search": {
            "quality": result.quality_name,
            "target": result.budget.target,
            "chosen": job.json("prune", "chosen"),
        },
        "rivals": job.json("rivals", "rivals"),
        "finetuning": {"strategy": recipe.finetuning.strategy, "on": recipe.finetuning.on},
        "export": {
            "format": recipe.export.format,
            "max_abs_error": max(check["max_abs_error"].values()),
            "relative_error": max(check["relative_error"].values()),
        },
        "data_note": DATA_NOTE,
        "true_acceleration": job.slices("test").true_acceleration,
        "convention": CONVENTION,
        "seconds": job.stages.seconds(),
        "fingerprint": evaluation["fingerprint"],
    }
