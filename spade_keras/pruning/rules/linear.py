"""Layers with a kernel: channels are contracted and new ones are made."""
# ruff: noqa: D102

from __future__ import annotations

from typing import Any

import numpy as np

from spade_keras.pruning.graph.labels import BlockRecord, Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule, resized


def _make(call: ChannelCall, kernel: Any, axis: int) -> Labels:
    """New labels along an axis of the kernel and along the bias."""
    labels = call.produce(kernel, axis)
    call.parameter(call.operation.bias, 0, labels)
    return labels


def _repeat(labels: Labels, times: int) -> Labels:
    # The same array object lets the store recognize labels it has seen.
    return labels if times == 1 else np.repeat(labels, times)


class DenseRule(ChannelRule):
    """`Dense`: kernel (inputs, units)."""

    width = ("units", "kernel", 1)

    def propagate(self, call: ChannelCall) -> Labels:
        kernel, source = call.operation.kernel, call.labels[0]
        call.contract(kernel, 0, call.vector(-1))
        labels = _make(call, kernel, 1)
        if source.size > 1 and source.shape[-1] == 1:
            call.store.freeze(labels, f"a second channel axis beside the one at {call.path}")
            return source
        return call.output(labels, -1)


class ConvRule(ChannelRule):
    """`Conv1D/2D/3D`: kernel (*window, inputs / groups, filters)."""

    width = ("filters", "kernel", -1)

    def propagate(self, call: ChannelCall) -> Labels:
        layer, axis = call.operation, call.channel_axis
        source = call.source(axis)
        groups = layer.groups
        if groups > 1 and layer.kernel.shape[-2] == 1:
            # One input channel per group: the filters belong to the channels they read.
            labels = np.repeat(source, layer.filters // groups)
            call.parameter(layer.kernel, -1, labels)
            call.parameter(layer.bias, 0, labels)
            return call.output(labels, axis)
        if groups > 1:
            # All groups share the kernel's input axis, so they must lose the same positions.
            rows = source.reshape(groups, -1)
            call.store.tie(rows[:1], rows[1:])
            source = rows[0]
        call.contract(layer.kernel, -2, source)
        labels = _make(call, layer.kernel, -1)
        if groups > 1:
            call.store.blocks.append(BlockRecord(call.path, labels, groups))
        return call.output(labels, axis)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        config = super().configure(config, change)
        layer = change.operation
        if layer.groups > 1 and layer.kernel.shape[-2] == 1:
            config["groups"] = layer.groups * config["filters"] // layer.filters
        return config


class ConvTransposeRule(ChannelRule):
    """`Conv1D/2D/3DTranspose`: kernel (*window, filters, inputs)."""

    width = ("filters", "kernel", -2)

    def propagate(self, call: ChannelCall) -> Labels:
        kernel, axis = call.operation.kernel, call.channel_axis
        call.contract(kernel, -1, call.source(axis))
        return call.output(_make(call, kernel, -2), axis)


class DepthwiseRule(ChannelRule):
    """`DepthwiseConv1D/2D`: kernel (*window, inputs, depth_multiplier); labels go through."""

    def propagate(self, call: ChannelCall) -> Labels:
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
        layer, axis = call.operation, call.channel_axis
        source = call.source(axis)
        call.parameter(layer.depthwise_kernel, -2, source)
        call.contract(layer.pointwise_kernel, -2, _repeat(source, layer.depth_multiplier))
        return call.output(_make(call, layer.pointwise_kernel, -1), axis)


class EmbeddingRule(ChannelRule):
    """`Embedding` and `ReversibleEmbedding`: a table (tokens, channels), read or contracted."""

    width = ("output_dim", "embeddings", 1)

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        layer, table = call.operation, call.operation.embeddings
        if not call.argument(1, "reverse"):
            return call.output(call.produce(table, 1), -1)
        reverse = getattr(layer, "reverse_embeddings", None)
        tied = layer.tie_weights or reverse is None
        call.contract(table if tied else reverse, 1 if tied else 0, call.vector(-1))
        return call.store.constant(len(call.shape()), "the tokens of an embedding")


class EinsumDenseRule(ChannelRule):
    """`EinsumDense`: shared letters tie, a lost one contracts, a new one carries the channels."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        layer = call.operation
        parsed = _parse(layer.equation, len(call.shape()), len(call.outputs[0].shape))
        if parsed is None:
            return call.freeze_all(f"the equation {layer.equation!r} of {call.path}")
        source, kernel, target = parsed
        labels = call.labels[0]
        lost = [x for x in kernel if x in source and x not in target]
        if any(x in source and x in target for x in kernel):
            return call.freeze_all(f"a batch axis in the equation of {call.path}")
        varying = [x for x in source if labels.shape[source.index(x)] > 1]
        for letter in lost:
            call.contract(layer.kernel, kernel.index(letter), call.vector(source.index(letter)))
        if any(x not in lost for x in varying) or len(varying) > 1:
            call.store.freeze(labels, f"several channel axes at {call.path}")
        made = [x for x in kernel if x not in source]
        if not made:
            return call.guard(call.store.constant(len(target)))
        place = target.index(made[-1])
        vector = call.produce(layer.kernel, kernel.index(made[-1]))
        if layer.bias is not None:
            # The bias aligns with the last axes of the output.
            axis = len(layer.bias.shape) - (len(target) - place)
            if axis >= 0 and layer.bias.shape[axis] == len(vector):
                call.parameter(layer.bias, axis, vector)
            elif axis >= 0 and layer.bias.shape[axis] > 1:
                call.store.freeze(vector, f"the bias axes of {call.path}")
        return call.output(vector, place)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        stated = config["output_shape"]
        stated = stated if isinstance(stated, (list, tuple)) else [stated]
        return {**config, "output_shape": resized(stated, *change.outputs[0])}


def _parse(equation: str, rank_in: int, rank_out: int) -> tuple[str, str, str] | None:
    """Letters of input, kernel and output, with an ellipsis spelled out in capitals."""
    left, _, target = equation.replace(" ", "").partition("->")
    source, _, kernel = left.partition(",")
    if source.count("...") > 1 or target.count("...") > 1:
        return None
    extra = "ZYXWVUTSRQ"[: max(0, rank_in - len(source.replace("...", "")))]
    source = source.replace("...", extra)
    target = target.replace("...", extra)
    if len(source) != rank_in or len(target) != rank_out or "." in kernel:
        return None
    return source, kernel, target
