"""What the stages of a run ask of its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.search import Quality

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Samples:
    """One split of the data.

    Attributes:
        inputs: What a network is given: an array, or a dict of arrays; samples on the first axis.
        truth: What it should answer.
    """

    inputs: Any
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)


class Task(ABC):
    """Data, networks, losses and scores of one kind of run.

    Args:
        recipe: The validated recipe, of the task's own schema.
    """

    convention: str
    """What the numbers of `scores` mean; to be printed with them."""
    data_note: str
    """What the data are and what figures on them can show."""
    columns: Mapping[str, str]
    """Scores that a table shows: key of `scores` -> heading, the most important first."""
    clip_norm: float
    """Length to which gradients are cut; see `training.fit_best`."""
    imports: Sequence[str] = ()
    """Modules that register the classes of the task's networks."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    @abstractmethod
    def make_data(self, folder: Path, say: Callable[[str], None]) -> None:
        """Writes one file per split.

        Args:
            folder: Where to.
            say: Shows a line to the user.
        """

    @abstractmethod
    def load(self, folder: Path, split: str) -> Samples:
        """Reads a split that `make_data` wrote."""

    @abstractmethod
    def new_network(self, train: Samples) -> keras.Model:
        """Makes the full network as it is before training.

        Args:
            train: The training split, for networks that are made to its shapes.
        """

    @abstractmethod
    def training_options(self, network: keras.Model, inputs: Any) -> dict[str, Any]:
        """Returns the loss and metrics for training on truth, as arguments of `compile`.

        Args:
            network: What is trained.
            inputs: A few inputs.
        """

    @abstractmethod
    def distance(
        self, strategy: str, network: keras.Model, inputs: Any
    ) -> Callable[[Any, Any], Any]:
        """Returns what fine-tuning minimizes between outputs and what they should be.

        Args:
            strategy: "supervised" (against the truth) or "school" (against a teacher's outputs).
            network: What is tuned.
            inputs: A few inputs.
        """

    @abstractmethod
    def quality(
        self,
        strategy: str,
        inputs: Any,
        *,
        targets: np.ndarray | None = None,
        teacher: keras.Model | None = None,
    ) -> Quality:
        """Returns how a candidate is judged by what its fine-tuning strategy may see.

        Args:
            strategy: The fine-tuning strategy.
            inputs: Held-out inputs.
            targets: Their truth, for the supervised strategy alone.
            teacher: The unpruned network.
        """

    @abstractmethod
    def scores(self, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Scores a network's outputs against the truth.

        Args:
            truth: Of the samples.
            outputs: What the network answered.
        """

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns answers that need no network, by name; none unless a task has some."""
        return {}

    def panel(self, samples: Samples, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns pictures `(height, width)` of one sample, its "truth" among them.

        Args:
            samples: Of the test split.
            outputs: Name of a network or baseline -> its outputs.

        Returns:
            Nothing, unless the task has pictures to show.
        """
        return {}

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns what else belongs into `metrics.json`, as plain JSON values."""
        return {}
