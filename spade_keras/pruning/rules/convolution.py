"""Convolutions and their transposes, grouped ones included."""

from __future__ import annotations

from typing import Any

import numpy as np

from spade_keras.pruning.graph.labels import BlockRecord, Labels
from spade_keras.pruning.rules.dense import repeat
from spade_keras.pruning.rules.passing import guard_activation
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


def channel_axis(layer: Any, rank: int) -> int:
    """The channel axis of a layer with a `data_format`."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def close(call: ChannelCall, labels: Labels, axis: int) -> Labels:
    """The label array of an output whose labels vary along its channel axis alone."""
    return guard_activation(call, call.spread(labels, axis, len(call.shape())))


class ConvRule(ChannelRule):
    """`Conv1D/2D/3D`: kernel (*window, inputs / groups, filters)."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Contracts the channels and makes `filters` new ones."""
        layer = call.operation
        axis = channel_axis(layer, len(call.shape()))
        source = call.source(axis)
        groups = layer.groups
        if groups > 1 and layer.kernel.shape[-2] == 1:
            return self._depthwise(call, source, axis)
        if groups > 1:
            rows = source.reshape(groups, -1)
            call.store.tie(rows[:1], rows[1:])
            source = rows[0]
        call.contract(layer.kernel, -2, source)
        labels = call.produce(layer.kernel, -1)
        call.parameter(layer.bias, 0, labels)
        if groups > 1:
            call.store.blocks.append(BlockRecord(call.path, labels, groups))
        return close(call, labels, axis)

    def _depthwise(self, call: ChannelCall, source: Labels, axis: int) -> Labels:
        """One input channel per group: the filters belong to the channels they read."""
        layer = call.operation
        labels = np.repeat(source, layer.filters // layer.groups)
        call.parameter(layer.kernel, -1, labels)
        call.parameter(layer.bias, 0, labels)
        return close(call, labels, axis)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `filters`, and `groups` where every channel is its own group."""
        layer = change.operation
        old = layer.kernel.shape
        filters = change.new_shape(layer.kernel)[-1]
        config = {**config, "filters": filters}
        if layer.groups > 1 and old[-2] == 1:
            config["groups"] = layer.groups * filters // old[-1]
        return config


class ConvTransposeRule(ChannelRule):
    """`Conv1D/2D/3DTranspose`: kernel (*window, filters, inputs)."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Contracts the channels and makes `filters` new ones."""
        layer = call.operation
        axis = channel_axis(layer, len(call.shape()))
        call.contract(layer.kernel, -1, call.source(axis))
        labels = call.produce(layer.kernel, -2)
        call.parameter(layer.bias, 0, labels)
        return close(call, labels, axis)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `filters`."""
        return {**config, "filters": change.new_shape(change.operation.kernel)[-2]}


class DepthwiseRule(ChannelRule):
    """`DepthwiseConv1D/2D`: kernel (*window, inputs, depth_multiplier)."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Every output channel carries the label of the channel it is made from."""
        layer = call.operation
        axis = channel_axis(layer, len(call.shape()))
        source = call.source(axis)
        call.parameter(layer.kernel, -2, source)
        labels = repeat(source, layer.depth_multiplier)
        call.parameter(layer.bias, 0, labels)
        return close(call, labels, axis)


class SeparableRule(ChannelRule):
    """`SeparableConv1D/2D`: a depthwise kernel, then a pointwise one."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes the depthwise step, contracts in the pointwise one."""
        layer = call.operation
        axis = channel_axis(layer, len(call.shape()))
        source = call.source(axis)
        call.parameter(layer.depthwise_kernel, -2, source)
        call.contract(layer.pointwise_kernel, -2, repeat(source, layer.depth_multiplier))
        labels = call.produce(layer.pointwise_kernel, -1)
        call.parameter(layer.bias, 0, labels)
        return close(call, labels, axis)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `filters`."""
        return {**config, "filters": change.new_shape(change.operation.pointwise_kernel)[-1]}
