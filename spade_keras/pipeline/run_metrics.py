"""The figures of a finished run under the keys of `metrics.json`."""

from __future__ import annotations

from typing import Any

from spade_keras.pipeline.job import Job


def collect_metrics(job: Job) -> dict[str, Any]:
    """Gathers what the stages measured.

    Args:
        job: A job all of whose stages are finished.

    Returns:
        Plain JSON values. Latencies in milliseconds; ratios are slim / full, timed in turn, with
        their 95 % interval; `exported_excess` is measured / allowed - 1; `export.max_abs_error` is
        in the unit of the outputs, the worse of both networks.
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
