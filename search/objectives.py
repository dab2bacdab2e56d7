"""What a search maximizes: the quality of a candidate, before or after some fine-tuning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.errors import UserFunctionError
from spade_keras.finetuning import IMAGE_CLIP_NORM, FineTuner, tuning_options
from spade_keras.pruning import find_groups
from spade_keras.search.kept_importance import kept_shares
from spade_keras.search.quality import Quality
from spade_keras.search.user_function import load_function

Report = Callable[[int, float], None]
"""Told a step and the quality reached by then; raises `optuna.TrialPruned` to stop the trial."""


class Objective(ABC):
    """Judges a candidate; higher is better."""

    name: str
    """What is maximized, for reports; a study goes on under the same name alone."""
    rungs: int = 1
    """Number of reports a candidate may give before its value is known."""

    @abstractmethod
    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the value of a candidate.

        Args:
            candidate: A network of its own, which the objective may train in place.
            report: Called after each rung, counted from 1, with the quality so far.
        """

    def as_pruned(self, candidate: keras.Model) -> float:
        """Returns the value of a candidate that is not tuned."""
        return self(candidate)


class AsPruned(Objective):
    """The quality of a candidate as it comes from pruning.

    Args:
        quality: Judges it.
    """

    def __init__(self, quality: Quality) -> None:
        self.name = quality.name
        self._quality = quality

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the quality."""
        return float(self._quality(candidate))


class ShortFineTune(Objective):
    """The quality of a candidate after a few steps of fine-tuning.

    Adam with gradients clipped to a small norm, its rate rising over a tenth of the steps and
    falling to zero by a cosine. The candidate is trained in place.

    Args:
        quality: Judges it; must see no more than the strategy of `tuner` may.
        tuner: Wraps a candidate in the fine-tuning strategy, such as `finetuning.Supervised`.
        batches: What to train on.
        epochs: Passes over `batches`.
        rungs: Number of equal parts of the training, each of which ends with a report.
        learning_rate: The highest one.
        clip_norm: Length to which gradients are cut.

    Raises:
        ValueError: If a number is not positive, or there are more rungs than steps.
    """

    def __init__(
        self,
        quality: Quality,
        tuner: Callable[[keras.Model], FineTuner],
        batches: keras.utils.PyDataset,
        *,
        epochs: int = 1,
        rungs: int = 3,
        learning_rate: float = 3e-4,
        clip_norm: float = IMAGE_CLIP_NORM,
    ) -> None:
        numbers = {
            "epochs": epochs,
            "rungs": rungs,
            "learning_rate": learning_rate,
            "clip_norm": clip_norm,
        }
        for name, value in numbers.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {name}={value}")
        steps = epochs * len(batches)
        if rungs > steps:
            raise ValueError(
                f"`rungs` must be at most the number of training steps, {steps}. "
                f"Received: rungs={rungs}"
            )
        self.name = f"{quality.name} after {steps} steps"
        self.rungs = rungs
        self._quality = quality
        self._tuner = tuner
        self._batches = batches
        self._epochs = epochs
        self._learning_rate = learning_rate
        self._clip_norm = clip_norm

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the quality after the last step.

        Raises:
            optuna.TrialPruned: If `report` does.
        """
        tuner = self._tuner(candidate)
        steps = self._epochs * len(self._batches)
        tuner.compile(
            **tuning_options(
                learning_rate=self._learning_rate,
                steps=steps,
                warmup=max(1, steps // 10),
                clip_norm=self._clip_norm,
            )
        )
        rungs = _Rungs(self._quality, steps, self.rungs, report)
        tuner.fit(self._batches, epochs=self._epochs, verbose=0, callbacks=[rungs])
        return rungs.reached

    def as_pruned(self, candidate: keras.Model) -> float:
        """Returns the quality before the first step."""
        return float(self._quality(candidate))


class _Rungs(keras.callbacks.Callback):
    """Judges the network whenever another part of the training is done."""

    def __init__(self, quality: Quality, steps: int, rungs: int, report: Report | None) -> None:
        super().__init__()
        self.reached = math.nan
        self._quality = quality
        self._report = report
        self._ends = [round(steps * (rung + 1) / rungs) for rung in range(rungs)]
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        if self._done not in self._ends:
            return
        last = self._done == self._ends[-1]
        if self._report is None and not last:
            return
        # Under JAX asking for the model is what brings its trained weights back into it.
        self.reached = float(self._quality(self.model.network))
        if self._report is not None:
            self._report(self._ends.index(self._done) + 1, self.reached)


class KeptImportance(Objective):
    """The share of the network's importance that a candidate keeps: costs no forward pass.

        product over groups g of share_g ^ (k_g / sum k)

    with share_g the importance of the channels that group g keeps, of all its channels', and k_g
    the number of kernels that write or read them. A group that went with a dropped residual block
    keeps nothing but lets its signal pass: it counts with the share `1 - k_g / sum k` of a network
    that lost so many of its kernels. Where iterations share their prior, the value is multiplied by
    the share of iterations kept.

    Args:
        network: The full network.
        importance: Criterion by which channels are kept.
    """

    def __init__(self, network: keras.Model, importance: str = "group_l1") -> None:
        self.name = f"share of importance kept ({importance})"
        self._shares = kept_shares(network, importance)
        self._iterations = getattr(network, "iterations", None)
        self._priors = set(getattr(network, "priors", ()))

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the share, above 0 and at most 1."""
        widths = {group.name: group.width for group in find_groups(candidate)}
        kernels = sum(kept.weight for kept in self._shares.values())
        value = 1.0
        for group, kept in self._shares.items():
            part = kept.weight / kernels
            if group in widths:
                value *= float(kept.shares[widths[group]]) ** part
            else:
                value *= 1 - part
        # Where each iteration has a prior of its own, those cut off are missing groups.
        if self._iterations and set(candidate.priors) == self._priors:
            value *= candidate.iterations / self._iterations
        return value


class UserFunction(Objective):
    """What a function of the user's own returns.

    Args:
        function: From a candidate to a real number, higher is better; or its name as
            "module:function".

    Raises:
        UserFunctionError: If there is no such function.
    """

    def __init__(self, function: str | Callable[[keras.Model], float]) -> None:
        if isinstance(function, str):
            self.name = function
            self._function = load_function(function)
        else:
            self.name = getattr(function, "__qualname__", type(function).__name__)
            self._function = function

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the number.

        Raises:
            UserFunctionError: If it is no finite real number.
        """
        return _real(self._function(candidate), self.name)


def _real(value: Any, name: str) -> float:
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all():
        return float(array.reshape(()))
    shown = f"{value!r:.80} of type {type(value).__name__}"
    raise UserFunctionError(
        f"`{name}` must return one finite real number, higher is better. Received: {shown}"
    )


OBJECTIVES: dict[str, type[Objective]] = {
    "as_pruned": AsPruned,
    "short_finetune": ShortFineTune,
    "kept_importance": KeptImportance,
}
"""Objectives by name."""
