"""The deep unfolding network for super-resolution."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from spade_keras.errors import require
from spade_keras.networks.norm_unet import pad_below, padded_shape, size_multiple
from spade_keras.networks.reconstruction_network import ReconstructionNetwork, Shape, check_counts
from spade_keras.operators import LinearOperator

_SMALLEST_SETTING = 1e-6


@keras.saving.register_keras_serializable(package="spade_keras")
class USRNet(ReconstructionNetwork):
    """Half-quadratic splitting with a closed-form data step and a learned prior.

        z_k = argmin_z ||A z - y||^2 + alpha_k ||z - x_{k-1}||^2,    x_k = D(z_k, beta_k)

    A blurs and keeps every s-th pixel: an operator with the attribute `scale`, the parameter
    `kernel` and the method `proximal`, such as `Downsampling(2)`. The iterations share the prior D,
    a Functional model from an image and one more channel, the constant map beta_k of the noise
    level to remove, to an image. A small network, of two layers of `hidden` units, makes all
    alpha_k and beta_k from the noise level of the data and the scale s, so one model serves many
    scales, kernels and noise levels.

    The scale determines shapes. A network of one operator has one scale and starts from the
    measured image with every pixel repeated. A network of several takes the start `initial` as an
    input and infers the scale of a batch from its height.

    Input shape:
        Dict with `measurements` `(batch, height / s, width / s, channels)`, `kernel` `(batch,
        kernel height, kernel width)`, `noise_level` `(batch,)` or `(batch, 1, 1, 1)`, the standard
        deviation of the noise in units of the image, and `initial` `(batch, height, width,
        channels)`, optional for a network of one scale.

    Output shape:
        `(batch, height, width, channels)`, float32.

    Reference:
        Zhang, Van Gool and Timofte, "Deep unfolding network for image super-resolution", 2020.
    """

    condition_channels = 1
    settings = ("iterations", "hidden")

    def __init__(
        self,
        operator: LinearOperator | Sequence[LinearOperator],
        prior: keras.Model,
        iterations: int = 8,
        *,
        hidden: int = 64,
        **kwargs: Any,
    ) -> None:
        operators = [operator] if isinstance(operator, LinearOperator) else list(operator)
        scales = [getattr(one, "scale", None) for one in operators]
        different = scales and None not in scales and len(set(scales)) == len(scales)
        rule = (
            "`operator` must be a Downsampling operator or several of different scales, such as "
            "[Downsampling(2), Downsampling(3)]."
        )
        able = all(hasattr(one, "proximal") for one in operators)
        require(different and able, rule, operator=operators)
        check_counts(iterations=iterations)
        super().__init__(**kwargs)
        self.operators = sorted(operators, key=lambda one: one.scale)
        self.prior = prior
        self.iterations = iterations
        self.hidden = hidden
        self.multiple = size_multiple(prior)
        self.settings_network = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(hidden, "relu", dtype="float32", name="hidden_0"),
                keras.layers.Dense(hidden, "relu", dtype="float32", name="hidden_1"),
                keras.layers.Dense(2 * iterations, "softplus", dtype="float32", name="settings"),
            ],
            name="settings_network",
        )

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales of the operators, ascending."""
        return tuple(operator.scale for operator in self.operators)

    @property
    def operator(self) -> LinearOperator | None:
        """The forward model; None where there are several."""
        return self.operators[0] if len(self.operators) == 1 else None

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Reconstructs an image batch from a dict of measurements and operator parameters."""
        y = ops.cast(inputs["measurements"], "float32")
        parameters = self.operators[0].parameters(inputs)
        x, scale = self._start(y, inputs.get("initial"))
        height, width = ops.shape(x)[1:3]
        weights, noise_levels = self._hyperparameters(inputs["noise_level"], scale)
        for k in range(self.iterations):
            z = self._data_step(scale, x, y, weights[:, k, None, None, None], parameters)
            level = ops.ones_like(z[..., :1]) * noise_levels[:, k, None, None, None]
            z = pad_below(ops.concatenate([z, level], axis=-1), self.multiple)
            x = ops.cast(self.prior(z, training=training), "float32")[:, :height, :width]
        return x

    def _start(self, y: Any, initial: Any) -> tuple[Any, Any]:
        if initial is None:
            rule = (
                f"`initial` must be an input of a network with the scales {self.scales}: its size "
                "gives the scale of a batch. Give images of the wanted size, such as the measured "
                "ones with every pixel repeated, or use `with_scale(s)`."
            )
            require(self.operator is not None, rule, initial=None)
            scale = self.scales[0]
            return ops.repeat(ops.repeat(y, scale, axis=1), scale, axis=2), scale
        x = ops.cast(initial, "float32")
        scale = ops.shape(x)[1] // ops.shape(y)[1]
        if isinstance(scale, int):
            fits = tuple(x.shape[1:3]) == tuple(scale * size for size in y.shape[1:3])
            shapes = {"initial_shape": tuple(x.shape), "measurements_shape": tuple(y.shape)}
            rule = f"`initial` must be one of {self.scales} times as high and wide as "
            require(fits and scale in self.scales, rule + "`measurements`.", **shapes)
        return x, scale

    def _hyperparameters(self, noise_level: Any, scale: Any) -> tuple[Any, Any]:
        """Returns all alpha_k and all beta_k, each of shape `(batch, iterations)`."""
        sigma = ops.reshape(ops.cast(noise_level, "float32"), (-1, 1))
        facts = ops.concatenate([sigma, ops.ones_like(sigma) * ops.cast(scale, "float32")], axis=1)
        settings = self.settings_network(facts) + _SMALLEST_SETTING
        return settings[:, : self.iterations], settings[:, self.iterations :]

    def _data_step(
        self, scale: Any, x: Any, y: Any, weight: Any, parameters: Mapping[str, Any]
    ) -> Any:
        if isinstance(scale, int):
            operator: Any = self.operators[self.scales.index(scale)]
            return operator.proximal(x, y, weight, **parameters)
        # Sizes are unknown in a graph that serves batches of several scales.
        steps = [
            lambda x, y, weight, kernel, of=operator: of.proximal(x, y, weight, kernel=kernel)
            for operator in self.operators
        ]
        index = ops.sum(ops.cast(scale > np.array(self.scales), "int32"))
        z = ops.switch(index, steps, x, y, weight, parameters["kernel"])
        return ops.reshape(z, ops.shape(x))

    def with_scale(self, scale: int) -> Self:
        """Returns a new network of one of the `scales`, with copies of all weights."""
        require(scale in self.scales, f"`scale` must be one of {self.scales}.", scale=scale)
        operator = self.operators[self.scales.index(scale)]
        return self._copy(self._copied_priors(self.iterations), operator=operator)

    def prior_input_shapes(self, inputs: Mapping[str, Any]) -> dict[str, list[Shape]]:
        """Returns the shape of the padded image and its noise level, once an iteration."""
        batch, height, width, _ = inputs["measurements"].shape
        if "initial" in inputs:
            height, width = inputs["initial"].shape[1:3]
        else:
            height, width = height * self.scales[0], width * self.scales[0]
        return {"prior": [padded_shape(self.prior, batch, height, width)] * self.iterations}

    def _arguments(self, priors: Mapping[str, keras.Model]) -> dict[str, Any]:
        return {**super()._arguments(priors), "operator": list(self.operators)}

    def _copy_scalars_to(self, network: Any) -> None:
        *hidden, kernel, bias = self.settings_network.get_weights()
        # Its outputs are all alpha_k, then all beta_k.
        kept = np.r_[: network.iterations, self.iterations : self.iterations + network.iterations]
        network.settings_network.set_weights([*hidden, kernel[:, kept], bias[kept]])
