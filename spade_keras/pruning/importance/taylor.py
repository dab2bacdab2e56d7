"""Taylor: the change of the loss when a channel is removed, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from spade_keras.backend import loss_gradients
from spade_keras.pruning.graph.labels import along_axis
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, Slot
from spade_keras.pruning.importance.importance import Importance, MemberScores, magnitude_slots


class Taylor(Importance):
    """`s_c = mean over members and batches of (sum over W[c] of dL/dw * w)^2`.

    Frozen weights have no gradient and are left out.

    The loss maps `(y_true, y_pred)` to a scalar or one number per sample, or is the name of a Keras
    loss; batches are pairs of inputs and targets, such as a list or a `keras.utils.PyDataset`.

    Reference:
        Molchanov et al., Importance Estimation for Neural Network Pruning, arXiv 1906.10771.
    """

    def __init__(self, loss: str | Callable[..., Any], batches: Iterable[Any]) -> None:
        self.loss = keras.losses.get(loss)
        self.batches = _as_list(batches)
        if not self.batches:
            raise ValueError(
                "`batches` must hold at least one pair of inputs and targets. "
                "Received: batches=[]. Pass some training data, such as [(inputs, targets)]."
            )

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Averages the squared first-order effects over the batches."""
        products = weights.remember(id(self), lambda: self._products(weights))
        slots = [(slot, id(weights.variable(slot))) for slot in magnitude_slots(group)]
        return [_squared_effects(products[key], slot) for slot, key in slots if key in products]

    def _products(self, weights: WeightTable) -> dict[int, list[np.ndarray]]:
        """Gradient times weight of every trainable variable, once per batch."""
        model = weights.model
        variables = model.trainable_variables
        values = [np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in variables]
        products: dict[int, list[np.ndarray]] = {id(variable): [] for variable in variables}
        for inputs, targets, *_ in self.batches:
            gradients = loss_gradients(model, self.loss, inputs, targets)
            for variable, value, gradient in zip(variables, values, gradients, strict=True):
                products[id(variable)].append(value * gradient)
        return products


def _squared_effects(products: list[np.ndarray], slot: Slot) -> np.ndarray:
    sums = (along_axis(product, slot.axis).sum(axis=0) for product in products)
    return np.mean([np.square(x[slot.positions].sum(axis=1)) for x in sums], axis=0)


def _as_list(batches: Any) -> list[Any]:
    # A PyDataset goes on after its last batch when iterated: it is indexed instead.
    if hasattr(batches, "__getitem__") and hasattr(batches, "__len__"):
        return [batches[i] for i in range(len(batches))]
    return list(batches)
