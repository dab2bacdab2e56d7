"""A whole run: of a recipe, by its task, or of any model.

* latency: data -> train -> search -> prune -> fine-tune -> rivals -> evaluate -> export
* transfer: data -> source -> original -> basis, channel, double, scratch -> evaluate -> export
* any model: search -> finalists -> report

Every stage is a function of the job that fills one folder; the next stages read it from there. So
an interrupted run continues where it stopped, and a stage can be inspected or replaced by itself.
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
    from spade_keras.pipeline.steps import Pipeline, Stage, StageJob

PIPELINES = Registry(
    "task",
    reconstruction="pipeline.latency_run:LATENCY_RUN",
    classification="pipeline.latency_run:LATENCY_RUN",
    transfer="pipeline.transfer_run:TRANSFER_RUN",
)
"""How a recipe is run, by its `run.task`."""

__all__ = [
    "PIPELINES",
    "LatencyJob",
    "Optimized",
    "Pipeline",
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
        "steps": "Pipeline Stage StageJob",
    },
)


def run(recipe: Any, console: Console) -> dict[str, Any]:
    """Runs every stage of a recipe that is not finished already.

    Args:
        recipe: The validated recipe.
        console: Where progress is shown.

    Returns:
        The content of `metrics.json`.

    Raises:
        BudgetNotMetError: If no configuration met the latency budget when measured.
    """
    pipeline: Pipeline = PIPELINES[recipe.run.task]
    return pipeline.run(recipe, console)


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """Makes the closing table of a run from the result of `run`."""
    pipeline: Pipeline = PIPELINES[metrics["task"]]
    return pipeline.table(metrics)
