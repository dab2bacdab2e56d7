"""The unrolled proximal-gradient network."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from spade_keras.networks.reconstruction_network import ReconstructionNetwork, check_counts
from spade_keras.operators import LinearOperator, check_operator


@keras.saving.register_keras_serializable(package="spade_keras")
class UnrolledPGD(ReconstructionNetwork):
    """Unrolled proximal-gradient descent with a learned prior.

        x_0 = A^H y,    x_{k+1} = D(x_k - gamma_k A^H (A x_k - y)),    k = 0 .. iterations - 1

    The prior D, a Functional model from an image batch to one of the same shape, is shared by the
    iterations; every iteration has its own learned step gamma_k, which starts at `initial_step`; 1
    suits an operator of norm 1. An iteration costs one A^H A and one D.

    Input shape:
        Dict with `measurements` and the operator's parameters, in their shapes.

    Output shape:
        That of the operator's image, `(batch, height, width, channels)`, float32.

    Example:
        >>> from spade_keras.operators import CartesianMRI
        >>> from spade_keras.networks import priors
        >>> network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8]), iterations=2)
        >>> network.count_params()
        300
    """

    settings = ("iterations", "initial_step")
    scalars = ("step_sizes",)

    def __init__(
        self,
        operator: LinearOperator,
        prior: keras.Model,
        iterations: int = 6,
        initial_step: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_operator(operator)
        check_counts(iterations=iterations)
        super().__init__(**kwargs)
        self.operator = operator
        self.prior = prior
        self.iterations = iterations
        self.initial_step = initial_step
        self.step_sizes = self.add_scalars("step_sizes", initial_step, iterations)

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements and operator parameters."""
        gradient, x = self._data_gradient(inputs)
        for k in range(self.iterations):
            z = x - self.step_sizes[k] * gradient(x)
            x = ops.cast(self.prior(z, training=training), "float32")
        return x
