"""Tasks: the data, networks, losses and scores of a run; the stages are the same for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spade_keras.registry import TASKS, lazy_attributes

if TYPE_CHECKING:
    from spade_keras.tasks.any_model import AnyModel, SearchJob
    from spade_keras.tasks.classification import Classification
    from spade_keras.tasks.reconstruction import Reconstruction
    from spade_keras.tasks.task import SPLITS, DataFacts, Samples, Task

__all__ = [
    "SPLITS",
    "TASKS",
    "AnyModel",
    "Classification",
    "DataFacts",
    "Reconstruction",
    "Samples",
    "SearchJob",
    "Task",
    "get",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "any_model": "AnyModel SearchJob",
        "classification": "Classification",
        "reconstruction": "Reconstruction",
        "sources": "",
        "task": "SPLITS DataFacts Samples Task",
    },
)


def get(recipe: Any) -> Task:
    """Returns the task of a validated recipe, whose `run.task` is a key of `TASKS`."""
    task: Task = TASKS[recipe.run.task](recipe)
    return task
