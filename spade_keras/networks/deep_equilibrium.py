"""The deep equilibrium network over the gradient iteration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from spade_keras import backend
from spade_keras.errors import require
from spade_keras.networks.norm_unet import call_padded, padded_shape, size_multiple
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape, check_counts
from spade_keras.operators import LinearOperator, check_operator
from spade_keras.solvers import Solution, anderson, contraction_factor
from spade_keras.solvers.fixed_point import check_anderson
from spade_keras.typing import Record

Function = Callable[[Any], Any]
GRADIENTS = ("truncated", "implicit", "unroll")
_STATEFUL = (
    keras.layers.BatchNormalization,
    keras.layers.SpectralNormalization,
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


@dataclass(frozen=True)
class EquilibriumReport(Record):
    """The solver's result for a deep equilibrium network, one number per sample.

    `residual`, `iterations`, `converged` and `finite` are those of `solvers.Solution`, `tolerance`
    and `max_iterations` the network's. `contraction` is the spectral radius of the Jacobian of T at
    the solution: the factor by which one more application shrinks an error. From 1 on the
    equilibrium does not attract, and neither implicit nor truncated gradients can be trusted.
    """

    residual: tuple[float, ...]
    iterations: tuple[int, ...]
    contraction: tuple[float, ...]
    converged: tuple[bool, ...]
    finite: tuple[bool, ...]
    tolerance: float
    max_iterations: int

    @property
    def diverged(self) -> tuple[bool, ...]:
        """Per sample, whether values became infinite, or it stopped unsolved and repelled."""
        rows = zip(self.finite, self.converged, self.contraction, strict=True)
        return tuple(not finite or (not done and not rate < 1) for finite, done, rate in rows)

    def __str__(self) -> str:
        """Summarizes it in one line."""
        return (
            f"{sum(self.converged)} of {len(self.converged)} samples met {self.tolerance:g}, "
            f"{np.median(self.iterations):g} iterations (median; at most {max(self.iterations)}), "
            f"residual at most {max(self.residual):.2g}, contraction at most "
            f"{max(self.contraction):.3g}, {sum(self.diverged)} diverged"
        )


@keras.saving.register_keras_serializable(package="spade_keras")
class DeepEquilibrium(ReconstructionNetwork):
    """The fixed point of a gradient step followed by a learned prior.

        x = T(x),    T(x) = alpha D_s(z) + (1 - alpha) z,    z = x - gamma A^H (A x - y)
        D_s(z) = D(s z) / s

    Anderson acceleration solves it from A^H y, sample by sample, to a relative residual that is
    the same for full and slim networks; T is then applied once more, with gradients. The prior D
    and three scalars are trained: step gamma, mixing alpha, and the scale s at which D sees the
    image.

    `gradient` selects how training differentiates, with J the Jacobian of T at the solution:

    * "truncated": T is applied `gradient_steps` times after the solve, which gives that many terms
      of the series sum_i (J^T)^i, with an error of about the contraction factor to that power.
      One term, used outside training, is the Jacobian-free gradient.
    * "implicit": (I - J^T)^-1 by the same solver as the forward pass. Exact to the tolerance, with
      the memory of one application.
    * "unroll": differentiates `max_iterations` plain applications from A^H y; for small numbers.
      Outside training the network solves as usual.

    Every application must be the same function, so random layers and layers that update
    statistics are refused in the prior. Normalization within a sample is allowed, but T then
    seldom contracts.

    Args:
        operator: The forward model A, of norm about 1.
        prior: Functional model from an image batch to one of the same shape. Images are padded with
            zeros to a size that its poolings divide.
        iterations: Reference count at which a search takes costs and times, since the iterations of
            a solve depend on weights and data.
        tolerance: Bound on ||T(x) - x|| / ||T(x)||. 0 for exactly `max_iterations` iterations.
        max_iterations: Most evaluations of T in a solve.
        memory, ridge, damping: Parameters of Anderson acceleration; see `solvers.anderson`.
        initial_step, initial_mixing: Start values of gamma, where 1 suits an operator of norm 1,
            and alpha.

    Input shape and output shape:
        Those of `UnrolledPGD`.

    Example:
        >>> from spade_keras.operators import CartesianMRI
        >>> from spade_keras.networks import priors
        >>> DeepEquilibrium(CartesianMRI(), priors.edsr()).count_params()
        999429

    Reference:
        Gilton, Ongie and Willett, "Deep equilibrium architectures for inverse problems in
        imaging", 2021. Fung et al., "JFB: Jacobian-free backpropagation for implicit networks",
        2022.
    """

    settings = (
        *("iterations", "tolerance", "max_iterations", "gradient", "gradient_steps"),
        *("memory", "ridge", "damping", "initial_step", "initial_mixing"),
    )
    scalars = ("step_size", "mixing", "log_prior_scale")

    def __init__(  # noqa: PLR0913 - every setting is a keyword of its own
        self,
        operator: LinearOperator,
        prior: keras.Model,
        iterations: int = 30,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 50,
        gradient: str = "truncated",
        gradient_steps: int = 5,
        memory: int = 5,
        ridge: float = 1e-4,
        damping: float = 1.0,
        initial_step: float = 1.0,
        initial_mixing: float = 0.2,
        **kwargs: Any,
    ) -> None:
        check_operator(operator)
        _check_stateless(prior)
        check_anderson(memory, ridge, damping, tolerance, max_iterations)
        check_counts(iterations=iterations, gradient_steps=gradient_steps)
        rule = f"`gradient` must be one of {GRADIENTS}."
        require(gradient in GRADIENTS, rule, gradient=gradient)
        super().__init__(**kwargs)
        self.operator = operator
        self.prior = prior
        self.multiple = size_multiple(prior)
        self.iterations = iterations if tolerance else max_iterations
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.gradient = gradient
        self.gradient_steps = gradient_steps
        self.memory = memory
        self.ridge = ridge
        self.damping = damping
        self.initial_step = initial_step
        self.initial_mixing = initial_mixing
        self.step_size = self.add_scalars("step_size", initial_step)
        self.mixing = self.add_scalars("mixing", initial_mixing)
        # As a logarithm it cannot become zero or negative.
        self.log_prior_scale = self.add_scalars("log_prior_scale", 0.0)

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements and operator parameters."""
        function, start = self._fixed_point_problem(inputs)
        if training and self.gradient == "unroll":
            return _repeat(function, start, self.max_iterations)
        x = self._solve(function, start).x
        if self.gradient == "implicit":
            value = function(x)
            return backend.attach_gradient(value, value, lambda u: self._adjoint(function, x, u))
        return _repeat(function, x, self.gradient_steps if training else 1)

    def _fixed_point_problem(self, inputs: Mapping[str, Any]) -> tuple[Function, Any]:
        """T for these inputs, and the start of its iteration."""
        gradient, start = self._data_gradient(inputs)

        def function(x: Any) -> Any:
            z = x - self.step_size * gradient(x)
            scale = ops.exp(self.log_prior_scale)
            denoised = call_padded(self.prior, scale * z, self.multiple, training=False) / scale
            return self.mixing * denoised + (1 - self.mixing) * z

        return function, start

    def _solve(self, function: Function, start: Any) -> Solution:
        names = ("memory", "ridge", "damping", "tolerance", "max_iterations")
        return anderson(function, start, **{name: getattr(self, name) for name in names})

    def _adjoint(self, function: Function, x: Any, cotangent: Any) -> Any:
        """Solves g = u + J^T g."""
        _, pullback = backend.vjp(function, x)
        return self._solve(lambda g: cotangent + pullback(g), cotangent).x

    def report(self, inputs: Mapping[str, Any]) -> EquilibriumReport:
        """Solves for a batch, a dict of input arrays, and reports how well."""
        function, start = self._fixed_point_problem(inputs)
        found = self._solve(function, start)
        names = ("residual", "iterations", "converged", "finite")
        records = {name: getattr(found, name) for name in names}
        records["contraction"] = contraction_factor(function, found.x)
        return EquilibriumReport(
            **{k: tuple(ops.convert_to_numpy(record).tolist()) for k, record in records.items()},
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

    def with_iterations(self, iterations: int) -> Self:
        """Returns a new network of exactly that many iterations, with copies of all weights.

        Its time depends on neither weights nor data: measure and search this one.
        """
        fixed = {"iterations": iterations, "max_iterations": iterations, "tolerance": 0.0}
        return self._copy(self._copied_priors(iterations), **fixed)

    def with_tolerance(self, tolerance: float, max_iterations: int = 50) -> Self:
        """Returns a new network that solves to a tolerance, with copies of all weights."""
        priors = self._copied_priors(self.iterations)
        return self._copy(priors, tolerance=tolerance, max_iterations=max_iterations)

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape, per reference iteration and once after the solve."""
        shape = padded_shape(self.prior, *self._image_shape(inputs)[:3])
        return {"prior": [shape] * (self.iterations + 1)}


def _check_stateless(prior: keras.Model) -> None:
    for layer in prior._flatten_layers():
        if isinstance(layer, _STATEFUL) and layer.trainable:
            raise ValueError(
                "`prior` must be the same function in every iteration, but a layer draws at random "
                "or keeps statistics. Leave it out, or freeze a normalization whose statistics are "
                f"known (`layer.trainable = False`). Received: prior with the layer {layer.name!r} "
                f"of type {type(layer).__name__}"
            )


def _repeat(function: Function, x: Any, times: int) -> Any:
    for _ in range(times):
        x = function(x)
    return x
