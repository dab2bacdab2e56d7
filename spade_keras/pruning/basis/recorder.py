"""Gradients of the scaling factors, as the optimizer sees them, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.pruning.basis.scaling import BasisScaling


class GradientRecorder:
    """Adds up `(s dL/ds)^2` over the training steps of a model.

    The one place where every backend hands all gradients to Python code that runs inside the
    training step is `optimizer.apply`. While attached, the recorder stands in front of it. Its sums
    are variables of the optimizer, which JAX carries through the compiled step like any state
    of the optimizer. Gradients are those of the mini-batch, before clipping, in training mode.

    Args:
        layers: The scaling layers.
    """

    def __init__(self, layers: Sequence[BasisScaling]) -> None:
        self.layers = list(layers)
        self._optimizer: Any = None
        self._model: Any = None
        self._sums: list[Any] = []
        self._count: Any = None

    def attach(self, model: keras.Model) -> None:
        """Starts to record; the training step is compiled anew.

        Args:
            model: The compiled model that is trained.

        Raises:
            ValueError: A scaling factor is not trained by the model.
        """
        trained = {id(variable) for variable in model.trainable_variables}
        frozen = [layer.name for layer in self.layers if id(layer.scale) not in trained]
        if frozen:
            raise ValueError(
                "The scaling factors must be trainable to be ranked by their gradients. "
                f"Received: frozen factors in {frozen[:5]}. Set `trainable = True` on these layers "
                "or rank by 'sigma'."
            )
        outer = model.optimizer
        if not outer.built:
            outer.build(model.trainable_variables)
        # Under loss scaling the inner optimizer is the one that gets unscaled gradients.
        optimizer = getattr(outer, "inner_optimizer", outer)
        left_behind = getattr(vars(optimizer).get("apply"), "recorder", None)
        if left_behind is not None:
            left_behind.detach()
        self._sums = [
            optimizer.add_variable(layer.scale.shape, name=f"effects_{index}")
            for index, layer in enumerate(self.layers)
        ]
        self._count = optimizer.add_variable((), name="recorded_steps")
        self._optimizer, self._model = optimizer, model
        apply = optimizer.apply

        def record_and_apply(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            if trainable_variables is None:
                variables = optimizer._trainable_variables
            else:
                trainable_variables = variables = list(trainable_variables)
            self._record(grads, variables)
            return apply(grads, trainable_variables)

        record_and_apply.recorder = self  # type: ignore[attr-defined]
        optimizer.apply = record_and_apply
        model.make_train_function(force=True)

    def detach(self) -> None:
        """Stops to record and leaves the optimizer as it was."""
        if self._optimizer is None:
            return
        vars(self._optimizer).pop("apply", None)
        mine = {id(variable) for variable in (*self._sums, self._count)}
        known = self._optimizer._variables
        for index in reversed(range(len(known))):
            if id(known[index]) in mine:
                del known[index]
        self._model.train_function = None
        self._optimizer = self._model = None

    def read(self) -> list[np.ndarray]:
        """Mean of `(s dL/ds)^2` over the steps since the last reading, one array per layer."""
        count = max(float(ops.convert_to_numpy(self._count)), 1.0)
        means = [np.asarray(ops.convert_to_numpy(v), np.float64) / count for v in self._sums]
        for variable in (*self._sums, self._count):
            variable.assign(ops.zeros(variable.shape))
        return means

    def _record(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        gradients = {id(v): g for v, g in zip(variables, grads, strict=True)}
        for layer, total in zip(self.layers, self._sums, strict=True):
            gradient = gradients.get(id(layer.scale))
            if gradient is not None:
                effect = ops.multiply(ops.cast(gradient, total.dtype), layer.scale)
                total.assign_add(ops.square(effect))
        self._count.assign_add(ops.ones(()))
