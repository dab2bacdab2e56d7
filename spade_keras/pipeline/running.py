"""Runs the stages of a recipe that are not finished already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from spade_keras.files import write_bytes_atomic
from spade_keras.pipeline.job import StageJob
from spade_keras.pipeline.progress import stage_line
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pipeline.searching import SEARCHING
from spade_keras.pipeline.stage import Pipeline, Stage
from spade_keras.pipeline.transfer_run import TRANSFERRING
from spade_keras.recipe import Recipe

PIPELINES: dict[str, Pipeline] = {
    "reconstruction": SEARCHING,
    "classification": SEARCHING,
    "transfer": TRANSFERRING,
}
"""How a recipe is run, by its `run.task`."""


def run(recipe: Recipe, console: Console) -> dict[str, Any]:
    """Runs every stage that is not finished already.

    Args:
        recipe: The validated recipe.
        console: Where progress is shown.

    Returns:
        The content of `metrics.json`.

    Raises:
        BudgetNotMetError: If no configuration met the latency budget when measured.
    """
    pipeline = PIPELINES[recipe.run.task]
    with Stages(recipe.run_folder, results=pipeline.results) as stages:
        job = pipeline.job(recipe, stages, console)
        write_bytes_atomic(recipe.run_folder / "recipe.toml", recipe.to_toml().encode())
        for stage in pipeline.order(recipe):
            _run_stage(job, stage)
        with stage_line(console, "report", "figures and page"):
            return pipeline.report(job)


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """Makes the table that a run ends with.

    Args:
        metrics: What `run` returned.
    """
    return PIPELINES[metrics["task"]].table(metrics)


def _run_stage(job: StageJob, stage: Stage) -> None:
    if job.stages.is_done(stage.name, stage.sections, after=stage.after):
        job.console.print(f"[bold]{stage.name}[/]: [dim]finished before, kept[/]")
        return
    with stage_line(job.console, stage.name, stage.what):
        job.stages.run(
            stage.name,
            stage.sections,
            lambda folder: stage.make(job, folder),
            after=stage.after,
            keep_partial=stage.keep_partial,
        )
