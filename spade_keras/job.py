"""What the stages of a run share: the recipe, and what earlier stages left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Console

from spade_keras import data
from spade_keras.progress import EpochProgress
from spade_keras.recipe import Recipe
from spade_keras.stages import Stages


@dataclass
class Job:
    """What every stage of a run needs.

    Attributes:
        recipe: The validated recipe.
        stages: The folders of finished stages.
        console: Where progress is shown.
    """

    recipe: Recipe
    stages: Stages
    console: Console

    def slices(self, split: str) -> data.MulticoilSlices:
        """Loads "train", "validation" or "test"."""
        return data.MulticoilSlices.load(str(self.stages.folder / "data" / f"{split}.npz"))

    def model(self, stage: str, name: str = "network") -> keras.Model:
        """Loads a network that a finished stage saved."""
        return keras.saving.load_model(self.stages.folder / stage / f"{name}.keras", compile=False)

    def json(self, stage: str, name: str) -> Any:
        """Loads what a finished stage wrote as JSON."""
        return json.loads((self.stages.folder / stage / f"{name}.json").read_text())

    def batches(
        self,
        split: str,
        batch_size: int,
        targets: Callable[[data.MulticoilSlices], np.ndarray] | None = None,
        *,
        shuffle: bool = True,
    ) -> data.SliceDataset:
        """Serves the measurements of a split, with the targets that `targets` makes of it."""
        slices = self.slices(split)
        return data.SliceDataset(
            slices.inputs,
            targets(slices) if targets else None,
            batch_size=min(batch_size, len(slices)),
            shuffle_seed=self.recipe.run.seed if shuffle else None,
        )

    def seed(self, offset: int) -> None:
        """Seeds everything random of one stage, whatever ran before it in this process."""
        keras.utils.set_random_seed(self.recipe.run.seed + offset)

    def epochs_shown(self, label: str, epochs: int) -> EpochProgress:
        """Shows a training's epochs."""
        return EpochProgress(self.console, label, epochs)
