"""Normalizations: parameters per channel, and for most of them statistics over the channels."""
# ruff: noqa: D102

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import BlockRecord, Labels
from spade_keras.pruning.rules.rule import AxisMixing, Change, ChannelCall, ChannelRule, axes_of


def _affine(y: Any, weights: dict[str, np.ndarray], shape: list[int]) -> Any:
    if "gamma" in weights:
        y = y * weights["gamma"].reshape(shape)
    if "beta" in weights:
        y = y + weights["beta"].reshape(shape)
    return y


class BatchNormalizationRule(ChannelRule):
    """`BatchNormalization`: per-channel affine map at inference."""

    def propagate(self, call: ChannelCall) -> Labels:
        vector = call.vector(axes_of(call.operation, len(call.shape()))[0])
        affine = ("gamma", "beta")
        moving = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
        for name in (*affine, *moving):
            call.parameter(getattr(call.operation, name, None), 0, vector)
        return call.labels[0]


class LayerNormalizationRule(AxisMixing):
    """`LayerNormalization` and `RMSNormalization`: statistics over the channels."""

    def propagate(self, call: ChannelCall) -> Labels:
        layer, labels = call.operation, call.labels[0]
        for name in ("gamma", "beta", "scale"):
            variable = getattr(layer, name, None)
            if getattr(variable, "shape", None) is None:
                continue
            for i, axis in enumerate(axes_of(layer, labels.ndim)):
                if labels.shape[axis] > 1 or labels.size == 1:
                    call.parameter(variable, i, call.vector(axis))
        return labels

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        axes = axes_of(layer, len(x.shape))
        shape = [size if a in axes else 1 for a, size in enumerate(x.shape)]
        ops = keras.ops
        if isinstance(layer, keras.layers.RMSNormalization):
            power = ops.mean(x * x, axis=axes, keepdims=True)
            return x / ops.sqrt(power + layer.epsilon) * weights["scale"].reshape(shape)
        mean = ops.mean(x, axis=axes, keepdims=True)
        variance = ops.mean((x - mean) ** 2, axis=axes, keepdims=True)
        centered = x if getattr(layer, "rms_scaling", False) else x - mean
        return _affine(centered / ops.sqrt(variance + layer.epsilon), weights, shape)


class GroupNormalizationRule(AxisMixing):
    """`GroupNormalization`: every group of channels must keep equally many."""

    def propagate(self, call: ChannelCall) -> Labels:
        layer, vector = call.operation, call.source(call.operation.axis)
        for variable in (layer.gamma, layer.beta):
            call.parameter(variable, 0, vector)
        if 1 < layer.groups < len(vector) and call.labels[0].size > 1:
            call.store.blocks.append(BlockRecord(call.path, vector, layer.groups))
        return call.labels[0]

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        layer = change.operation
        old, new = change.inputs[0]
        if layer.groups == old[layer.axis]:
            return {**config, "groups": new[layer.axis]}
        return config

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        ops = keras.ops
        rank = len(x.shape)
        axis = layer.axis % rank
        width = int(x.shape[axis])
        # If every channel is its own group, one group per kept channel remains.
        groups = min(layer.groups, width)
        values = ops.moveaxis(x, axis, 1)
        flat = ops.reshape(values, (values.shape[0], groups, -1))
        mean = ops.mean(flat, axis=-1, keepdims=True)
        variance = ops.mean((flat - mean) ** 2, axis=-1, keepdims=True)
        y = ops.reshape((flat - mean) / ops.sqrt(variance + layer.epsilon), values.shape)
        shape = [1] * rank
        shape[axis] = width
        return _affine(ops.moveaxis(y, 1, axis), weights, shape)


class UnitNormalizationRule(AxisMixing):
    """`UnitNormalization`: divides by the norm, to which a zero adds nothing."""

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        power = keras.ops.sum(x * x, axis=axes_of(layer, len(x.shape)), keepdims=True)
        return x / keras.ops.sqrt(keras.ops.maximum(power, 1e-12))


class PReLURule(ChannelRule):
    """`PReLU`: a slope per position, shared along some axes."""

    def propagate(self, call: ChannelCall) -> Labels:
        alpha, labels = call.operation.alpha, call.labels[0]
        for axis in range(1, labels.ndim):
            if labels.shape[axis] > 1 and alpha.shape[axis - 1] > 1:
                call.parameter(alpha, axis - 1, call.vector(axis))
        return labels


class LayerScaleRule(ChannelRule):
    """`LayerScale` of the ConvNeXt applications: a factor per channel."""

    width = ("projection_dim", "gamma", 0)

    def propagate(self, call: ChannelCall) -> Labels:
        call.parameter(call.operation.gamma, 0, call.vector(-1))
        return call.labels[0]


class ScaleListRule(ChannelRule):
    """`Rescaling` and `Normalization`: constants per channel stand in the configuration.

    The lists of a `Rescaling` are sliced; a per-channel `Normalization` keeps its width.
    """

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        if isinstance(call.operation, keras.layers.Normalization) and labels.size > 1:
            call.store.freeze(labels, f"the statistics of {call.path}")
        return labels

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        if not isinstance(change.operation, keras.layers.Rescaling) or change.unchanged:
            return config
        kept = change.kept(0, -1)
        width = change.inputs[0][0][-1]
        config = dict(config)
        for key in ("scale", "offset"):
            value = np.asarray(getattr(change.operation, key))
            if value.ndim and value.shape[-1] == width:
                config[key] = value[..., kept].tolist()
        return config
