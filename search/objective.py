"""Objectives of a search: a number per candidate, before or after some fine-tuning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.errors import UserFunctionError
from spade_keras.finetuning import IMAGE_CLIP_NORM, FineTuner, tuning_options
from spade_keras.pruning import find_groups
from spade_keras.pruning import importance as importances
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.pruning.selection import removal_order
from spade_keras.search.user_code import load_function

Report = Callable[[int, float], None]
"""Takes a step and the value reached by then; raises `optuna.TrialPruned` to stop the trial."""


class Objective(ABC):
    """Judges a candidate; higher is better."""

    name: str
    """Name of the maximized quantity; a study can only be resumed with the same name."""

    @abstractmethod
    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the value of a candidate, which it may train in place.

        `report` is called after each rung, counted from 1, with the value so far.
        """

    def as_pruned(self, candidate: keras.Model) -> float:
        """Returns the value of a candidate that is not tuned."""
        return self(candidate)


class ShortFineTune(Objective):
    """A score of a candidate after a few steps of fine-tuning, in place.

    Adam with gradients clipped to a small norm, its rate rising over a tenth of the steps to
    `learning_rate` and falling to zero by a cosine.

    Args:
        score: Judges the tuned candidate; must see no more than the strategy of `tuner` may.
        tuner: Wraps a candidate in the fine-tuning strategy, such as `finetuning.Supervised`.
        batches: Training data.
        epochs: Passes over `batches`.
        rungs: Number of equal parts of the training, each of which ends with a report.
        learning_rate: The highest one.
        clip_norm: Norm to which gradients are clipped.
    """

    def __init__(
        self,
        score: Objective,
        tuner: Callable[[keras.Model], FineTuner],
        batches: keras.utils.PyDataset,
        *,
        epochs: int = 1,
        rungs: int = 3,
        learning_rate: float = 3e-4,
        clip_norm: float = IMAGE_CLIP_NORM,
    ) -> None:
        compiled = {"learning_rate": learning_rate, "clip_norm": clip_norm}
        for name, value in {"epochs": epochs, "rungs": rungs, **compiled}.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {name}={value}")
        self._steps = epochs * len(batches)
        if rungs > self._steps:
            raise ValueError(
                f"`rungs` must be at most the number of training steps, {self._steps}. "
                f"Received: rungs={rungs}"
            )
        self.name = f"{score.name} after {self._steps} steps"
        self._parts = rungs
        self._score, self._tuner = score, tuner
        self._batches, self._epochs = batches, epochs
        self._compiled = compiled

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the score after the last step."""
        tuner = self._tuner(candidate)
        warmup = max(1, self._steps // 10)
        tuner.compile(**tuning_options(steps=self._steps, warmup=warmup, **self._compiled))
        rungs = _Rungs(self._score, self._steps, self._parts, report)
        tuner.fit(self._batches, epochs=self._epochs, verbose=0, callbacks=[rungs])
        return rungs.reached

    def as_pruned(self, candidate: keras.Model) -> float:
        """Returns the score before the first step."""
        return float(self._score(candidate))


class _Rungs(keras.callbacks.Callback):
    """Judges the network after every part of the training."""

    def __init__(self, score: Objective, steps: int, rungs: int, report: Report | None) -> None:
        super().__init__()
        self.reached = math.nan
        self._score, self._report = score, report
        self._ends = [round(steps * (rung + 1) / rungs) for rung in range(rungs)]
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        if self._done not in self._ends:
            return
        if self._report is None and self._done != self._ends[-1]:
            return
        # Under JAX asking for the model is what brings its trained weights back into it.
        self.reached = float(self._score(self.model.network))
        if self._report is not None:
            self._report(self._ends.index(self._done) + 1, self.reached)


class KeptImportance(Objective):
    """The share of the network's importance that a candidate keeps: costs no forward pass.

        product over groups g of share_g ^ (k_g / sum k)

    with share_g the importance of the channels that group g keeps, relative to all its channels,
    and k_g the number of kernels that write or read them. A group that is gone with a dropped
    residual block keeps nothing but lets its signal pass: it counts with the share
    `1 - k_g / sum k`, for the kernels that are lost. If iterations share their prior, the value is
    multiplied by the share of iterations kept.
    """

    def __init__(
        self, network: keras.Model, importance: str | importances.ImportanceFunction = "group_l1"
    ) -> None:
        named = importance if isinstance(importance, str) else type(importance).__name__
        self.name = f"share of importance kept ({named})"
        self._shares = kept_shares(network, importance)
        self._iterations = iterations_of(network)
        self._parts = set(parts_of(network))

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the share, above 0 and at most 1."""
        widths = {group.name: group.width for group in find_groups(candidate)}
        kernels = sum(kept.weight for kept in self._shares.values())
        value = 1.0
        for group, kept in self._shares.items():
            part = kept.weight / kernels
            there = group in widths
            value *= float(kept.shares[widths[group]]) ** part if there else 1 - part
        # If each iteration has its own prior, the groups of those cut off are missing.
        if self._iterations and set(parts_of(candidate)) == self._parts:
            value *= candidate.iterations / self._iterations
        return value


class UserFunction(Objective):
    """The value of a user's function: from a candidate to a real number, higher is better.

    It may be given by its name, as "module:function".

    Raises:
        UserFunctionError: If there is no such function, or it returns no finite real number.
    """

    def __init__(self, function: str | Callable[[keras.Model], float]) -> None:
        if isinstance(function, str):
            self.name = function
            self._function = load_function(function)
        else:
            self.name = getattr(function, "__qualname__", type(function).__name__)
            self._function = function

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the number."""
        value: Any = self._function(candidate)
        if keras.ops.is_tensor(value):
            value = keras.ops.convert_to_numpy(value)
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all():
            return float(array.reshape(()))
        shown = f"{value!r:.80} of type {type(value).__name__}"
        raise UserFunctionError(
            f"`{self.name}` must return one finite real number, higher is better. Received: {shown}"
        )


@dataclass(frozen=True)
class KeptShare:
    """The share that the best n channels of a group keep of its importance, at index n of `shares`.

    `weight` is the number of kernels that write or read the group's channels.
    """

    weight: int
    shares: np.ndarray


def kept_shares(
    network: keras.Model, importance: str | importances.ImportanceFunction = "group_l1"
) -> dict[str, KeptShare]:
    """Returns the share that every group that may change keeps at each of its widths.

    A group that the importance (see `pruning.make_plan`) cannot score, or whose scores are all
    zero, loses the same share per channel.
    """
    criterion = importances.find_importance(importance)
    weights = WeightTable(network)
    found = {}
    for group in find_groups(network):
        if group.fixed:
            continue
        scores = importances.group_scores(criterion, group, weights)
        if scores is None or not np.any(scores > 0):
            scores = np.ones(group.width)
        positive = scores - min(0.0, float(scores.min()))
        best_first = positive[removal_order(group, scores)[::-1]]
        total = np.concatenate([[0.0], np.cumsum(best_first)])
        slots = importances.magnitude_slots(group)
        kernels = {(s.layer, s.weight_index) for s in slots if s.role != "parameter"}
        found[group.name] = KeptShare(max(1, len(kernels)), total / total[-1])
    return found
