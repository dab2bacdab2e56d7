"""From data to a slim network that meets a latency budget: the stages, and what each depends on."""

from __future__ import annotations

import keras

from spade_keras import latency
from spade_keras.pipeline.closing import evaluate, export, report
from spade_keras.pipeline.job import Job
from spade_keras.pipeline.learning import DATA_LAYOUT, make_data, train, train_rivals
from spade_keras.pipeline.slimming import finetune, prune, search_widths
from spade_keras.pipeline.stage import Pipeline, Stage
from spade_keras.recipe import SearchRecipe
from spade_keras.report import closing_table


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


SEARCHING = Pipeline(
    job=Job,
    order=search_order,
    report=report,
    table=closing_table,
    results=("metrics.json", "report.html", "tradeoff.png", "widths.png", "pictures.png"),
)
"""How the recipes that search for a latency budget are run."""
