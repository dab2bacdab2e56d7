"""Layers that treat channels alike and alone: activations, dropout, pooling, padding, resizing."""

from __future__ import annotations

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import ChannelCall, ChannelRule, axes_of


class PassThrough(ChannelRule):
    """Labels go through unchanged."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Returns the labels of the first input, for every output."""
        return [call.labels[0]] * len(call.outputs)


class ActivationRule(ChannelRule):
    """A layer with an `activation` function."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, frozen where the activation mixes channels."""
        return call.guard(call.labels[0])


class SoftmaxRule(ChannelRule):
    """A softmax: exact as long as its axis carries no channels, else they are frozen."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, frozen along the axis of the softmax."""
        labels = call.labels[0]
        if any(labels.shape[a] > 1 for a in axes_of(call.operation, labels.ndim)):
            call.store.freeze(labels, f"{type(call.operation).__name__.lower()} over the channels")
        return labels


class SpatialRule(ChannelRule):
    """Pooling, upsampling, padding, cropping, resizing: every channel by itself."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, the same at every place."""
        labels, axis = call.labels[0], call.channel_axis
        if labels.size == labels.shape[axis]:
            return labels
        return call.store.collapse(labels, [a for a in range(labels.ndim) if a != axis])


class GlobalPoolingRule(SpatialRule):
    """`GlobalAveragePooling` and `GlobalMaxPooling`: one number per channel."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Drops the spatial axes."""
        labels = super().propagate(call)
        return labels if call.operation.keepdims else labels.reshape(1, -1)
