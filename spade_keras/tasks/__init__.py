"""Tasks: what a run's data, networks, losses and scores are; the stages are the same for all."""

from __future__ import annotations

from spade_keras.recipe import SearchRecipe
from spade_keras.tasks.classification import Classification
from spade_keras.tasks.reconstruction import Reconstruction
from spade_keras.tasks.task import SPLITS, DataFacts, Samples, Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "reconstruction": Reconstruction,
}

__all__ = [
    "SPLITS",
    "TASKS",
    "Classification",
    "DataFacts",
    "Reconstruction",
    "Samples",
    "Task",
    "get",
]


def get(recipe: SearchRecipe) -> Task:
    """Returns the task of a recipe.

    Args:
        recipe: The validated recipe; its `run.task` is a key of `TASKS`.
    """
    return TASKS[recipe.run.task](recipe)
