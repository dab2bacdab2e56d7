"""Channel pruning of a transferred network, in one cut."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras.pruning import PruningPlan, rebuild
from spade_keras.transfer.fitting import Tasks, fit


def prune_channels(
    model: keras.Model, tasks: Tasks, plan: PruningPlan, **options: Any
) -> keras.Model:
    """Removes the channels of a plan and trains all weights that are left.

    Args:
        model: The network to prune; it stays as it is.
        tasks: The target's "train" and "validation".
        plan: What goes, such as `make_plan(model, ratio=0.3)`.
        **options: Of `fit`.

    Returns:
        A new model.
    """
    return fit(rebuild(model, plan), tasks["train"], tasks["validation"], **options)
