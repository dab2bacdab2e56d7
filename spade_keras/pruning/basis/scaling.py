"""The second layer of a decomposed pair: scaled singular directions, one factor per component."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class BasisScaling(keras.layers.Layer):
    """Maps basis coefficients to channels.

        y = activation(z K + b),    K = diag(m) diag(s) diag(sigma) V^T

    where `s` are the trainable scaling factors, initially 1, `m` is 1 for components that are
    alive and 0 for pruned ones, and `sigma`, `V` are the singular values and right singular
    vectors of a kernel. Only `s` trains. With `groups`, coefficients and channels stand in as
    many blocks, each with a `K` of its own.

    Not used itself: see `BasisScalingConv` and `BasisScalingDense`.

    Args:
        channels: Number of output channels.
        groups: Blocks of coefficients and channels.
        activation: Activation of the layer that was decomposed.
        use_bias: Whether it had a bias.
        data_format: Where the channels stand.
        **kwargs: Those of every layer.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        data_format: str = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if groups < 1 or channels < 1 or channels % groups:
            raise ValueError(
                "The number of channels must be a positive multiple of `groups`. "
                f"Received: channels={channels}, groups={groups}."
            )
        self.channels = channels
        self.groups = groups
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.data_format = data_format
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights; their values come from `set_factors`."""
        size = input_shape[self._axis(len(input_shape))]
        if size is None or size % self.groups:
            raise ValueError(
                f"The inputs of {self.name!r} must have a known number of coefficients, a multiple "
                f"of groups={self.groups}. Received: input_shape={input_shape}."
            )

        def fixed(name: str, shape: tuple[int, ...], initializer: str) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

        self.scale = self.add_weight(name="scale", shape=(size,), initializer="ones")
        self.mask = fixed("mask", (size,), "ones")
        self.singular_values = fixed("singular_values", (size,), "ones")
        self.directions = fixed("directions", (size, self.channels // self.groups), "zeros")
        self.bias = fixed("bias", (self.channels,), "zeros") if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        """Weighs the directions by the coefficients."""
        axis = self._axis(len(inputs.shape))
        last = len(inputs.shape) - 1
        x = inputs if axis == last else ops.moveaxis(inputs, axis, -1)
        rows = self.scale * self.mask * self.singular_values
        kernel = ops.expand_dims(rows, -1) * self.directions
        if self.groups == 1:
            y = ops.matmul(x, kernel)
        else:
            shape = [-1 if size is None else size for size in x.shape[1:-1]]
            if shape.count(-1) > 1:
                shape = list(ops.shape(x)[1:-1])
            batch = ops.shape(x)[0]
            x = ops.reshape(x, (batch, *shape, self.groups, self.rank))
            kernel = ops.reshape(kernel, (self.groups, self.rank, -1))
            y = ops.einsum("...gr,grc->...gc", x, kernel)
            y = ops.reshape(y, (batch, *shape, self.channels))
        if self.bias is not None:
            y = y + self.bias
        y = y if axis == last else ops.moveaxis(y, -1, axis)
        return self.activation(y)

    @property
    def rank(self) -> int:
        """Components per group, the pruned ones included."""
        return int(self.scale.shape[0]) // self.groups

    @property
    def alive(self) -> np.ndarray:
        """Indices of the components that are not pruned; a component spans all groups."""
        mask = np.asarray(ops.convert_to_numpy(self.mask)).reshape(self.groups, -1)
        return np.flatnonzero(mask[0])

    def keep(self, components: Any) -> None:
        """Prunes all components but these, which stay or come back to life.

        Args:
            components: Indices in `[0, rank)`, at least one.
        """
        components = np.asarray(components, dtype=int)
        if not len(components) or components.min() < 0 or components.max() >= self.rank:
            raise ValueError(
                f"`components` must name at least one of the {self.rank} components of "
                f"{self.name!r}. Received: components={components.tolist()[:8]}."
            )
        mask = np.zeros(self.rank, "float32")
        mask[components] = 1
        self.mask.assign(np.tile(mask, self.groups))

    def effective_directions(self) -> np.ndarray:
        """`diag(s) diag(sigma) V^T` of every group, shape `(groups, rank, channels per group)`."""
        scale, sigma, directions = (
            np.asarray(ops.convert_to_numpy(v)).astype(np.float64)
            for v in (self.scale, self.singular_values, self.directions)
        )
        return ((scale * sigma)[:, None] * directions).reshape(self.groups, self.rank, -1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input shape with the output channels."""
        shape = list(input_shape)
        shape[self._axis(len(shape))] = self.channels
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }

    def _axis(self, rank: int) -> int:
        return 1 if self.data_format == "channels_first" else rank - 1


@keras.saving.register_keras_serializable(package="spade_keras")
class BasisScalingConv(BasisScaling):
    """A 1x1 convolution with kernel `diag(s) diag(sigma) V^T` whose factors `s` train.

    It follows a convolution (1D, 2D or 3D) whose kernel is the orthonormal basis `U`; both
    together compute the convolution with kernel `U diag(sigma) V^T` as long as `s` is 1.

    Args:
        filters: Channels of the convolution that was decomposed.
        groups: Its groups; the rank is the same in each.
        activation: Its activation.
        use_bias: Whether it has a bias, which moves here.
        data_format: Its data format.
        **kwargs: Those of every layer.

    Input shape:
        `(batch, ..., groups * rank)`; channels first where `data_format` says so.

    Output shape:
        `(batch, ..., filters)`.

    Example:
        >>> layer = BasisScalingConv(8, activation="relu")
        >>> layer.compute_output_shape((1, 32, 32, 5))
        (1, 32, 32, 8)

    Reference:
        Wong, Kashyap, Moradi, arXiv 2108.02893.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, **kwargs)

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.channels

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"filters": self.channels, "groups": self.groups, "data_format": self.data_format}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="spade_keras")
class BasisScalingDense(BasisScaling):
    """A dense layer with kernel `diag(s) diag(sigma) V^T` whose factors `s` train.

    Args:
        units: Units of the dense layer that was decomposed.
        activation: Its activation.
        use_bias: Whether it has a bias, which moves here.
        **kwargs: Those of every layer.

    Input shape:
        `(batch, ..., rank)`.

    Output shape:
        `(batch, ..., units)`.

    Example:
        >>> BasisScalingDense(10).compute_output_shape((1, 4))
        (1, 10)
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)

    @property
    def units(self) -> int:
        """Number of output channels."""
        return self.channels

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "units": self.channels}
