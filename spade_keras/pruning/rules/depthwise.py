"""Depthwise and separable convolutions: a filter belongs to the channel it reads."""

from __future__ import annotations

from typing import Any

from spade_keras.pruning.labels import Labels
from spade_keras.pruning.rules.convolution import channel_axis, close
from spade_keras.pruning.rules.dense import repeat
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


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
