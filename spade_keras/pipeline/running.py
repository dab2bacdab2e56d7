"""The order of the stages, and what each of them depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from spade_keras import latency
from spade_keras.job import Job
from spade_keras.pipeline.closing import evaluate, export, report
from spade_keras.pipeline.learning import DATA_LAYOUT, make_data, train, train_rivals
from spade_keras.pipeline.slimming import finetune, prune, search_widths
from spade_keras.progress import stage_line
from spade_keras.recipe import Recipe
from spade_keras.stages import Stages, write_bytes_atomic

RESULTS = ("metrics.json", "report.html", "tradeoff.png", "widths.png", "pictures.png")


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
    with Stages(recipe.run_folder, results=RESULTS) as stages:
        job = Job(recipe, stages, console)
        write_bytes_atomic(recipe.run_folder / "recipe.toml", recipe.to_toml().encode())
        for stage in _plan(recipe):
            _run_stage(job, stage)
        with stage_line(console, "report", "figures and page"):
            return report(job)


@dataclass(frozen=True)
class _Stage:
    name: str
    what: str
    make: Callable[[Job, Path], None]
    sections: Mapping[str, Any]
    after: tuple[str, ...] = ()
    keep_partial: bool = False


def _plan(recipe: Recipe) -> tuple[_Stage, ...]:
    """The stages in order, each with the part of the recipe and the stages it depends on."""
    device = {"fingerprint": latency.fingerprint()}
    common = {"seed": recipe.run.seed, "backend": keras.backend.backend()}
    tuning = {**common, "finetuning": recipe.finetuning}
    timing = {**device, "pairs": recipe.export.pairs}
    budget = {
        **timing,
        "budget": recipe.search.latency_budget,
        "batch_size": recipe.search.batch_size,
    }
    searching = {**timing, "search": recipe.search, "pruning": recipe.pruning}
    strategy = recipe.finetuning.strategy
    blind = recipe.training.strategy == "self_supervised"
    learning = "from measurements alone" if blind else "on ground truth"
    return (
        _Stage("data", recipe.run.task, make_data,
               {"task": recipe.run.task, "data": recipe.data, "seed": recipe.run.seed,
                "layout": DATA_LAYOUT}),
        _Stage("train", f"the full network, {learning}", train,
               {**common, "network": recipe.network, "training": recipe.training}, ("data",)),
        _Stage("search", f"what meets the latency budget, judged for {strategy}", search_widths,
               {**tuning, **searching}, ("data", "train"), keep_partial=True),
        _Stage("prune", "the best candidates that meet the budget when timed again", prune,
               searching, ("train", "search")),
        _Stage("finetune", f"the slim network, by {strategy}, and timed in fresh processes",
               finetune, {**tuning, **budget}, ("data", "train", "prune")),
        _Stage("rivals", "the same steps spent otherwise", train_rivals,
               {**tuning, **budget, "training": recipe.training, "evaluation": recipe.evaluation},
               ("data", "train", "finetune")),
        _Stage("evaluate", "on the test data", evaluate, budget,
               ("data", "train", "search", "prune", "finetune", "rivals")),
        _Stage("export", "SavedModels, checked and timed without Keras", export,
               {**budget, "export": recipe.export}, ("data", "train", "finetune")),
    )  # fmt: skip


def _run_stage(job: Job, stage: _Stage) -> None:
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
