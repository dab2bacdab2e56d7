"""Layers that work on space and leave channels apart: pooling, padding, cropping, resizing."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import ChannelCall, ChannelRule


def channel_axis_of(call: ChannelCall) -> int:
    """The channel axis of the call, the last one where no `data_format` says otherwise."""
    first = getattr(call.operation, "data_format", None) == "channels_first"
    return 1 if first else len(call.shape()) - 1


class SpatialRule(ChannelRule):
    """Pooling, upsampling, padding, cropping, resizing: every channel by itself."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on, the same at every place."""
        labels = call.labels[0]
        axis = channel_axis_of(call)
        if labels.size == labels.shape[axis]:
            return labels
        return call.store.collapse(labels, [a for a in range(labels.ndim) if a != axis])


class GlobalPoolingRule(SpatialRule):
    """`GlobalAveragePooling` and `GlobalMaxPooling`: one number per channel."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Drops the spatial axes."""
        labels = super().propagate(call)
        if call.operation.keepdims:
            return labels
        axis = channel_axis_of(call)
        return labels.reshape(1, labels.shape[axis])


class DepthToSpaceRule(ChannelRule):
    """`ops.depth_to_space`: a channel leaves with all its pixels of the block."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Ties the pixels of a block."""
        axis = channel_axis_of(call)
        vector = call.vector(axis)
        if call.labels[0].size == 1:
            return call.labels[0]
        rows = vector.reshape(call.operation.block_size**2, -1)
        call.store.tie(rows[:1], rows[1:])
        return call.spread(rows[0], axis, len(call.shape()))


class SpaceToDepthRule(ChannelRule):
    """`ops.space_to_depth`: the pixels of a block carry the label of their channel."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Repeats the labels for every pixel of a block."""
        axis = channel_axis_of(call)
        vector = call.vector(axis)
        if call.labels[0].size == 1:
            return call.labels[0]
        tiled = np.tile(vector, call.operation.block_size**2)
        return call.spread(tiled, axis, len(call.shape()))
