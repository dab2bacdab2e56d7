"""The base of channel rules, and the two views of a layer call they work with."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, LabelStore, Shape, SlotRecord
from spade_keras.pruning.graph.trace import channel_axis, copy_operation, shape_of

Arguments = tuple[tuple, dict[str, Any]]


def mixes_channels(activation: Any) -> bool:
    """True for activations that read several channels at once, such as softmax."""
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    return name in ("softmax", "log_softmax", "sparsemax", "glu")


def axes_of(operation: Any, rank: int) -> list[int]:
    """The `axis` of an operation as non-negative axes, ascending; None stands for all."""
    axis = getattr(operation, "axis", None)
    if axis is None:
        return list(range(rank))
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return sorted(a % rank for a in axes)


def spread(vector: Labels, axis: int, rank: int) -> Labels:
    """The label array of a tensor whose labels vary along one axis only."""
    shape = [1] * rank
    shape[axis] = len(vector)
    return vector.reshape(shape)


def resized(stated: Any, old: Shape, new: Shape) -> Shape:
    """A stated target shape, with or without the batch, after a plan; -1 stays -1."""
    offset = len(old) - len(stated)
    return tuple(
        size if size in (-1, None) or before == after else after
        for size, before, after in zip(stated, old[offset:], new[offset:], strict=True)
    )


@dataclass
class ChannelCall:
    """One call of an operation, as recorded, with the labels of its input tensors.

    Args:
        operation: The layer or operation that is called; `path`: where it is in the model.
        owner: The layer of the graph that owns the weights; a wrapper owns its inner ones.
        inputs: Every tensor among the arguments; only their shapes are used, as of `outputs`.
        labels: Label arrays of `inputs`.
    """

    operation: Any
    path: str
    owner: Any
    args: tuple
    kwargs: dict[str, Any]
    inputs: Sequence[Any]
    labels: list[Labels]
    outputs: Sequence[Any]
    store: LabelStore

    @property
    def channel_axis(self) -> int:
        """Channel axis of the first input, the last one unless `data_format` differs."""
        return channel_axis(self.operation, len(self.shape()))

    def shape(self, index: int = 0) -> Shape:
        """Shape of an input tensor."""
        return tuple(self.inputs[index].shape)

    def index_of(self, tensor: Any) -> int:
        """Position of one of the input tensors, found by identity."""
        return [id(spec) for spec in self.inputs].index(id(tensor))

    def argument(self, position: int, name: str) -> Any:
        """An argument of the call by its position or name, None when absent."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name)

    def vector(self, axis: int, index: int = 0) -> Labels:
        """One label per position of an input's axis; ties labels across the other axes."""
        size = self.inputs[index].shape[axis]
        return self.store.along(self.labels[index], axis, 1 if size is None else int(size))

    def source(self, axis: int, index: int = 0) -> Labels:
        """`vector` for an operation that sums or mixes along other axes too: freezes those."""
        labels = self.labels[index]
        if labels.shape[axis] == 1 and labels.size > 1:
            self.store.freeze(labels, f"channels on an axis that {self.path} mixes")
        return self.vector(axis, index)

    def contract(self, variable: Any, axis: int, labels: Labels) -> None:
        """The weight sums over these channels along its axis."""
        self._attach(variable, axis, labels, "consumer")

    def parameter(self, variable: Any, axis: int, labels: Labels) -> None:
        """The weight, if there is one, has an entry per channel along its axis."""
        if variable is not None:
            self._attach(variable, axis, labels, "parameter")

    def produce(self, variable: Any, axis: int, repeats: int = 1, unit: str = "") -> Labels:
        """One label per new channel made by the weight along its axis; 0 for a single channel.

        The channels stand `repeats` times along the axis (LSTM gates: 4); `unit` is a suffix of
        the group's name, such as `"#heads"`.
        """
        count = shape_of(variable)[axis] // repeats
        known = self.store.known(variable, axis)
        labels = self.store.new(count) if known is None else known[:count]
        if known is None:
            tiled = np.tile(labels, repeats) if repeats > 1 else labels
            self.also_produce(variable, axis, tiled, unit)
            if count == 1:
                self.store.freeze(labels, "a single channel")
        return np.zeros(1, dtype=np.int64) if count == 1 else labels

    def also_produce(self, variable: Any, axis: int, labels: Labels, unit: str = "") -> None:
        """A further weight that makes channels already labeled."""
        self._attach(variable, axis, labels, "producer", unit)

    def output(self, vector: Labels, axis: int) -> Labels:
        """The label array of an output whose labels vary along one axis only."""
        return self.guard(spread(vector, axis, len(self.outputs[0].shape)))

    def guard(self, labels: Labels) -> Labels:
        """Output labels, frozen if the `activation` of the layer mixes channels."""
        activation = getattr(self.operation, "activation", None)
        if activation is not None and mixes_channels(activation) and labels.shape[-1] > 1:
            self.store.freeze(labels, f"{activation.__name__} over the channels")
        return labels

    def freeze_all(self, reason: str) -> list[Labels]:
        """Freezes every input and returns outputs of constant width."""
        for labels in self.labels:
            self.store.freeze(labels, reason)
        return [self.store.constant(len(output.shape), reason) for output in self.outputs]

    def _attach(self, variable: Any, axis: int, labels: Labels, role: str, unit: str = "") -> None:
        axis = axis % len(shape_of(variable))
        record = SlotRecord(self.path, self.owner, variable, axis, labels, role, unit)
        self.store.attach(record)


@dataclass
class Change:
    """One operation under a plan: the view from which a rule rebuilds it.

    Args:
        operation: The original layer or operation.
        inputs: `(old shape, new shape)` of every input tensor of its first call; so `outputs`.
        new_shape: Shape of one of the operation's weights after the plan.
        kept: `kept(tensor index, axis)` gives the kept positions along an input's axis;
            `kept(index, axis, "outputs")` along an output's.
    """

    operation: Any
    inputs: Sequence[tuple[Shape, Shape]]
    outputs: Sequence[tuple[Shape, Shape]]
    new_shape: Callable[[Any], tuple[int, ...]]
    kept: Callable[..., np.ndarray]

    @property
    def unchanged(self) -> bool:
        """True when no tensor around the operation changes its shape."""
        return all(old == new for old, new in (*self.inputs, *self.outputs))


class ChannelRule:
    """Treatment of channels by one kind of layer: the extension point of the pruner.

    A rule passes labels through the layer (`propagate`) and rebuilds the layer with fewer
    channels (`resize`). Where removal is not the same as zeroing (`mixes`), a rule may define
    `reference(layer, x, weights)`: the output computed from the input and the named weights,
    both without the removed channels.
    """

    width: tuple[str, str, int] | None = None
    """The setting that states the width of the layer, and the weight and axis that have it."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Labels of the output (or outputs); attaches weights, ties and freezes through `call`."""
        raise NotImplementedError

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """The configuration of the slim layer: by default with the new `width`."""
        if self.width is None:
            return config
        setting, weight, axis = self.width
        return {**config, setting: change.new_shape(getattr(change.operation, weight))[axis]}

    def resize(self, change: Change) -> Any:
        """The slim operation, unbuilt."""
        operation = change.operation
        if isinstance(operation, keras.layers.Layer):
            config = self.configure(operation.get_config(), change)
            is_stock = type(operation).__module__.startswith("keras.src.")
            return type(operation).from_config(unbuilt_config(config, zeros=is_stock))
        return copy_operation(operation)

    def arguments(self, args: tuple, kwargs: dict[str, Any], change: Change) -> Arguments:
        """The arguments of one call of the slim operation; tensors are filled in later."""
        return args, kwargs

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True when the recorded call mixes labeled channels, so that zeroing is not removal."""
        return False


class AxisMixing(ChannelRule):
    """A rule for operations that mix the positions along their `axis`."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        return call.labels[0]

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        return any(labels[0].shape[a] > 1 for a in axes_of(call.operation, labels[0].ndim))


class Boundary(ChannelRule):
    """A layer without a rule: its inputs and outputs keep their widths."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def propagate(self, call: ChannelCall) -> list[Labels]:
        return call.freeze_all(self.reason)

    def resize(self, change: Change) -> Any:
        operation = change.operation
        if isinstance(operation, keras.layers.Lambda):
            # The configuration would serialize the function; the same object is kept.
            return keras.layers.Lambda(
                operation.function,
                output_shape=operation._output_shape,
                mask=operation.mask,
                arguments=operation.arguments,
                name=operation.name,
                dtype=operation.dtype_policy,
            )
        return super().resize(change)


def unbuilt_config(config: Any, *, zeros: bool = True) -> Any:
    """A layer configuration without the shapes that its inner layers were built for.

    `zeros` replaces all initializers: the weights are set later, and drawing random numbers is
    the main cost.
    """
    if isinstance(config, list):
        return [unbuilt_config(item, zeros=zeros) for item in config]
    if not isinstance(config, dict):
        return config
    made = {k: unbuilt_config(v, zeros=zeros) for k, v in config.items() if k != "build_config"}
    drawn = [k for k, v in made.items() if k.endswith("_initializer") and v is not None]
    return made | dict.fromkeys(drawn, "zeros") if zeros else made


def restore_initializers(original: Any, made: Any) -> None:
    """Gives a layer built with zeros the original's initializers, to be saved with them."""
    pairs = [(original, made)]
    pairs += zip(original._flatten_layers(False), made._flatten_layers(False), strict=True)
    for old, new in pairs:
        for name, value in vars(old).items():
            if isinstance(value, keras.initializers.Initializer):
                setattr(new, name, value)
