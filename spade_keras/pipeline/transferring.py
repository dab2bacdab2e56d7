"""From a source task to pruned networks for a small target task: the stages and their order."""

from __future__ import annotations

import keras

from spade_keras import latency
from spade_keras.pipeline.steps import Pipeline, Stage
from spade_keras.pipeline.transfer_closing import evaluate, export, report
from spade_keras.pipeline.transfer_job import ARMS, TransferJob
from spade_keras.pipeline.transfer_stages import (
    TRANSFER_DATA_LAYOUT,
    make_basis,
    make_channel,
    make_data,
    make_double,
    make_original,
    make_scratch,
    make_source,
)
from spade_keras.recipe import TransferRecipe
from spade_keras.report import transfer_table


def transfer_order(recipe: TransferRecipe) -> tuple[Stage, ...]:
    """The stages in order, each with the part of the recipe and the stages it depends on.

    Args:
        recipe: The validated recipe.
    """
    common = {"seed": recipe.run.seed, "backend": keras.backend.backend()}
    training = {**common, "training": recipe.training, "network": recipe.network}
    pruning = {**training, "pruning": recipe.pruning}
    timing = {"fingerprint": latency.fingerprint(), "evaluation": recipe.evaluation}
    origin = {"weights": recipe.network.weights, "path": recipe.network.path}
    return (
        Stage("data", "source and target task", make_data,
              {"task": recipe.run.task, "data": recipe.data, "seed": recipe.run.seed,
               **origin, "layout": TRANSFER_DATA_LAYOUT}),
        Stage("source", "the network that is transferred", make_source, training, ("data",)),
        Stage("original", ARMS["original"], make_original, training, ("data", "source")),
        Stage("basis", ARMS["basis"], make_basis, pruning, ("data", "original")),
        Stage("channel", ARMS["channel"], make_channel, pruning, ("data", "original", "basis")),
        Stage("double", ARMS["double"], make_double, pruning, ("data", "original")),
        Stage("scratch", ARMS["scratch"], make_scratch,
              {**training, "rivals": recipe.evaluation.rivals}, ("data", "basis")),
        Stage("evaluate", "on the test data, timed in turn with the original", evaluate, timing,
              ("data", *ARMS)),
        Stage("export", "SavedModels, checked and timed without Keras", export,
              {**timing, "export": recipe.export}, ("data", "original", "basis", "double")),
    )  # fmt: skip


TRANSFERRING = Pipeline(
    job=TransferJob,
    order=transfer_order,
    report=report,
    table=transfer_table,
    results=("metrics.json", "report.html", "ranks.png"),
)
"""How the recipes of the task "transfer" are run."""
