"""From data to a slim network that meets a latency budget: the stages, and what each depends on."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from spade_keras import latency, pruning, search, tasks, weights
from spade_keras.backend.batches import first_samples
from spade_keras.files import save_model, write_json_atomic
from spade_keras.finetuning import judged_as
from spade_keras.pipeline.closing import evaluate, export, report
from spade_keras.pipeline.progress import ProgressBar, trials_shown
from spade_keras.pipeline.steps import Stage, StageJob
from spade_keras.pipeline.training import fit_by_strategy, strategy_batches, strategy_tuner
from spade_keras.pruning import PruningPlan
from spade_keras.recipe import SearchRecipe
from spade_keras.report import closing_table
from spade_keras.search.candidate import in_dtype
from spade_keras.search.finalists import Finalist, accept, not_met, preselect
from spade_keras.search.receipt import read_receipt

DATA_LAYOUT = 3
"""Changes when the data stage writes other files of the same recipe."""


@dataclass
class LatencyJob(StageJob):
    """A run of a recipe that searches for a latency budget; what its stages share."""

    recipe: SearchRecipe

    results = ("metrics.json", "report.html", "tradeoff.png", "widths.png", "pictures.png")
    report = report
    table = staticmethod(closing_table)

    @cached_property
    def task(self) -> tasks.Task:
        """The task: data, networks, losses and scores."""
        return tasks.get(self.recipe)

    @cached_property
    def budget(self) -> search.LatencyBudget:
        """The latency budget of the recipe."""
        return self.recipe.search.budget

    @property
    def pretrained(self) -> dict[str, Any] | None:
        """The record of the weights that the full network starts from; None for new ones."""
        network: Any = self.recipe.network
        name = getattr(network, "weights", "none")
        return None if name == "none" else weights.record(network.name, name)

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
        targets = validation.targets if judged_as(strategy) == "supervised" else None
        inputs = validation.judged_inputs
        return self.task.objective(strategy, inputs, targets=targets, teacher=full)

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

    def order(self) -> tuple[Stage, ...]:
        """The stages in order, each with the part of the recipe and the stages it depends on."""
        recipe = self.recipe
        common = {"seed": recipe.run.seed, "backend": keras.backend.backend()}
        timing = {"fingerprint": latency.fingerprint(), "pairs": recipe.export.pairs}
        tuning = {**common, "finetuning": recipe.finetuning}
        budget = {
            **timing,
            "budget": recipe.search.latency_budget,
            "batch_size": recipe.search.batch_size,
        }
        searching = {**timing, "search": recipe.search, "pruning": recipe.pruning}
        strategy = recipe.finetuning.strategy
        blind = recipe.training.strategy == "self_supervised"
        learning = "from measurements alone" if blind else "on ground truth"
        if not recipe.training.epochs:
            learning = "which comes trained"
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
                  {**tuning, **budget, "training": recipe.training,
                   "evaluation": recipe.evaluation}, ("data", "train", "finetune")),
            Stage("evaluate", "on the test data", evaluate, budget,
                  ("data", "train", "search", "prune", "finetune", "rivals")),
            Stage("export", "SavedModels, checked and timed without Keras", export,
                  {**budget, "export": recipe.export}, ("data", "train", "finetune")),
        )  # fmt: skip


def make_data(job: LatencyJob, folder: Path) -> None:
    """Makes the three splits of the task's data, and notes their facts."""
    facts = job.task.make_data(folder, job.say)
    if facts.skipped:
        job.say(f"{len(facts.skipped)} bad files left out, see the report")
    write_json_atomic(folder / "facts.json", asdict(facts))


def train(job: LatencyJob, folder: Path) -> None:
    """Trains the full network, unless it comes trained.

    The "seconds" of `history.json` begin with those of the weights that it started from.
    """
    job.seed(1)
    settings = job.recipe.training
    network = job.task.new_network(job.samples("train"))
    if job.recipe.network.dtype != "float32":
        network = search.with_dtype(network, job.recipe.network.dtype)
    history: dict[str, list[float]] = {"loss": [], "seconds": []}
    if settings.epochs:
        history = fit_by_strategy(job, folder, network, settings, "epoch")
    if pretrained := job.pretrained:
        history["seconds"].insert(0, pretrained["full"]["seconds"])
    save_model(network, folder / "network.keras")
    write_json_atomic(folder / "history.json", history)


def search_widths(job: LatencyJob, folder: Path) -> None:
    """Searches the configuration of the best quality within the latency budget."""
    options = job.recipe.search
    full = job.full
    inputs = job.call_of("validation")
    with ProgressBar(job.console, "layer") as bar:
        space, table = search.choose_space(full, inputs, options, on_layer=bar.advance_to)
    with trials_shown(job.console, options.trials) as show:
        result = search.run(
            full,
            data=job.samples("validation").take(0, 32).inputs,
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
            on_trial=show,
        )
    write_json_atomic(folder / "result.json", result.as_dict())
    write_json_atomic(folder / "table.json", table and table.as_dict())


def prune(job: LatencyJob, folder: Path) -> None:
    """Rebuilds the best candidates that still meet the budget when they are timed again.

    Those of group 1 are the ones of group 0 that were widened, as the search found them.
    """
    result = job.search_result()
    finalists: list[dict[str, Any]] = []
    rejected: list[Finalist] = []
    groups = preselect(
        job.full,
        result,
        count=job.recipe.search.finalists,
        timer=lambda pairs: job.timer(job.full, pairs),
        pairs=job.recipe.export.pairs,
        rejected=rejected,
        say=job.say,
        calibration=job.calibration,
    )
    for group, members in enumerate(itertools.islice(groups, 2)):
        for finalist, slim in members:
            name = f"finalist_{len(finalists)}"
            save_model(slim, folder / f"{name}.keras")
            finalists.append(
                {
                    "name": name,
                    "group": group,
                    "number": finalist.trial,
                    "configuration": finalist.configuration.as_dict(),
                    "plan": json.loads(finalist.plan.to_json()),
                    "comparison": finalist.comparison.as_dict(),
                    "ratio": finalist.comparison.ratio.as_dict(),
                }
            )
    if not finalists:
        raise not_met(result, rejected)
    missed = [{"number": f.trial, "ratio": f.comparison.ratio.as_dict()} for f in rejected]
    write_json_atomic(folder / "finalists.json", {"finalists": finalists, "rejected": missed})


def finetune(job: LatencyJob, folder: Path) -> None:
    """Fine-tunes every finalist and accepts the best that meets the budget in fresh processes.

    It is judged by what the strategy may see.
    """
    finalists = job.json("prune", "finalists")["finalists"]
    histories: list[Any] = []

    def tune(slim: keras.Model, full: keras.Model) -> None:
        number = finalists[len(histories)]["number"]
        job.seed(2)
        label = "epoch" if len(finalists) == 1 else f"trial {number}, epoch"
        histories.append(fit_by_strategy(job, folder, slim, job.recipe.finetuning, label))

    tried, accepted = accept(
        [_finalists(job, [f for f in finalists if f["group"] == group]) for group in (0, 1)],
        full=job.full,
        full_path=job.stages.folder / "train" / "network.keras",
        slim_path=folder / "network.keras",
        inputs=job.samples("validation").inputs,
        budget=job.budget,
        score=job.score(job.model("train")),
        finetune=tune,
        pairs=job.recipe.export.pairs,
        imports=(*job.task.imports, *job.recipe.run.imports),
        say=job.say,
    )
    if accepted is None:
        raise not_met(job.search_result(), (), tried)
    write_json_atomic(folder / "finalists.json", [finalist.as_dict() for finalist in tried])
    shipped = accepted.configuration.as_dict()
    index = next(i for i, f in enumerate(finalists) if f["configuration"] == shipped)
    write_json_atomic(folder / "history.json", histories[index])
    write_json_atomic(
        folder / "chosen.json",
        {
            "name": finalists[index]["name"],
            "number": accepted.trial,
            "widths": accepted.plan.widths,
            "configuration": shipped,
            "quality": accepted.quality,
            "ratio": accepted.comparison.ratio.as_dict(),
            "latency_ms": accepted.comparison.b.median_ms,
            "warning": read_receipt(folder / "receipt.json").warning,
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


def _objective(job: LatencyJob, network: keras.Model) -> search.Objective | str:
    """The objective of the search: always computed from data the fine-tuning strategy may see."""
    name = job.recipe.search.objective_name
    if name == "kept_importance":
        return name
    score = job.score(network)
    if name == "as_pruned":
        return score
    settings = job.recipe.finetuning

    def tuner(candidate: keras.Model) -> Any:
        job.seed(4)  # every candidate sees the batches in one order, whatever ran before
        return strategy_tuner(job, candidate, settings)

    return search.ShortFineTune(
        score,
        tuner,
        strategy_batches(job, settings.on, settings),
        learning_rate=settings.learning_rate,
        clip_norm=job.task.clip_norm,
    )


def train_rivals(job: LatencyJob, folder: Path) -> None:
    """Trains baselines with the training budget of the slim network.

    One has the slim widths and trains from scratch for the steps of this run's training and
    fine-tuning together; those of weights that came trained are not repeated. The other, where the
    network iterates, is the full one cut to the most iterations that the budget allows, fine-tuned
    as the slim one is.
    """
    if not job.recipe.evaluation.rivals:
        write_json_atomic(folder / "rivals.json", {})
        return
    job.seed(3)
    full, slim = job.model("train"), job.model("finetune")
    steps = [len(job.json(stage, "history")["loss"]) for stage in ("train", "finetune")]
    scratch = type(slim).from_config(slim.get_config())  # its widths, with new weights
    tuning, training = job.recipe.finetuning, job.recipe.training
    tuning_steps = max(1, len(job.samples(tuning.on)) // tuning.batch_size)
    training_steps = max(1, len(job.samples("train")) // training.batch_size)
    epochs = steps[0] + round(steps[1] * tuning_steps / training_steps)
    history = fit_by_strategy(job, folder, scratch, training, "from scratch, epoch", epochs)
    save_model(scratch, folder / "from_scratch.keras")
    rivals: dict[str, dict[str, Any]] = {
        "from_scratch": {"epochs": epochs, "seconds": sum(history["seconds"])}
    }

    if hasattr(full, "with_iterations"):
        fewer, ratio = _cut_to_budget(job, full)
        history = fit_by_strategy(job, folder, fewer, tuning, "fewer iterations, epoch")
        save_model(fewer, folder / "fewer_iterations.keras")
        rivals["fewer_iterations"] = {
            "iterations": fewer.iterations,
            "ratio": ratio.as_dict(),
            "seconds": sum(history["seconds"]),
        }
    write_json_atomic(folder / "rivals.json", rivals)


def _cut_to_budget(job: LatencyJob, full: keras.Model) -> tuple[keras.Model, latency.Ratio]:
    """The full network with the most iterations that meet the budget, at least one."""
    timer = job.timer(full, job.recipe.export.pairs)
    timed: dict[int, latency.Comparison] = {}

    def misses(iterations: int) -> bool:
        timed[iterations] = timer(full.with_iterations(iterations))
        return not job.budget.is_met(timed[iterations])

    counts = range(1, full.iterations)
    most = max(1, bisect.bisect_left(counts, True, key=misses))
    fewer = full.with_iterations(most)
    return fewer, (timed.get(most) or timer(fewer)).ratio
