"""Taylor: the change of the loss when a channel is removed, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from spade_keras.backend import loss_gradients
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, Slot
from spade_keras.pruning.importance.importance import Importance, magnitude_slots, stack_members


class Taylor(Importance):
    """`s_c = mean over members and batches of (sum over W[c] of dL/dw * w)^2`.

    Frozen weights have no gradient and are left out.

    Args:
        loss: Loss `(targets, outputs) -> scalar or per sample`, or the name of a Keras loss.
        batches: Pairs of inputs and targets, such as a list or a `keras.utils.PyDataset`.

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

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Averages the squared first-order effects over the batches."""
        products = weights.remember(id(self), lambda: self._products(weights))
        slots = [slot for slot in magnitude_slots(group) if id(weights.variable(slot)) in products]
        return stack_members(
            group, (_squared_effects(products[id(weights.variable(slot))], slot) for slot in slots)
        )

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
    total = np.zeros(len(slot.positions))
    for product in products:
        others = tuple(axis for axis in range(product.ndim) if axis != slot.axis)
        total += np.square(product.sum(axis=others)[slot.positions].sum(axis=1))
    return total / len(products)


def _as_list(batches: Any) -> list[Any]:
    # A PyDataset goes on after its last batch when iterated: it is indexed instead.
    if hasattr(batches, "__getitem__") and hasattr(batches, "__len__"):
        return [batches[i] for i in range(len(batches))]
    return list(batches)
