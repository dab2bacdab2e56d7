"""The stages in which networks learn: data, the full network, and honest rivals of the slim one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from spade_keras import latency, search
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.job import Job
from spade_keras.pipeline.training import fit_by_strategy, fit_full

DATA_LAYOUT = 3
"""Changes when the data stage writes other files of the same recipe."""


def make_data(job: Job, folder: Path) -> None:
    """Makes the three splits of the task's data, and notes what they are."""
    facts = job.task.make_data(folder, lambda line: job.console.print(f"  {line}", highlight=False))
    if facts.skipped:
        job.console.print(f"  {len(facts.skipped)} bad files left out, see the report")
    write_json_atomic(folder / "facts.json", asdict(facts))


def train(job: Job, folder: Path) -> None:
    """Trains the full network, unless it comes trained."""
    job.seed(1)
    epochs = job.recipe.training.epochs
    network = job.task.new_network(job.samples("train"))
    if job.recipe.network.dtype != "float32":
        network = search.with_dtype(network, job.recipe.network.dtype)
    history = fit_full(job, folder, network, epochs, "epoch") if epochs else {"loss": []}
    network.save(folder / "network.keras")
    write_json_atomic(folder / "history.json", history)


def train_rivals(job: Job, folder: Path) -> None:
    """Trains honest alternatives to the slim network with the same number of steps.

    One has the slim widths from the start and trains from scratch for as many steps as the full
    network and its fine-tuning took together. The other, where the network iterates, is the full
    one cut to as many iterations as the budget allows, fine-tuned as the slim one is.
    """
    if not job.recipe.evaluation.rivals:
        write_json_atomic(folder / "rivals.json", {})
        return
    job.seed(3)
    full, slim = job.model("train"), job.model("finetune")
    steps = [len(job.json(stage, "history")["loss"]) for stage in ("train", "finetune")]
    scratch = type(slim).from_config(slim.get_config())  # its widths, with new weights
    split = job.recipe.finetuning.on
    tuning_steps = steps[1] * len(job.batches(split, job.recipe.finetuning.batch_size))
    per_epoch = len(job.batches("train", job.recipe.training.batch_size))
    epochs = steps[0] + round(tuning_steps / per_epoch)
    fit_full(job, folder, scratch, epochs, "from scratch, epoch")
    scratch.save(folder / "from_scratch.keras")
    rivals: dict[str, dict[str, Any]] = {"from_scratch": {"epochs": epochs}}

    if hasattr(full, "with_iterations"):
        fewer, ratio = _cut_to_budget(job, full)
        fit_by_strategy(job, folder, fewer, "fewer iterations, epoch")
        fewer.save(folder / "fewer_iterations.keras")
        rivals["fewer_iterations"] = {"iterations": fewer.iterations, "ratio": ratio.as_dict()}
    write_json_atomic(folder / "rivals.json", rivals)


def _cut_to_budget(job: Job, full: keras.Model) -> tuple[keras.Model, latency.Ratio]:
    """The full network with the most iterations that meet the budget, at least one."""
    budget = job.budget
    timer = search.interleaved_timer(
        full,
        job.call_of("validation"),
        pairs=job.recipe.export.pairs,
        batch_size=budget.batch_size,
        single_calls=budget.single_calls,
    )
    least, most = 1, full.iterations - 1
    found = None
    while least <= most:
        iterations = (least + most + 1) // 2
        fewer = full.with_iterations(iterations)
        comparison = timer(fewer)
        if budget.excess(comparison, margin=False) <= 0:
            found, least = (fewer, comparison.ratio), iterations + 1
        else:
            most = iterations - 1
    if found is None:
        fewer = full.with_iterations(1)
        found = fewer, timer(fewer).ratio
    return found
