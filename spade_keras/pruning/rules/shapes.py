"""Layers and operations that move channels to other axes: reshape, transpose, pixel shuffle."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape, reshape
from spade_keras.pruning.graph.trace import copy_operation
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule, resized


def _reshape(call: ChannelCall, labels: Labels, shape: Shape) -> Labels | list[Labels]:
    result = reshape(labels, shape, tuple(call.outputs[0].shape))
    if result is None:
        return call.freeze_all(f"a reshape of unknown sizes at {call.path}")
    return result


class ReshapeRule(ChannelRule):
    """`Reshape`, `ops.reshape`, `ops.squeeze`, ...; unknown sizes hide channels: they freeze."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        return _reshape(call, call.labels[0], call.shape())

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        return {**config, "target_shape": resized(config["target_shape"], *change.outputs[0])}

    def resize(self, change: Change) -> Any:
        operation = change.operation
        if isinstance(operation, keras.layers.Layer):
            return super().resize(change)
        shape = getattr(operation, "newshape", None)
        if shape is None or isinstance(shape, int):
            return copy_operation(operation)
        return copy_operation(operation, newshape=resized(shape, *change.outputs[0]))


class FlattenRule(ChannelRule):
    """`Flatten`: the channels of every position, one after another."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        labels, shape = call.labels[0], call.shape()
        if call.channel_axis == 1 and len(shape) > 2:
            axes = (0, *range(2, len(shape)), 1)
            labels = labels.transpose(axes)
            shape = tuple(shape[a] for a in axes)
        return _reshape(call, labels, shape)


_MOVES: dict[str, Callable[[Any, Labels], Labels]] = {
    "Permute": lambda operation, x: x.transpose((0, *operation.dims)),
    "RepeatVector": lambda operation, x: x[:, None],
    "Transpose": lambda operation, x: np.transpose(x, operation.axes),
    "Swapaxes": lambda operation, x: np.swapaxes(x, operation.axis1, operation.axis2),
    "Moveaxis": lambda operation, x: np.moveaxis(x, operation.source, operation.destination),
    "Flip": lambda operation, x: np.flip(x, operation.axis),
}


class MoveRule(ChannelRule):
    """Operations that only move positions: the same is done to the label array."""

    def propagate(self, call: ChannelCall) -> Labels:
        return _MOVES[type(call.operation).__name__](call.operation, call.labels[0])


class BroadcastRule(ChannelRule):
    """`ops.broadcast_to`: stretched axes carry no labels."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        rank = len(call.outputs[0].shape)
        return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)

    def resize(self, change: Change) -> Any:
        shape = resized(change.operation.shape, *change.outputs[0])
        return copy_operation(change.operation, shape=shape)


class StackRule(ChannelRule):
    """`ops.stack`: a new axis; the stacked tensors lose the same channels."""

    def propagate(self, call: ChannelCall) -> Labels:
        pairs = [(tuple(s.shape), x) for s, x in zip(call.inputs, call.labels, strict=True)]
        rank = len(call.outputs[0].shape)
        return np.expand_dims(call.store.elementwise(pairs), call.operation.axis % rank)


class UnstackRule(ChannelRule):
    """`ops.unstack`: an axis is taken apart."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        labels = call.labels[0]
        axis = call.operation.axis % labels.ndim
        if labels.shape[axis] > 1:
            call.store.freeze(labels, f"single channels taken at {call.path}")
        return [np.take(labels, 0, axis=axis)] * len(call.outputs)


class PixelShuffleRule(ChannelRule):
    """`ops.depth_to_space` and `ops.space_to_depth`: the pixels of a block leave together."""

    def propagate(self, call: ChannelCall) -> Labels:
        axis, pixels = call.channel_axis, call.operation.block_size**2
        vector = call.vector(axis)
        if call.labels[0].size == 1:
            return call.labels[0]
        if type(call.operation).__name__ == "SpaceToDepth":
            return call.output(np.tile(vector, pixels), axis)
        rows = vector.reshape(pixels, -1)
        call.store.tie(rows[:1], rows[1:])
        return call.output(rows[0], axis)
