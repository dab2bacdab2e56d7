"""Channel pruning without labels: removes the channels that the others can interpolate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spade_keras.backend.batches import count_samples
from spade_keras.pruning.compensation import Calibration, calibrate
from spade_keras.pruning.graph.partition import read_from
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, find_groups
from spade_keras.pruning.importance.obs import reader_moments
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.proof import to_numpy
from spade_keras.pruning.rebuild import apply_step, refit

_OWN = {"importance", "calibration", "blocks", "after"}


@dataclass(frozen=True)
class Interpolation:
    """The slim model with refitted readers, and its plan.

    `errors` holds, by narrowed group, `||Z - Z[:, I] T|| / ||Z||` on the data.
    """

    model: Any
    plan: PruningPlan
    errors: dict[str, float]


def prune_interpolative(model: Any, inputs: Any, **settings: Any) -> Interpolation:
    """Removes channels by an interpolative decomposition of their values on some data.

        Z P = Q R,    I = the first pivots,    Z ~ Z[:, I] T,    W <- T W

    `Z` holds what the readers of a group see, one column per channel and one row per sample and
    position; `R` is the pivoted Cholesky factor of `Z^T Z`. Its diagonal measures the contribution
    of each pivot, by which groups compete for a `target`. What `T` cannot restore, a sequential
    refit of the readers takes up; see `rebuild`.

    The model stays as it is. A few hundred samples do for inputs; the settings are those of
    `make_plan` that say how much goes.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="a"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> x = np.random.default_rng(0).normal(size=(64, 3)) @ np.ones((3, 8))
        >>> made = prune_interpolative(model, x.astype("float32"), widths={"a": 1})
        >>> made.model.get_layer("a").units, round(made.errors["a"], 3)
        (1, 0.0)

    Reference:
        Chee et al., Model Preserving Compression for Neural Networks, arXiv 2108.00065.
    """
    for name in _OWN.intersection(settings):
        raise ValueError(
            f"`{name}` is what the decomposition finds itself, or a step before it. "
            f"Received: {name}={settings[name]!r}. Leave it out; prune the result of `rebuild`."
        )
    calibration = calibrate(model, inputs, samples=count_samples(inputs))
    rule, weights = Interpolative(calibration), WeightTable(model)
    groups = {group.name: group for group in find_groups(model)}
    if not any(len(rule(group, weights)) for group in groups.values() if group.fixed is None):
        raise ValueError(
            "`model` must have channels whose readers can be refitted: convolutions, dense, "
            f"recurrent or attention layers. Received: model={model.name!r} without."
        )
    plan = make_plan(model, importance=rule, **settings)
    kernels: dict[int, np.ndarray] = {}
    errors = {}
    for entry in plan.groups:
        if len(entry.kept) < entry.width:
            gram, kept = rule.grams[entry.name], np.asarray(entry.kept)
            transfer = np.linalg.lstsq(gram[np.ix_(kept, kept)], gram[kept], rcond=None)[0]
            lost = np.trace(gram) - np.sum(gram[kept] * transfer)
            errors[entry.name] = float(np.sqrt(max(lost, 0) / max(np.trace(gram), 1e-30)))
            transfer[:, kept] = np.eye(len(kept))
            read = reader_moments(calibration, groups[entry.name], weights)
            for slot in {id(slot): slot for slot, *_ in read}.values():
                variable = weights.variable(slot)
                # Another group may have corrected the same kernel at other places.
                kernel = np.array(kernels.get(id(variable), to_numpy(variable)))
                front = np.moveaxis(kernel, slot.axis, 0)
                front[slot.positions[kept]] = np.tensordot(
                    transfer, front[slot.positions].astype(np.float64), 1
                )
                kernels[id(variable)] = kernel
    slim = apply_step(model, plan.steps[0], read_from(kernels))
    refit(model, slim, plan, calibration)
    return Interpolation(slim, plan, errors)


class Interpolative:
    """The importance: a channel's score is what it adds to the pivots before it."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.grams: dict[str, np.ndarray] = {}

    def __call__(self, group: Group, weights: WeightTable) -> list[np.ndarray]:
        """Factorizes what the readers see; no rows where no reader was measured."""
        # Every position of a channel, in a window or after a flattening, is a sample of its own.
        grams = [
            gram[rows[:, None], rows[None]].sum(axis=-1)
            for _, _, gram, rows in reader_moments(self.calibration, group, weights)
        ]
        if not grams:
            return []
        self.grams[group.name] = np.sum(grams, axis=0)
        return [_pivoted(self.grams[group.name])]


def _pivoted(gram: np.ndarray) -> np.ndarray:
    """The diagonal of the pivoted Cholesky factor, by channel; zero beyond the rank."""
    left = np.array(gram)
    scores = np.zeros(len(gram))
    for _ in scores:
        pivot = int(np.argmax(np.diagonal(left)))
        size = left[pivot, pivot]
        if size <= 0:
            break
        scores[pivot] = np.sqrt(size)
        left -= np.outer(left[:, pivot], left[pivot]) / size
        left[pivot] = left[:, pivot] = 0
    return scores
