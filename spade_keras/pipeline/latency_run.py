"""From data to a slim network that meets a latency budget: the stages, and what each depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from spade_keras import data, latency, pruning, search, tasks
from spade_keras.backend.batches import first_samples
from spade_keras.files import save_model, write_json_atomic
from spade_keras.finetuning import judged_as
from spade_keras.pipeline.closing import evaluate, export, report
from spade_keras.pipeline.progress import ProgressBar, describe_trial
from spade_keras.pipeline.steps import Pipeline, Stage, StageJob
from spade_keras.pipeline.training import (
    fit_by_strategy,
    fit_full,
    strategy_batches,
    strategy_tuner,
)
from spade_keras.pruning import PruningPlan
from spade_keras.pruning.importance import find_importance
from spade_keras.recipe import SearchRecipe
from spade_keras.report import closing_table
from spade_keras.search.candidate import in_dtype
from spade_keras.search.finalists import Finalist, accept, not_met, preselect

DATA_LAYOUT = 3
"""Changes when the data stage writes other files of the same recipe."""


@dataclass
class LatencyJob(StageJob):
    """The job of a search for a latency budget, shared by its stages."""

    recipe: SearchRecipe

    @cached_property
    def task(self) -> tasks.Task:
        """The task: data, networks, losses and scores."""
        return tasks.get(self.recipe)

    @cached_property
    def budget(self) -> search.LatencyBudget:
        """The latency budget of the recipe."""
        return self.recipe.search.budget

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that register the classes of the run's networks."""
        return (*self.task.imports, *self.recipe.run.imports)

    @cached_property
    def full(self) -> keras.Model:
        """The full network in the dtype of the budget."""
        return in_dtype(self.model("train"), self.budget.dtype)

    def samples(self, split: str) -> tasks.Samples:
        """Loads "train", "validation" or "test"."""
        return self.task.load(self.stages.folder / "data", split)

    def timer(self, full: keras.Model, pairs: int) -> search.Timer:
        """Returns the timer of networks, interleaved with `full`, in the form the task times."""
        timer = search.interleaved_timer(
            self.task.timed(full),
            self.call_of("validation"),
            pairs=pairs,
            batch_size=self.budget.batch_size,
            single_calls=self.budget.single_calls,
        )
        return lambda candidate: timer(self.task.timed(candidate))

    def call_of(self, split: str) -> Any:
        """Returns the first inputs of a split, one call of the budget, as arrays."""
        size = self.budget.batch_size
        return latency.fill_batch(first_samples(self.samples(split).inputs, size), size)

    def score(self, full: keras.Model) -> search.Objective:
        """Returns the score of a network on validation data that its strategy may see."""
        validation = self.samples("validation")
        strategy = self.recipe.finetuning.strategy
        sees_truth = judged_as(strategy) == "supervised"
        return self.task.objective(
            strategy,
            validation.judged_inputs,
            targets=validation.truth if sees_truth else None,
            teacher=full,
        )

    @cached_property
    def calibration(self) -> pruning.Calibration | None:
        """Statistics of the full network on training inputs, where readers are refitted."""
        if not self.recipe.search.compensate:
            return None
        inputs = self.samples("train").take(0, 32).inputs
        return pruning.calibrate(self.full, inputs, samples=64)

    def search_result(self) -> search.SearchResult:
        """Loads the result of the search."""
        return search.SearchResult.from_dict(self.json("search", "result"))

    def batches(
        self,
        split: str,
        batch_size: int,
        targets: Callable[[tasks.Samples], Any] | None = None,
        *,
        shuffle: bool = True,
        judged: bool = False,
    ) -> data.SliceDataset:
        """Serves the inputs of a split, with the targets that `targets` makes of it.

        Args:
            split: "train", "validation" or "test".
            batch_size: Samples in a batch, at most all.
            targets: Makes the targets of the samples; None: there are none.
            shuffle: Whether to draw a new order after every epoch.
            judged: Whether to serve the held-out measurements with the inputs.
        """
        samples = self.samples(split)
        return data.SliceDataset(
            samples.judged_inputs if judged else samples.inputs,
            targets(samples) if targets else None,
            batch_size=min(batch_size, len(samples)),
            shuffle_seed=self.recipe.run.seed if shuffle else None,
        )


def make_data(job: LatencyJob, folder: Path) -> None:
    """Makes the three splits of the task's data, and notes their facts."""
    facts = job.task.make_data(folder, job.say)
    if facts.skipped:
        job.say(f"{len(facts.skipped)} bad files left out, see the report")
    write_json_atomic(folder / "facts.json", asdict(facts))


def train(job: LatencyJob, folder: Path) -> None:
    """Trains the full network, unless it comes trained."""
    job.seed(1)
    epochs = job.recipe.training.epochs
    network = job.task.new_network(job.samples("train"))
    if job.recipe.network.dtype != "float32":
        network = search.with_dtype(network, job.recipe.network.dtype)
    history = fit_full(job, folder, network, epochs, "epoch") if epochs else {"loss": []}
    save_model(network, folder / "network.keras")
    write_json_atomic(folder / "history.json", history)


def search_widths(job: LatencyJob, folder: Path) -> None:
    """Searches the configuration of the best quality within the latency budget."""
    options = job.recipe.search
    full = job.full
    inputs = job.call_of("validation")
    space, table = search.choose_space(full, inputs, options)
    with ProgressBar(job.console, "trial", options.trials) as bar:
        result = search.run(
            full,
            data=inputs,
            options=options,
            objective=_objective(job, job.model("train")),
            storage=options.storage or folder / "study.journal",
            timer=job.timer(full, options.pairs),
            space=space,
            table=table,
            importance=job.recipe.pruning.importance,
            calibration=job.calibration,
            seed=job.recipe.run.seed,
            name=job.recipe.run.name,
            on_trial=lambda trial: bar.advance(describe_trial(trial)),
        )
    write_json_atomic(folder / "result.json", result.as_dict())
    write_json_atomic(folder / "table.json", table and table.as_dict())


def prune(job: LatencyJob, folder: Path) -> None:
    """Rebuilds the best candidates that still meet the budget when they are timed again.

    Raises:
        BudgetNotMetError: If none meets the budget.
    """
    result = job.search_result()
    finalists: list[dict[str, Any]] = []
    rejected: list[Finalist] = []
    passing = preselect(
        job.full,
        result,
        timer=lambda pairs: job.timer(job.full, pairs),
        pairs=job.recipe.export.pairs,
        rejected=rejected,
        say=job.say,
        calibration=job.calibration,
    )
    for finalist, slim in passing:
        name = f"finalist_{len(finalists)}"
        save_model(slim, folder / f"{name}.keras")
        finalists.append(
            {
                "name": name,
                "number": finalist.trial,
                "configuration": finalist.configuration.as_dict(),
                "plan": json.loads(finalist.plan.to_json()),
                "comparison": finalist.comparison.as_dict(),
                "ratio": finalist.comparison.ratio.as_dict(),
            }
        )
        if len(finalists) == job.recipe.search.finalists:
            break
    if not finalists:
        raise not_met(result, rejected)
    missed = [{"number": f.trial, "ratio": f.comparison.ratio.as_dict()} for f in rejected]
    write_json_atomic(folder / "finalists.json", {"finalists": finalists, "rejected": missed})


def finetune(job: LatencyJob, folder: Path) -> None:
    """Fine-tunes every finalist and accepts the best that meets the budget in fresh processes.

    It is judged by what the strategy may see.

    Raises:
        BudgetNotMetError: If none meets the budget there.
    """
    finalists = job.json("prune", "finalists")["finalists"]
    histories: dict[int, Any] = {}

    def tune(slim: keras.Model, full: keras.Model) -> None:
        number = finalists[len(histories)]["number"]
        job.seed(2)
        label = "epoch" if len(finalists) == 1 else f"trial {number}, epoch"
        histories[number] = fit_by_strategy(job, folder, slim, label)

    tried, accepted = accept(
        _finalists(job, finalists),
        count=len(finalists),
        full=job.full,
        full_path=job.stages.folder / "train" / "network.keras",
        slim_path=folder / "network.keras",
        inputs=job.samples("validation").inputs,
        budget=job.budget,
        score=job.score(job.model("train")),
        finetune=tune,
        pairs=job.recipe.export.pairs,
        imports=job.imports,
        say=job.say,
    )
    if accepted is None:
        raise not_met(job.search_result(), (), tried)
    write_json_atomic(folder / "finalists.json", [finalist.as_dict() for finalist in tried])
    write_json_atomic(folder / "history.json", histories[accepted.trial])
    write_json_atomic(
        folder / "chosen.json",
        {
            "name": next(f["name"] for f in finalists if f["number"] == accepted.trial),
            "number": accepted.trial,
            "widths": accepted.plan.widths,
            "configuration": accepted.configuration.as_dict(),
            "quality": accepted.quality,
            "ratio": accepted.comparison.ratio.as_dict(),
            "latency_ms": accepted.comparison.b.median_ms,
        },
    )


def _finalists(
    job: LatencyJob, kept: list[dict[str, Any]]
) -> Iterator[tuple[Finalist, keras.Model]]:
    for entry in kept:
        finalist = Finalist(
            trial=entry["number"],
            configuration=search.Configuration.from_dict(entry["configuration"]),
            plan=PruningPlan.from_json(json.dumps(entry["plan"])),
            comparison=latency.Comparison.from_dict(entry["comparison"]),
        )
        yield finalist, job.model("prune", entry["name"])


def _objective(job: LatencyJob, network: keras.Model) -> search.Objective:
    """The objective of the search: always computed from data the fine-tuning strategy may see."""
    name = job.recipe.search.objective_name
    if name == "kept_importance":
        criterion = find_importance(job.recipe.pruning.importance, job.calibration)
        return search.KeptImportance(network, criterion)
    score = job.score(network)
    if name == "as_pruned":
        return score
    settings = job.recipe.finetuning
    return search.ShortFineTune(
        score,
        lambda candidate: strategy_tuner(job, candidate),
        strategy_batches(job, settings.on),
        learning_rate=settings.learning_rate,
        clip_norm=job.task.clip_norm,
    )


def train_rivals(job: LatencyJob, folder: Path) -> None:
    """Trains baselines with the training budget of the slim network.

    One has the slim widths from the start and trains from scratch for the steps of the full
    network and its fine-tuning together. The other, where the network iterates, is the full one
    cut to the most iterations that the budget allows, fine-tuned as the slim one is.
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
    save_model(scratch, folder / "from_scratch.keras")
    rivals: dict[str, dict[str, Any]] = {"from_scratch": {"epochs": epochs}}

    if hasattr(full, "with_iterations"):
        fewer, ratio = _cut_to_budget(job, full)
        fit_by_strategy(job, folder, fewer, "fewer iterations, epoch")
        save_model(fewer, folder / "fewer_iterations.keras")
        rivals["fewer_iterations"] = {"iterations": fewer.iterations, "ratio": ratio.as_dict()}
    write_json_atomic(folder / "rivals.json", rivals)


def _cut_to_budget(job: LatencyJob, full: keras.Model) -> tuple[keras.Model, latency.Ratio]:
    """The full network with the most iterations that meet the budget, at least one."""
    timer = job.timer(full, job.recipe.export.pairs)
    least, most = 1, full.iterations - 1
    found = None
    while least <= most:
        iterations = (least + most + 1) // 2
        fewer = full.with_iterations(iterations)
        comparison = timer(fewer)
        if job.budget.is_met(comparison):
            found, least = (fewer, comparison.ratio), iterations + 1
        else:
            most = iterations - 1
    if found is None:
        fewer = full.with_iterations(1)
        found = fewer, timer(fewer).ratio
    return found


def search_order(recipe: SearchRecipe) -> tuple[Stage, ...]:
    """The stages in order, each with the part of the recipe and the stages it depends on.

    Args:
        recipe: The validated recipe.
    """
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
        Stage("data", recipe.run.task, make_data,
              {"task": recipe.run.task, "data": recipe.data, "seed": recipe.run.seed,
               "layout": DATA_LAYOUT}),
        Stage("train", f"the full network, {learning}", train,
              {**common, "network": recipe.network, "training": recipe.training}, ("data",)),
        Stage("search", f"what meets the latency budget, judged for {strategy}", search_widths,
              {**tuning, **searching}, ("data", "train"), keep_partial=True),
        Stage("prune", "the best candidates that meet the budget when timed again", prune,
              searching, ("train", "search")),
        Stage("finetune", f"the slim network, by {strategy}, and timed in fresh processes",
              finetune, {**tuning, **budget}, ("data", "train", "prune")),
        Stage("rivals", "the same steps spent otherwise", train_rivals,
              {**tuning, **budget, "training": recipe.training, "evaluation": recipe.evaluation},
              ("data", "train", "finetune")),
        Stage("evaluate", "on the test data", evaluate, budget,
              ("data", "train", "search", "prune", "finetune", "rivals")),
        Stage("export", "SavedModels, checked and timed without Keras", export,
              {**budget, "export": recipe.export}, ("data", "train", "finetune")),
    )  # fmt: skip


LATENCY_RUN = Pipeline(
    job=LatencyJob,
    order=search_order,
    report=report,
    table=closing_table,
    results=("metrics.json", "report.html", "tradeoff.png", "widths.png", "pictures.png"),
)
"""How the recipes that search for a latency budget are run."""
