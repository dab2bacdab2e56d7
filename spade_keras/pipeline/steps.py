"""The shape of every run of a recipe: stages in order, the job they share, and its report."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
from rich.console import Console
from rich.table import Table

from spade_keras.files import load_model, write_bytes_atomic
from spade_keras.pipeline.progress import stage_line
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


@dataclass
class StageJob(ABC):
    """A run of one recipe: what its stages share, their order, and its report."""

    recipe: Any
    stages: Stages
    console: Console

    results: ClassVar[tuple[str, ...]]
    """Files that `report` writes."""

    @abstractmethod
    def order(self) -> tuple[Stage, ...]:
        """The stages in order, each with the part of the recipe and the stages it depends on."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Writes the results of the finished stages, and returns the content of `metrics.json`."""

    @staticmethod
    @abstractmethod
    def table(metrics: Mapping[str, Any]) -> Table:
        """Makes the closing table from the content of `metrics.json`."""

    @classmethod
    def run(cls, recipe: Any, console: Console) -> dict[str, Any]:
        """Runs every stage that is not finished already; see `pipeline.run`."""
        with Stages(recipe.run_folder, results=cls.results) as stages:
            job = cls(recipe, stages, console)
            write_bytes_atomic(recipe.run_folder / "recipe.toml", recipe.to_toml().encode())
            for stage in job.order():
                job._make(stage)
            with stage_line(console, "report", "figures and page"):
                return job.report()

    def _make(self, stage: Stage) -> None:
        if self.stages.is_done(stage.name, stage.sections, after=stage.after):
            self.console.print(f"[bold]{stage.name}[/]: [dim]finished before, kept[/]")
            return
        with stage_line(self.console, stage.name, stage.what):
            self.stages.run(
                stage.name,
                stage.sections,
                lambda folder: stage.make(self, folder),
                after=stage.after,
                keep_partial=stage.keep_partial,
            )

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
