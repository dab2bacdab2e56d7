"""The layers with scaling factors, and the pairs they form with the basis layers before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.errors import NotDecomposedError
from spade_keras.pruning.basis.rank_groups import TRANSPOSED, RankGroup, leaf_calls, to_matrix
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import channel_axis
from spade_keras.pruning.parts import parts_of, prefix_of

BASIS_SUFFIX = "_basis"


@keras.saving.register_keras_serializable(package="spade_keras")
class BasisScaling(keras.layers.Layer):
    """The second layer of a pair: maps basis coefficients to channels.

        y = activation(z K + b),    K = diag(m) diag(s) diag(sigma) V^T

    It follows a convolution or dense layer with the orthonormal kernel `U`; both together compute
    the layer with kernel `U K`. `s` are the scaling factors, initially 1 and the only weights that
    train; `m` is 1 for components that are alive and 0 for pruned ones; `sigma` and `V` are
    the singular values and right singular vectors. With `groups`, coefficients and channels
    stand in blocks, each with its own `K`.

    Args:
        channels: Filters or units of the layer that was decomposed.
        groups: Its groups; the rank is the same in each.
        activation: Its activation; `data_format`: its data format.
        use_bias: Whether it has a bias, which moves here.
        **kwargs: Arguments of every Keras layer.

    Input shape:
        `(batch, ..., groups * rank)`; channels first where `data_format` says so.

    Output shape:
        `(batch, ..., channels)`.

    Example:
        >>> BasisScaling(8, activation="relu").compute_output_shape((1, 32, 32, 5))
        (1, 32, 32, 8)

    Reference:
        Wong, Kashyap, Moradi, arXiv 2108.02893.
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
        """Makes the weights; `decompose` sets their values."""
        size = input_shape[channel_axis(self, len(input_shape))]
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
        axis = channel_axis(self, len(inputs.shape))
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
    def alive(self) -> list[int]:
        """Indices of the components that are not pruned; a component spans all groups."""
        mask = np.asarray(ops.convert_to_numpy(self.mask)).reshape(self.groups, -1)
        return list(map(int, np.flatnonzero(mask[0])))

    def keep(self, components: Any) -> None:
        """Masks all components but these: indices in `[0, rank)`, at least one."""
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
        """Returns `diag(s) diag(sigma) V^T`, shape `(groups, rank, channels per group)`."""
        weights = (self.scale, self.singular_values, self.directions)
        scale, sigma, directions = (ops.convert_to_numpy(v).astype(np.float64) for v in weights)
        return ((scale * sigma)[:, None] * directions).reshape(self.groups, self.rank, -1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input shape with the output channels."""
        shape = list(input_shape)
        shape[channel_axis(self, len(shape))] = self.channels
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "groups": self.groups,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "data_format": self.data_format,
        }


@dataclass(frozen=True)
class Pair:
    """One decomposed layer: `basis` has the orthonormal kernel, `scaling` the factors.

    `name` is the path of the layer that was decomposed, now of the scaling layer.
    """

    name: str
    basis: Any
    scaling: BasisScaling
    basis_path: str

    @property
    def group(self) -> RankGroup:
        """The rank group of the layer that the pair came from."""
        _, rows, _ = self.basis_matrix().shape
        groups = self.scaling.groups
        columns = self.scaling.channels // groups
        expansion = int(np.prod(self.basis.strides)) if isinstance(self.basis, TRANSPOSED) else 1
        kind = type(self.basis).__name__
        return RankGroup(self.name, kind, min(rows, columns), rows, columns, groups, expansion)

    def basis_matrix(self) -> np.ndarray:
        """Returns `U` of every group, shape `(groups, rows, rank)`."""
        return to_matrix(self.basis, np.asarray(ops.convert_to_numpy(self.basis.kernel), float))


def find_pairs(model: Any) -> tuple[Pair, ...]:
    """Lists the pairs of a model in running order, shared ones once; none if not decomposed."""
    found = []
    for key, part in parts_of(model).items():
        analysis, prefix = analyze(part), prefix_of(key)
        for call in leaf_calls(analysis.graph):
            scaling = call.operation
            if not isinstance(scaling, BasisScaling):
                continue
            path = prefix + analysis.paths[id(scaling)]
            basis = call.inputs[0]._keras_history.operation
            if getattr(basis, "kernel", None) is None:
                raise ValueError(
                    f"Every scaling layer must follow its basis layer. Received: {path!r}, which "
                    f"follows {basis.name!r}."
                )
            found.append(Pair(path, basis, scaling, prefix + analysis.paths[id(basis)]))
    return tuple(found)


def check_pairs(model: Any) -> tuple[Pair, ...]:
    """Lists the pairs of a model; raises `NotDecomposedError` where it has none."""
    parts = parts_of(model).values()
    found = any(isinstance(x, BasisScaling) for part in parts for x in part._flatten_layers())
    pairs = find_pairs(model) if found else ()
    if not pairs:
        raise NotDecomposedError(
            "`model` must be decomposed. Received: "
            f"model={getattr(model, 'name', model)!r}, which has no basis scaling layer. Pass "
            "`decompose(model)`."
        )
    return pairs
