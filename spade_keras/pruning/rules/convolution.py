"""Convolutions: plain, grouped, transposed, depthwise and separable."""

from __future__ import annotations

from typing import Any

import numpy as np

from spade_keras.pruning.graph.labels import BlockRecord, Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


class ConvRule(ChannelRule):
    """`Conv1D/2D/3D`: kernel (*window, inputs / groups, filters)."""

    width = ("filters", "kernel", -1)

    def propagate(self, call: ChannelCall) -> Labels:
        """Contracts the channels and makes `filters` new ones."""
        layer, axis = call.operation, call.channel_axis
        source = call.source(axis)
        groups = layer.groups
        if groups > 1 and layer.kernel.shape[-2] == 1:
            # One input channel per group: the filters belong to the channels they read.
            labels = np.repeat(source, layer.filters // groups)
            call.parameter(layer.kernel, -1, labels)
        elif groups > 1:
            # All groups share the kernel's input axis, so they must lose the same positions.
            rows = source.reshape(groups, -1)
            call.store.tie(rows[:1], rows[1:])
            call.contract(layer.kernel, -2, rows[0])
            labels = call.produce(layer.kernel, -1)
            call.store.blocks.append(BlockRecord(call.path, labels, groups))
        else:
            call.contract(layer.kernel, -2, source)
            labels = call.produce(layer.kernel, -1)
        call.parameter(layer.bias, 0, labels)
        return call.output(labels, axis)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `filters`, and `groups` where every channel is its own group."""
        config = super().configure(config, change)
        layer = change.operation
        if layer.groups > 1 and layer.kernel.shape[-2] == 1:
            config["groups"] = layer.groups * config["filters"] // layer.filters
        return config


class ConvTransposeRule(ChannelRule):
    """`Conv1D/2D/3DTranspose`: kernel (*window, filters, inputs)."""

    width = ("filters", "kernel", -2)

    def propagate(self, call: ChannelCall) -> Labels:
        """Contracts the channels and makes `filters` new ones."""
        layer, axis = call.operation, call.channel_axis
        call.contract(layer.kernel, -1, call.source(axis))
        labels = call.produce(layer.kernel, -2)
        call.parameter(layer.bias, 0, labels)
        return call.output(labels, axis)


class DepthwiseRule(ChannelRule):
    """`DepthwiseConv1D/2D`: kernel (*window, inputs, depth_multiplier)."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Every output channel carries the label of the channel it is made from."""
        layer, axis = call.operation, call.channel_axis
        source = call.source(axis)
        call.parameter(layer.kernel, -2, source)
        labels = _repeat(source, layer.depth_multiplier)
        call.parameter(layer.bias, 0, labels)
        return call.output(labels, axis)


class SeparableRule(ChannelRule):
    """`SeparableConv1D/2D`: a depthwise kernel, then a pointwise one."""

    width = ("filters", "pointwise_kernel", -1)

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes the depthwise step, contracts in the pointwise one."""
        layer, axis = call.operation, call.channel_axis
        source = call.source(axis)
        call.parameter(layer.depthwise_kernel, -2, source)
        call.contract(layer.pointwise_kernel, -2, _repeat(source, layer.depth_multiplier))
        labels = call.produce(layer.pointwise_kernel, -1)
        call.parameter(layer.bias, 0, labels)
        return call.output(labels, axis)


def _repeat(labels: Labels, times: int) -> Labels:
    # The same array object lets the store recognize labels it has seen.
    return labels if times == 1 else np.repeat(labels, times)
