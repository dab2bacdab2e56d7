"""The unrolled proximal-gradient network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.networks.priors.copying import copy_prior
from spade_keras.operators import LinearOperator


@keras.saving.register_keras_serializable(package="spade_keras")
class UnrolledPGD(keras.Model):
    """Unrolled proximal-gradient descent with a learned prior.

        x_0 = A^H y,    x_{k+1} = D(x_k - gamma_k A^H (A x_k - y)),    k = 0 .. iterations - 1

    The prior D is shared by the iterations; every iteration has its own learned step gamma_k.
    A^H y is computed once, so that an iteration costs one A^H A and one D.

    Args:
        operator: The forward model A.
        prior: Functional model that maps an image batch to one of the same shape.
        iterations: Number of iterations, at least 1.
        initial_step: Start value of every step size; 1 suits an operator of norm 1.
        **kwargs: Of `keras.Model`, such as `name`.

    Input shape:
        Dict with `measurements` and the operator's parameters, in their shapes.

    Output shape:
        That of the operator's image, `(batch, height, width, channels)`, float32.

    Raises:
        ValueError: If `iterations` is not a positive integer.

    Example:
        >>> from spade_keras.operators import CartesianMRI
        >>> from spade_keras.networks import priors
        >>> network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8]), iterations=2)
        >>> network.count_params()
        300
    """

    def __init__(
        self,
        operator: LinearOperator,
        prior: keras.Model,
        iterations: int = 6,
        initial_step: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ValueError(
                f"`iterations` must be an integer of at least 1. Received: iterations={iterations}"
            )
        super().__init__(**kwargs)
        self.operator = operator
        self.prior = prior
        self.iterations = iterations
        self.initial_step = initial_step
        self.step_sizes = self.add_weight(
            name="step_sizes",
            shape=(iterations,),
            initializer=keras.initializers.Constant(initial_step),
            dtype="float32",
        )
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements and operator parameters."""
        parameters = self.operator.parameters(inputs)
        backprojection = self.operator.adjoint(
            ops.cast(inputs["measurements"], "float32"), **parameters
        )
        x = backprojection
        for k in range(self.iterations):
            gradient = self.operator.normal(x, **parameters) - backprojection
            x = ops.cast(
                self.prior(x - self.step_sizes[k] * gradient, training=training), "float32"
            )
        return x

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim, by name."""
        return {"prior": self.prior}

    def with_priors(self, priors: Mapping[str, keras.Model]) -> UnrolledPGD:
        """Returns a new network with other priors and copies of all other weights.

        Args:
            priors: The new priors, under the keys of `priors`.

        Raises:
            ValueError: If the keys differ from those of `priors`.
        """
        if set(priors) != {"prior"}:
            raise ValueError(f"`priors` must have the key 'prior'. Received: {sorted(priors)}")
        return self._copy(priors["prior"], ops.convert_to_numpy(self.step_sizes))

    def with_iterations(self, iterations: int) -> UnrolledPGD:
        """Returns a new network cut to its first `iterations`, with a copy of the prior.

        Args:
            iterations: From 1 to the present number.

        Raises:
            ValueError: If it is outside that range.
        """
        if not 1 <= iterations <= self.iterations:
            raise ValueError(
                f"`iterations` must be from 1 to {self.iterations}. "
                f"Received: iterations={iterations}"
            )
        return self._copy(
            copy_prior(self.prior), ops.convert_to_numpy(self.step_sizes)[:iterations]
        )

    def prior_input_shapes(
        self, inputs: Mapping[str, Any]
    ) -> dict[str, list[tuple[int | None, ...]]]:
        """Returns, per prior, the input shape of each of its calls in one forward pass.

        Args:
            inputs: Dict of arrays, as for a call.
        """
        batch, _, height, width, _ = inputs["measurements"].shape
        channels = self.prior.input_shape[-1]
        return {"prior": [(batch, height, width, channels)] * self.iterations}

    def _copy(self, prior: keras.Model, step_sizes: np.ndarray) -> UnrolledPGD:
        network = UnrolledPGD(
            self.operator, prior, len(step_sizes), self.initial_step, name=self.name
        )
        network.step_sizes.assign(step_sizes)
        return network

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make the network again, weights apart."""
        return {
            **super().get_config(),
            "operator": keras.saving.serialize_keras_object(self.operator),
            "prior": keras.saving.serialize_keras_object(self.prior),
            "iterations": self.iterations,
            "initial_step": self.initial_step,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> UnrolledPGD:
        """Makes the network of a config, with new weights."""
        config = dict(config)
        for part in ("operator", "prior"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)
