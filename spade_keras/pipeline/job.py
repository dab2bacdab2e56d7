"""What the stages of a run share: the recipe, and what earlier stages left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
from rich.console import Console

from spade_keras import data, latency, search, tasks
from spade_keras.backend.batches import first_samples
from spade_keras.pipeline.progress import EpochProgress
from spade_keras.pipeline.run_folder import Stages
from spade_keras.recipe import Recipe, SearchRecipe


@dataclass
class StageJob:
    """What every stage of every run needs.

    Attributes:
        recipe: The validated recipe.
        stages: The folders of finished stages.
        console: Where progress is shown.
    """

    recipe: Recipe
    stages: Stages
    console: Console

    def model(self, stage: str, name: str = "network") -> keras.Model:
        """Loads a network that a finished stage saved."""
        return keras.saving.load_model(self.stages.folder / stage / f"{name}.keras", compile=False)

    def json(self, stage: str, name: str) -> Any:
        """Loads what a finished stage wrote as JSON."""
        return json.loads((self.stages.folder / stage / f"{name}.json").read_text())

    def seed(self, offset: int) -> None:
        """Seeds everything random of one stage, whatever ran before it in this process."""
        keras.utils.set_random_seed(self.recipe.run.seed + offset)

    def epochs_shown(self, label: str, epochs: int) -> EpochProgress:
        """Shows a training's epochs."""
        return EpochProgress(self.console, label, epochs)


@dataclass
class Job(StageJob):
    """What every stage of a search for a latency budget needs."""

    recipe: SearchRecipe

    @cached_property
    def task(self) -> tasks.Task:
        """What the run's data, networks, losses and scores are."""
        return tasks.get(self.recipe)

    @property
    def budget(self) -> search.LatencyBudget:
        """The latency budget of the recipe."""
        settings = self.recipe.search
        return search.LatencyBudget.parse(
            settings.latency_budget,
            safety_margin=settings.safety_margin,
            batch_size=settings.batch_size,
        )

    def samples(self, split: str) -> tasks.Samples:
        """Loads "train", "validation" or "test"."""
        return self.task.load(self.stages.folder / "data", split)

    def call_of(self, split: str) -> Any:
        """Returns the first inputs of a split, as many as the budget's call has, as arrays."""
        size = self.budget.batch_size
        return latency.fill_batch(first_samples(self.samples(split).inputs, size), size)

    def quality(self, full: keras.Model) -> search.Quality:
        """Returns what judges a network on validation data, by what its strategy may see.

        Args:
            full: The full network.
        """
        validation = self.samples("validation")
        strategy = self.recipe.finetuning.strategy
        supervised = strategy == "supervised"
        return self.task.quality(
            strategy,
            validation.judged_inputs,
            targets=validation.truth if supervised else None,
            teacher=full,
        )

    def search_result(self) -> search.SearchResult:
        """Loads what the search found."""
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
            shuffle: Whether to draw the order anew after every epoch.
            judged: Whether to serve what is held out of the inputs with them.
        """
        samples = self.samples(split)
        return data.SliceDataset(
            samples.judged_inputs if judged else samples.inputs,
            targets(samples) if targets else None,
            batch_size=min(batch_size, len(samples)),
            shuffle_seed=self.recipe.run.seed if shuffle else None,
        )
