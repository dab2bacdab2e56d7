"""What the stages of a transfer share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from spade_keras.pipeline.steps import StageJob
from spade_keras.recipe import TransferRecipe
from spade_keras.transfer import LEARNING_RATES, Samples, Tasks, soft_labels

ARMS = {
    "original": "the transferred network",
    "basis": "components pruned",
    "channel": "channels pruned to the same size",
    "double": "channels, then components pruned",
    "scratch": "as large as the pruned one, from scratch",
}
"""The networks that a transfer compares, each a stage's, and what they are."""


@dataclass
class TransferJob(StageJob):
    """What every stage of a transfer needs."""

    recipe: TransferRecipe

    @cached_property
    def target(self) -> Tasks:
        """The samples of the target task: "train", "validation" and "test"."""
        return {name: self.samples(name) for name in ("train", "validation", "test")}

    @cached_property
    def taught(self) -> Tasks:
        """The samples of the target task, those to train on with the original's answers as well."""
        settings = self.recipe.pruning
        if not settings.teacher_share:
            return self.target
        train = soft_labels(
            self.model("original"),
            self.target["train"],
            share=settings.teacher_share,
            temperature=settings.temperature,
        )
        return {**self.target, "train": train}

    @property
    def classes(self) -> int:
        """Number of target classes."""
        return len(self.recipe.data.target_classes)

    def samples(self, name: str) -> Samples:
        """Loads inputs and classes that the data stage wrote."""
        with np.load(self.stages.folder / "data" / f"{name}.npz") as arrays:
            return arrays["x"], arrays["y"]

    def arms(self) -> dict[str, keras.Model]:
        """Loads the networks to compare, those that were made."""
        names = [name for name in ARMS if name != "scratch" or self.recipe.evaluation.rivals]
        return {name: self.model(name) for name in names}

    def fitting(self, epochs: int, label: str = "epoch") -> dict[str, Any]:
        """Returns the arguments of `transfer.fit` for training of all weights, with progress."""
        settings = self.recipe.training
        default = LEARNING_RATES[self.recipe.network.weights]
        return {
            "epochs": epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate or default,
            "callbacks": [self.epochs_shown(label, epochs)],
        }
