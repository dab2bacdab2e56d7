"""The interface between the stages of a run and its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import search
from spade_keras.backend.batches import count_samples, first_samples
from spade_keras.errors import SpadeError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Samples:
    """One split of the data: arrays, or lazy arrays that are read when they are indexed.

    Attributes:
        inputs: Inputs of a network: an array, or a dict of arrays; samples on the first axis.
        targets: What its outputs should be; None where it is unknown.
        held_out: Measurements by name that no network gets, to judge it by.
        volumes: The volume of every sample, where scores are taken per volume.
    """

    inputs: Any
    targets: Any | None = None
    held_out: Mapping[str, Any] | None = None
    volumes: np.ndarray | None = None

    def __len__(self) -> int:
        return count_samples(self.inputs)

    @property
    def judged_inputs(self) -> Any:
        """Inputs with the held-out measurements: for losses and objectives, not for networks."""
        return self.inputs if self.held_out is None else {**self.inputs, **self.held_out}

    def take(self, start: int, count: int) -> Samples:
        """Returns some samples, as arrays."""
        parts = (self.inputs, self.targets, self.held_out, self.volumes)
        return Samples(*(None if p is None else first_samples(p, count, start) for p in parts))


@dataclass(frozen=True)
class DataFacts:
    """Facts about the data, for the report.

    Attributes:
        note: Origin of the data, and what figures on them can show.
        skipped: File -> why it was left out.
    """

    note: str
    skipped: Mapping[str, str] = field(default_factory=dict)


class Task(ABC):
    """Data, networks, losses and scores of one kind of run, described by a validated recipe."""

    convention_name: str
    """Name of the convention of `scores`; to be printed with its numbers."""
    convention: str
    """The meaning of the numbers in `scores`."""
    columns: Mapping[str, str]
    """Scores that a table shows: key of `scores` -> heading, the most important first."""
    clip_norm: float
    """Length to which gradients are cut; see `training.fit_best`."""
    imports: Sequence[str] = ()
    """Modules that register the classes of the task's networks."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    @abstractmethod
    def make_data(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Writes what `load` reads to an empty folder; `say` shows a line to the user."""

    @abstractmethod
    def load(self, folder: Path, split: str) -> Samples:
        """Reads a split that `make_data` wrote."""

    @abstractmethod
    def new_network(self, train: Samples) -> keras.Model:
        """Makes the full network, before training, to the shapes of the training split."""

    @abstractmethod
    def training_options(self, network: keras.Model, inputs: Any) -> dict[str, Any]:
        """Returns loss and metrics for training on targets, as `compile` takes them."""

    @abstractmethod
    def distance(
        self, strategy: str, network: keras.Model, inputs: Any
    ) -> Callable[[Any, Any], Any]:
        """Returns the distance between targets and outputs that fine-tuning minimizes.

        Args:
            strategy: "supervised" (against the truth) or "school" (against a teacher's outputs).
            network: The network to tune.
            inputs: A few inputs.
        """

    def objective(
        self,
        strategy: str,
        inputs: Any,
        *,
        targets: np.ndarray | None = None,
        teacher: keras.Model | None = None,
    ) -> search.Objective:
        """Returns the score of a candidate, computed from data its strategy may see.

        Args:
            strategy: The fine-tuning strategy.
            inputs: Held-out inputs, with their held-out measurements.
            targets: Their targets, for the supervised strategy alone.
            teacher: The unpruned network.
        """
        return search.strategy_objective(
            strategy, inputs, targets=targets, teacher=teacher, task=self.recipe.run.task
        )

    @abstractmethod
    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Scores a network's outputs by the samples' targets or held-out measurements."""

    def timed(self, network: keras.Model) -> keras.Model:
        """Returns the network to time: itself, unless its time depends on the data."""
        return network

    def network_facts(self, network: keras.Model, samples: Samples) -> dict[str, Any]:
        """Returns extra facts of a network for the report, as plain JSON values."""
        return {}

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns outputs that need no network, by name; none unless a task has some."""
        return {}

    def panel(self, samples: Samples, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns pictures `(height, width)` of one sample by name, with its "truth" if it has one.

        Args:
            samples: Samples of the test split.
            outputs: Name of a network or baseline -> its outputs.
        """
        return {}

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns extra facts for `metrics.json`, as plain JSON values."""
        return {}


def check_some_left(settings: Any, held_out: str, available: int, found: str) -> None:
    """Refuses to hold out everything, so that nothing is left to train on.

    Args:
        settings: The table `[data]`.
        held_out: The end of its keys `validation_...` and `test_...`.
        available: How many there are.
        found: The same in words, such as "images (8)".
    """
    validation, test = (getattr(settings, f"{part}_{held_out}") for part in SPLITS[1:])
    if available <= validation + test:
        raise SpadeError(
            f"`data.validation_{held_out}` + `data.test_{held_out}` must be below the number of "
            f"{found}, so that some are left to train on. Received: "
            f"data.validation_{held_out}={validation}, data.test_{held_out}={test}"
        )
