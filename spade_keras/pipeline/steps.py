"""The parts of every run: its stages in order, and the job they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

from spade_keras.files import load_model, write_bytes_atomic
from spade_keras.pipeline.progress import EpochProgress, stage_line
from spade_keras.pipeline.run_folder import Stages


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        name: Its name and folder.
        what: Its description, for the terminal.
        make: Takes the job and the folder that it fills.
        sections: The parts of the recipe and the device its result depends on.
        after: Stages it reads.
        keep_partial: Whether `make` can continue in the folder of an interrupted attempt.
    """

    name: str
    what: str
    make: Callable[[Any, Path], None]
    sections: Mapping[str, Any]
    after: tuple[str, ...] = ()
    keep_partial: bool = False


@dataclass(frozen=True)
class Pipeline:
    """The way recipes of one kind are run.

    Args:
        job: Makes the argument of every stage from recipe, stage folders and console.
        order: Gives the stages of a recipe in their order.
        report: Writes the results of the finished job, and returns the content of `metrics.json`.
        table: Makes the closing table from that content.
        results: Files that `report` writes.
    """

    job: Callable[[Any, Stages, Console], Any]
    order: Callable[[Any], tuple[Stage, ...]]
    report: Callable[[Any], dict[str, Any]]
    table: Callable[[Mapping[str, Any]], Table]
    results: tuple[str, ...]

    def run(self, recipe: Any, console: Console) -> dict[str, Any]:
        """Runs every stage that is not finished already.

        Args:
            recipe: The validated recipe.
            console: Where progress is shown.

        Returns:
            The content of `metrics.json`.
        """
        with Stages(recipe.run_folder, results=self.results) as stages:
            job = self.job(recipe, stages, console)
            write_bytes_atomic(recipe.run_folder / "recipe.toml", recipe.to_toml().encode())
            for stage in self.order(recipe):
                _run_stage(job, stage)
            with stage_line(console, "report", "figures and page"):
                return self.report(job)


@dataclass
class StageJob:
    """The job of a run, shared by its stages.

    Attributes:
        recipe: The validated recipe.
        stages: The folders of finished stages.
        console: Where progress is shown.
    """

    recipe: Any
    stages: Stages
    console: Console

    def model(self, stage: str, name: str = "network") -> keras.Model:
        """Loads a network that a finished stage saved."""
        return load_model(self.stages.folder / stage / f"{name}.keras")

    def json(self, stage: str, name: str) -> Any:
        """Loads JSON that a finished stage wrote."""
        return json.loads((self.stages.folder / stage / f"{name}.json").read_text())

    def seed(self, offset: int) -> None:
        """Seeds everything random of one stage, however many ran before it in this process."""
        keras.utils.set_random_seed(self.recipe.run.seed + offset)

    def say(self, line: str) -> None:
        """Shows a line below the name of the stage."""
        self.console.print(f"  {line}", highlight=False, soft_wrap=True)

    def epochs_shown(self, label: str, epochs: int) -> EpochProgress:
        """Shows a training's epochs."""
        return EpochProgress(self.console, label, epochs)


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
