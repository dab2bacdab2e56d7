"""Layers that treat every channel alike and alone: activations, dropout, noise, identity."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import ChannelCall, ChannelRule

_MIXING_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")


def mixes_channels(activation: Any) -> bool:
    """True for activations that look at several channels at once, such as softmax."""
    name = getattr(activation, "__name__", type(activation).__name__).lower()
    return name in _MIXING_ACTIVATIONS


def guard_activation(call: ChannelCall, labels: Labels, axis: int = -1) -> Labels:
    """Freezes labels that an activation such as softmax mixes.

    Args:
        call: The call whose layer may carry an `activation`.
        labels: Labels of the layer's output.
        axis: The axis the activation works on.
    """
    activation = getattr(call.operation, "activation", None)
    if activation is not None and mixes_channels(activation) and labels.shape[axis] > 1:
        call.store.freeze(labels, f"{activation.__name__} over the channels")
    return labels


class PassThrough(ChannelRule):
    """Labels go through unchanged."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Returns the labels of the first input, for every output."""
        labels = call.labels[0]
        if len(call.outputs) > 1:
            return [labels] * len(call.outputs)
        return labels


class ActivationRule(ChannelRule):
    """A layer with an `activation` function."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, frozen where the activation mixes channels."""
        return guard_activation(call, call.labels[0])


class SoftmaxRule(ChannelRule):
    """A softmax: exact as long as its axis carries no channels, else they are frozen."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, frozen along the axis of the softmax."""
        labels = call.labels[0]
        axis = getattr(call.operation, "axis", -1)
        axes = axis if isinstance(axis, (tuple, list)) else (axis,)
        if any(labels.shape[a] > 1 for a in axes if a is not None):
            call.store.freeze(labels, f"{type(call.operation).__name__.lower()} over the channels")
        return labels


class Boundary(ChannelRule):
    """A layer that nobody has taught: its inputs and outputs keep their widths."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def propagate(self, call: ChannelCall) -> list[Labels]:
        """Freezes what goes in and what comes out."""
        return call.freeze_all(self.reason.format(name=call.path))

    def resize(self, change: Any) -> Any:
        """Makes the same layer again; a Lambda keeps its function object."""
        operation = change.operation
        if isinstance(operation, keras.layers.Lambda):
            return keras.layers.Lambda(
                operation.function,
                output_shape=operation._output_shape,
                mask=operation.mask,
                arguments=operation.arguments,
                name=operation.name,
                dtype=operation.dtype_policy,
            )
        return super().resize(change)
