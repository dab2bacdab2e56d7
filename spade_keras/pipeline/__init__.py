"""A whole run: of a recipe, by its task, or of any model.

* latency: data -> train -> search -> prune -> fine-tune -> rivals -> evaluate -> export
* transfer: data -> source -> original -> basis, channel, double, scratch -> evaluate -> export
* any model: search -> finalists -> report

Every stage fills one folder, from which the next ones read; an interrupted run continues there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spade_keras.registry import Registry, lazy_attributes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spade_keras.pipeline.any_model import join_search, search_model
    from spade_keras.pipeline.in_memory import Optimized, optimize
    from spade_keras.pipeline.latency_run import LatencyJob
    from spade_keras.pipeline.run_folder import Stages
    from spade_keras.pipeline.steps import Stage, StageJob

PIPELINES = Registry(
    "task",
    reconstruction="pipeline.latency_run:LatencyJob",
    classification="pipeline.latency_run:LatencyJob",
    transfer="pipeline.transfer_run:TransferJob",
)
"""The `StageJob` that runs a recipe, by its `run.task`."""

__all__ = [
    "PIPELINES",
    "LatencyJob",
    "Optimized",
    "Stage",
    "StageJob",
    "Stages",
    "closing_table",
    "join_search",
    "optimize",
    "run",
    "search_model",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "any_model": "join_search search_model",
        "in_memory": "Optimized optimize",
        "latency_run": "LatencyJob",
        "run_folder": "Stages",
        "steps": "Stage StageJob",
    },
)


def run(recipe: Any, console: Console) -> dict[str, Any]:
    """Runs every stage of a validated recipe that is not finished already.

    Returns:
        The content of `metrics.json`.

    Raises:
        BudgetNotMetError: If no configuration met the latency budget when measured.
    """
    job: type[StageJob] = PIPELINES[recipe.run.task]
    return job.run(recipe, console)


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """Makes the closing table of a run from the result of `run`."""
    job: type[StageJob] = PIPELINES[metrics["task"]]
    return job.table(metrics)
