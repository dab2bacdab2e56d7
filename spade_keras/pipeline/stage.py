"""What a run is made of: stages in an order, and what is said of them at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spade_keras.pipeline.run_folder import Stages


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        name: Its name and folder.
        what: What it does, for the terminal.
        make: Takes the job and the folder that it fills.
        sections: What of the recipe and the device its result depends on.
        after: Stages it reads.
        keep_partial: Whether `make` knows how to go on in the folder of an interrupted attempt.
    """

    name: str
    what: str
    make: Callable[[Any, Path], None]
    sections: Mapping[str, Any]
    after: tuple[str, ...] = ()
    keep_partial: bool = False


@dataclass(frozen=True)
class Pipeline:
    """How the recipes of one kind are run.

    Args:
        job: Makes what every stage is given, of recipe, stage folders and console.
        order: Gives the stages of a recipe in their order.
        report: Writes the results of the finished job, and returns the content of `metrics.json`.
        table: Makes of that the table a run ends with.
        results: Files that `report` writes.
    """

    job: Callable[[Any, Stages, Console], Any]
    order: Callable[[Any], tuple[Stage, ...]]
    report: Callable[[Any], dict[str, Any]]
    table: Callable[[Mapping[str, Any]], Table]
    results: tuple[str, ...]
