"""The deep equilibrium network over the gradient iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras import backend
from spade_keras.networks.norm_unet import crop_around, pad_around, padded_size, size_multiple
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape, check_counts
from spade_keras.operators import LinearOperator, check_operator
from spade_keras.solvers import Solution, anderson, contraction_factor
from spade_keras.solvers.anderson import check_anderson
from spade_keras.typing import Record

GRADIENTS = ("truncated", "implicit", "unroll")
_STATEFUL = (
    keras.layers.BatchNormalization,
    keras.layers.SpectralNormalization,
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
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
        prior: Functional model that maps an image batch to one of the same shape. Images are
            padded with zeros to a size that its poolings divide.
        iterations: Reference iteration count. The number of iterations in a solve depends on
            weights and data, so costs and times of a search are taken at this count.
        tolerance: Bound on ||T(x) - x|| / ||T(x)||. 0 for exactly `max_iterations` iterations.
        max_iterations: Most evaluations of T in a solve.
        gradient: "truncated", "implicit" or "unroll".
        gradient_steps: Applications with a truncated gradient.
        memory: Parameter of Anderson acceleration, like the next two; see `solvers.anderson`.
        ridge: Relative to the mean square of the gaps.
        damping: Share of a step that is taken.
        initial_step: Start value of gamma; 1 suits an operator of norm 1.
        initial_mixing: Start value of alpha.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Input shape:
        Dict with `measurements` and the operator's parameters, in their shapes.

    Output shape:
        That of the operator's image, `(batch, height, width, channels)`, float32.

    Raises:
        ValueError: If an argument is outside its range or the prior is stateful.

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
        check_stateless(prior)
        check_anderson(memory, ridge, damping, tolerance, max_iterations)
        check_counts(iterations=iterations, gradient_steps=gradient_steps)
        if gradient not in GRADIENTS:
            raise ValueError(
                f"`gradient` must be one of {GRADIENTS}. Received: gradient={gradient!r}"
            )
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

    def _fixed_point_problem(self, inputs: Mapping[str, Any]) -> tuple[Callable[[Any], Any], Any]:
        """T for these inputs, and the start of its iteration."""
        gradient, start = self._data_gradient(inputs)

        def function(x: Any) -> Any:
            z = x - self.step_size * gradient(x)
            scale = ops.exp(self.log_prior_scale)
            seen = pad_around(scale * z, self.multiple)
            denoised = ops.cast(self.prior(seen, training=False), "float32") / scale
            height, width = ops.shape(z)[1:3]
            denoised = crop_around(denoised, height, width, self.multiple)
            return self.mixing * denoised + (1 - self.mixing) * z

        return function, start

    def _solve(self, function: Callable[[Any], Any], start: Any) -> Solution:
        return anderson(
            function,
            start,
            memory=self.memory,
            ridge=self.ridge,
            damping=self.damping,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

    def _adjoint(self, function: Callable[[Any], Any], x: Any, cotangent: Any) -> Any:
        """Solves g = u + J^T g."""
        _, pullback = backend.vjp(function, x)
        return self._solve(lambda g: cotangent + pullback(g), cotangent).x

    def report(self, inputs: Mapping[str, Any]) -> EquilibriumReport:
        """Solves for a batch, a dict of input arrays, and reports how well."""
        function, start = self._fixed_point_problem(inputs)
        found = self._solve(function, start)
        records = {
            "residual": found.residual,
            "iterations": found.iterations,
            "contraction": contraction_factor(function, found.x),
            "converged": found.converged,
            "finite": found.finite,
        }
        return EquilibriumReport(
            **{k: tuple(ops.convert_to_numpy(record).tolist()) for k, record in records.items()},
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

    def with_iterations(self, iterations: int) -> DeepEquilibrium:
        """Returns a new network of exactly that many iterations, with copies of all weights.

        Its time depends on neither weights nor data: measure and search this one.

        Raises:
            ValueError: If `iterations` is below 1.
        """
        fixed = {"iterations": iterations, "max_iterations": iterations, "tolerance": 0.0}
        return self._copy(self._copied_priors(iterations), **fixed)

    def with_tolerance(self, tolerance: float, max_iterations: int = 50) -> DeepEquilibrium:
        """Returns a new network that solves to a tolerance, with copies of all weights.

        Args:
            tolerance: Bound on the relative residual.
            max_iterations: Most evaluations of T.

        Raises:
            ValueError: If one is outside its range.
        """
        priors = self._copied_priors(self.iterations)
        return self._copy(priors, tolerance=tolerance, max_iterations=max_iterations)

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the padded image's shape, per reference iteration and once after the solve."""
        batch, *sizes, channels = self._image_shape(inputs)
        shape = (batch, *(padded_size(size, self.multiple) for size in sizes), channels)
        return {"prior": [shape] * (self.iterations + 1)}


@dataclass(frozen=True)
class EquilibriumReport(Record):
    """The solver's result for a deep equilibrium network, one number per sample.

    Attributes:
        residual: ||T(x) - x|| / ||T(x)|| of the solution.
        iterations: Evaluations of T until the sample stopped.
        contraction: Spectral radius of the Jacobian of T at the solution: the factor by which one
            more application shrinks an error. From 1 on the equilibrium does not attract, and
            neither implicit nor truncated gradients can be trusted.
        converged: Whether the residual met the tolerance.
        finite: Whether all values the solver met were finite.
        tolerance: The required residual.
        max_iterations: Evaluations of T that were allowed.
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


def check_stateless(prior: keras.Model) -> None:
    """Raises a ValueError if a layer of a prior, not frozen, is random or updates statistics."""
    for layer in prior._flatten_layers():
        if isinstance(layer, _STATEFUL) and layer.trainable:
            raise ValueError(
                "`prior` must be the same function in every iteration, but a layer draws at random "
                "or keeps statistics. Leave it out, or freeze a normalization whose statistics are "
                f"known (`layer.trainable = False`). Received: prior with the layer {layer.name!r} "
                f"of type {type(layer).__name__}"
            )


def _repeat(function: Callable[[Any], Any], x: Any, times: int) -> Any:
    for _ in range(times):
        x = function(x)
    return x
