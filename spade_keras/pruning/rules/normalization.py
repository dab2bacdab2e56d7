"""Normalisations: something per channel, and for most of them a mean over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import BlockRecord, Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


class BatchNormalizationRule(ChannelRule):
    """`BatchNormalization`: per-channel affine map at inference."""

    _weights = (
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    )

    def propagate(self, call: ChannelCall) -> Labels:
        """Attaches the statistics and the affine parameters; passes labels on."""
        layer = call.operation
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        vector = call.vector(axis)
        for name in self._weights:
            variable = getattr(layer, name, None)
            if variable is not None:
                call.parameter(variable, 0, vector)
        return call.labels[0]


def _axes(layer: Any, rank: int) -> list[int]:
    axis = layer.axis
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return sorted(a % rank for a in axes)


class LayerNormalizationRule(ChannelRule):
    """`LayerNormalization` and `RMSNormalization`: statistics over the channels."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Attaches gamma and beta (or scale); passes labels on."""
        layer = call.operation
        labels = call.labels[0]
        axes = _axes(layer, labels.ndim)
        for name in ("gamma", "beta", "scale"):
            variable = getattr(layer, name, None)
            if getattr(variable, "shape", None) is None:
                continue
            for i, axis in enumerate(axes):
                if labels.shape[axis] > 1 or labels.size == 1:
                    call.parameter(variable, i, call.vector(axis))
        return labels

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True when a normalised axis carries channels."""
        axes = _axes(call.operation, labels[0].ndim)
        return any(labels[0].shape[axis] > 1 for axis in axes)

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        """The normalisation of kept channels written out from its definition.

        Args:
            layer: The original layer.
            x: Its input, removed channels taken out.
            weights: Its weights by name, removed channels taken out.
        """
        axes = _axes(layer, len(x.shape))
        shape = [x.shape[a] if a in axes else 1 for a in range(len(x.shape))]
        ops = keras.ops
        if isinstance(layer, keras.layers.RMSNormalization):
            power = ops.mean(x * x, axis=axes, keepdims=True)
            return x / ops.sqrt(power + layer.epsilon) * weights["scale"].reshape(shape)
        mean = ops.mean(x, axis=axes, keepdims=True)
        if getattr(layer, "rms_scaling", False):
            y = x / ops.sqrt(ops.var(x, axis=axes, keepdims=True) + layer.epsilon)
        else:
            variance = ops.mean((x - mean) ** 2, axis=axes, keepdims=True)
            y = (x - mean) / ops.sqrt(variance + layer.epsilon)
        return _affine(y, weights, shape)


def _affine(y: Any, weights: dict[str, np.ndarray], shape: list[int]) -> Any:
    if "gamma" in weights:
        y = y * weights["gamma"].reshape(shape)
    if "beta" in weights:
        y = y + weights["beta"].reshape(shape)
    return y


class GroupNormalizationRule(ChannelRule):
    """`GroupNormalization`: every group of channels must keep equally many."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Attaches gamma and beta and asks for equal blocks."""
        layer = call.operation
        vector = call.source(layer.axis)
        for variable in (layer.gamma, layer.beta):
            call.parameter(variable, 0, vector)
        if 1 < layer.groups < len(vector) and call.labels[0].size > 1:
            call.store.blocks.append(BlockRecord(call.path, vector, layer.groups))
        return call.labels[0]

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Follows the channels where every one is its own group."""
        layer = change.operation
        old, new = change.inputs[0]
        if layer.groups == old[layer.axis]:
            return {**config, "groups": new[layer.axis]}
        return config

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True: the statistics run over several channels."""
        return labels[0].shape[call.operation.axis] > 1

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        """The normalisation of kept channels written out from its definition.

        Args:
            layer: The original layer.
            x: Its input, removed channels taken out.
            weights: Its weights by name, removed channels taken out.
        """
        ops = keras.ops
        rank = len(x.shape)
        axis = layer.axis % rank
        width = int(x.shape[axis])
        # Where every channel is its own group, there are as many groups as kept channels.
        groups = min(layer.groups, width)
        values = ops.moveaxis(x, axis, 1)
        flat = ops.reshape(values, (values.shape[0], groups, -1))
        mean = ops.mean(flat, axis=-1, keepdims=True)
        variance = ops.mean((flat - mean) ** 2, axis=-1, keepdims=True)
        y = ops.reshape((flat - mean) / ops.sqrt(variance + layer.epsilon), values.shape)
        shape = [1] * rank
        shape[axis] = width
        return _affine(ops.moveaxis(y, 1, axis), weights, shape)


class UnitNormalizationRule(ChannelRule):
    """`UnitNormalization`: divides by the norm, to which a zero adds nothing."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on."""
        return call.labels[0]

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True when the norm runs over channels."""
        return any(labels[0].shape[a] > 1 for a in _axes(call.operation, labels[0].ndim))

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        """The input over its Euclidean norm.

        Args:
            layer: The original layer.
            x: Its input, removed channels taken out.
            weights: Empty.
        """
        axes = _axes(layer, len(x.shape))
        power = keras.ops.sum(x * x, axis=axes, keepdims=True)
        return x / keras.ops.sqrt(keras.ops.maximum(power, 1e-12))


class PReLURule(ChannelRule):
    """`PReLU`: a slope per position, shared along some axes."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Attaches alpha along the axes that carry channels."""
        alpha = call.operation.alpha
        labels = call.labels[0]
        for axis in range(1, labels.ndim):
            if labels.shape[axis] > 1 and alpha.shape[axis - 1] > 1:
                call.parameter(alpha, axis - 1, call.vector(axis))
        return labels


class LayerScaleRule(ChannelRule):
    """`LayerScale` of the ConvNeXt applications: a factor per channel."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Attaches gamma."""
        call.parameter(call.operation.gamma, 0, call.vector(-1))
        return call.labels[0]

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `projection_dim`."""
        return {**config, "projection_dim": change.new_shape(change.operation.gamma)[0]}


class ScaleListRule(ChannelRule):
    """`Rescaling` and `Normalization`: constants per channel stand in the configuration."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Passes labels on; a per-channel `Normalization` keeps its width."""
        layer = call.operation
        labels = call.labels[0]
        if isinstance(layer, keras.layers.Normalization) and labels.size > 1:
            call.store.freeze(labels, f"the statistics of {call.path}")
        return labels

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Slices the lists of a `Rescaling`."""
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
