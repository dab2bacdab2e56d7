"""The deep equilibrium network over the gradient iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from spade_keras import backend
from spade_keras.networks.equilibrium_report import EquilibriumReport
from spade_keras.networks.padding import crop_around, pad_around, padded_size, size_multiple
from spade_keras.networks.priors.copying import copy_prior
from spade_keras.networks.stateless_prior import check_stateless
from spade_keras.operators import LinearOperator
from spade_keras.solvers import Solution, anderson, contraction_factor
from spade_keras.solvers.anderson import check_anderson

GRADIENTS = ("truncated", "implicit", "unroll")


@keras.saving.register_keras_serializable(package="spade_keras")
class DeepEquilibrium(keras.Model):
    """The fixed point of a gradient step followed by a learned prior.

        x = T(x),    T(x) = alpha D_s(z) + (1 - alpha) z,    z = x - gamma A^H (A x - y)
        D_s(z) = D(s z) / s

    Solved by Anderson's acceleration from A^H y, sample by sample, to a relative residual that is
    the same for full and slim networks; then T is applied once more, with gradients. Trained are
    the prior D and three scalars: step gamma, mixing alpha, and scale s, in which D sees the image.

    The gradient in training is of one kind out of three. With J the Jacobian of T at the solution:

    * "truncated": T is applied `gradient_steps` times after the solve, which is the first so many
      terms of the sum over i of (J^T)^i. One term is the Jacobian-free gradient. Costs little, and
      errs by about the contraction factor to that power.
    * "implicit": (I - J^T)^-1 by the same solver as the forward pass. Exact to the tolerance, at
      the memory of one application.
    * "unroll": `max_iterations` plain applications from A^H y, differentiated; only for small
      numbers. Outside training the network solves as ever.

    Outside training, truncated gradients have one term.

    Every application must be the same function: layers that draw at random or keep statistics are
    refused in the prior. Normalization within a sample is allowed, but seldom contracts.

    Args:
        operator: The forward model A, of norm about 1.
        prior: Functional model that maps an image batch to one of the same shape. For one with
            poolings, such as a U-Net, images are padded with zeros to a size that it takes.
        iterations: Reference number of iterations, in which a forward pass is counted: solving
            takes as many as weights and data ask for, so a search compares networks at
            `with_iterations(iterations)`, by the time of so many iterations.
        tolerance: Of ||T(x) - x|| / ||T(x)||. 0 for exactly `max_iterations` iterations.
        max_iterations: Most evaluations of T in a solve.
        gradient: "truncated", "implicit" or "unroll".
        gradient_steps: Applications with a truncated gradient.
        memory: Of Anderson's acceleration, as are the next two; see `solvers.anderson`.
        ridge: Relative to the mean square of the gaps.
        damping: Share of a step that is taken.
        initial_step: Start value of gamma; 1 suits an operator of norm 1.
        initial_mixing: Start value of alpha.
        **kwargs: Of `keras.Model`, such as `name`.

    Input shape:
        Dict with `measurements` and the operator's parameters, in their shapes.

    Output shape:
        That of the operator's image, `(batch, height, width, channels)`, float32.

    Raises:
        ValueError: If an argument is outside its range or the prior is not one function.

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
        check_stateless(prior)
        check_anderson(memory, ridge, damping, tolerance, max_iterations)
        _check_counts(iterations=iterations, gradient_steps=gradient_steps)
        if gradient not in GRADIENTS:
            raise ValueError(
                f"`gradient` must be one of {GRADIENTS}. Received: gradient={gradient!r}"
            )
        kwargs["dtype"] = "float32"  # the policy of the prior stays its own
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

        def scalar(name: str, value: float) -> Any:
            start = keras.initializers.Constant(value)
            return self.add_weight(name=name, shape=(), initializer=start, dtype="float32")

        self.step_size = scalar("step_size", initial_step)
        self.mixing = scalar("mixing", initial_mixing)
        # As a logarithm it cannot become zero or negative.
        self.log_prior_scale = scalar("log_prior_scale", 0.0)
        self.built = True

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
        """Returns T for these inputs, and where the iteration starts."""
        parameters = self.operator.parameters(inputs)
        backprojection = self.operator.adjoint(
            ops.cast(inputs["measurements"], "float32"), **parameters
        )

        def function(x: Any) -> Any:
            gradient = self.operator.normal(x, **parameters) - backprojection
            z = x - self.step_size * gradient
            scale = ops.exp(self.log_prior_scale)
            seen = pad_around(scale * z, self.multiple)
            denoised = ops.cast(self.prior(seen, training=False), "float32") / scale
            height, width = ops.shape(z)[1:3]
            denoised = crop_around(denoised, height, width, self.multiple)
            return self.mixing * denoised + (1 - self.mixing) * z

        return function, backprojection

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
        """Solves for a batch and says how that went.

        Args:
            inputs: Dict of arrays, as for a call.

        Returns:
            Residual, iterations and contraction factor per sample.
        """
        function, start = self._fixed_point_problem(inputs)
        found = self._solve(function, start)
        contraction = contraction_factor(function, found.x)

        def listed(tensor: Any) -> tuple[Any, ...]:
            return tuple(ops.convert_to_numpy(tensor).tolist())

        return EquilibriumReport(
            listed(found.residual),
            listed(found.iterations),
            listed(contraction),
            listed(found.converged),
            listed(found.finite),
            self.tolerance,
            self.max_iterations,
        )

    @property
    def priors(self) -> dict[str, keras.Model]:
        """The networks that pruning may slim, by name."""
        return {"prior": self.prior}

    def with_priors(self, priors: Mapping[str, keras.Model]) -> DeepEquilibrium:
        """Returns a new network with other priors, solved alike, and copies of all other weights.

        Args:
            priors: The new priors, under the keys of `priors`.

        Raises:
            ValueError: If the keys differ from those of `priors`.
        """
        if set(priors) != {"prior"}:
            raise ValueError(f"`priors` must have the key 'prior'. Received: {sorted(priors)}")
        return self._copy(priors["prior"])

    def with_iterations(self, iterations: int) -> DeepEquilibrium:
        """Returns a new network of exactly so many iterations, with a copy of the prior.

        Its time depends on neither weights nor data, so it is the one to measure and to search.

        Args:
            iterations: At least 1.

        Raises:
            ValueError: If it is below 1.
        """
        return self._copy(
            copy_prior(self.prior), iterations=iterations, tolerance=0.0, max_iterations=iterations
        )

    def with_tolerance(self, tolerance: float, max_iterations: int = 50) -> DeepEquilibrium:
        """Returns a new network that solves to a tolerance, with a copy of the prior.

        Args:
            tolerance: Of the relative residual.
            max_iterations: Most evaluations of T.

        Raises:
            ValueError: If one is outside its range.
        """
        return self._copy(
            copy_prior(self.prior), tolerance=tolerance, max_iterations=max_iterations
        )

    def prior_input_shapes(
        self, inputs: Mapping[str, Any]
    ) -> dict[str, list[tuple[int | None, ...]]]:
        """Returns, per prior, the input shape of each of its calls in one forward pass.

        Counted are the `iterations` of reference and the application after the solve.

        Args:
            inputs: Dict of arrays, as for a call.
        """
        first = {name: value[:1] for name, value in inputs.items()}
        _, image = self._fixed_point_problem(first)
        size = (padded_size(size, self.multiple) for size in image.shape[1:3])
        shape = (inputs["measurements"].shape[0], *size, image.shape[3])
        return {"prior": [shape] * (self.iterations + 1)}

    def _copy(self, prior: keras.Model, **changes: Any) -> DeepEquilibrium:
        settings = {**self._settings(), **changes}
        network = DeepEquilibrium(self.operator, prior, name=self.name, **settings)
        for name in ("step_size", "mixing", "log_prior_scale"):
            getattr(network, name).assign(ops.convert_to_numpy(getattr(self, name)))
        return network

    def _settings(self) -> dict[str, Any]:
        names = (
            *("iterations", "tolerance", "max_iterations", "gradient", "gradient_steps"),
            *("memory", "ridge", "damping", "initial_step", "initial_mixing"),
        )
        return {name: getattr(self, name) for name in names}

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make the network again, weights apart."""
        return {
            **super().get_config(),
            "operator": keras.saving.serialize_keras_object(self.operator),
            "prior": keras.saving.serialize_keras_object(self.prior),
            **self._settings(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DeepEquilibrium:
        """Makes the network of a config, with new weights."""
        config = dict(config)
        for part in ("operator", "prior"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)


def _repeat(function: Callable[[Any], Any], x: Any, times: int) -> Any:
    for _ in range(times):
        x = function(x)
    return x


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value}")
