"""Sums, means and products over channels: nothing has weights, so the kept channels decide."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import AxisMixing, ChannelCall, ChannelRule, axes_of


class ReductionRule(AxisMixing):
    """`ops.sum`, `ops.mean`, ...: reduced axes lose their labels, or tie those of other axes."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        axes = axes_of(call.operation, labels.ndim)
        others = [a for a in range(labels.ndim) if a not in axes and labels.shape[a] > 1]
        if others:
            labels = call.store.collapse(labels, axes)
        elif any(labels.shape[a] > 1 for a in axes):
            labels = np.zeros((1,) * labels.ndim, dtype=np.int64)
        if getattr(call.operation, "keepdims", False):
            return labels
        return labels.reshape([s for a, s in enumerate(labels.shape) if a not in axes])


class GluRule(ChannelRule):
    """`ops.glu`: one half of the channels gates the other, so the two are tied."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        axis = call.operation.axis % labels.ndim
        if labels.shape[axis] == 1:
            return labels
        first, second = np.split(labels, 2, axis=axis)
        call.store.tie(first, second)
        return first


class MatmulRule(ChannelRule):
    """`ops.matmul` of two tensors: the inner axes are tied and contracted, outer ones go through.

    Channels on further axes, such as heads, take the ties.
    """

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        if len(call.inputs) != 2 or min(x.ndim for x in call.labels) < 2:
            return call.freeze_all(f"a product with a constant or a vector at {call.path}")
        store = call.store
        left, right = call.labels
        if left.size > left.shape[-1] or right.size > right.shape[-2]:
            left = store.collapse(left, [left.ndim - 1])
            right = store.collapse(right, [right.ndim - 2])
        if left.shape[-1] > 1 or right.shape[-2] > 1:
            size = int(call.shape(0)[-1] or 1)
            store.tie(store.along(left, -1, size), store.along(right, -2, size))
            left = left[..., :1] * 0
            right = right[..., :1, :] * 0 if right.shape[-2] > 1 else right
        # The contracted axes have size 1 in the result, as in a broadcasting product.
        shapes = (*call.shape(0)[:-1], 1), (*call.shape(1)[:-2], 1, call.shape(1)[-1])
        return store.elementwise(list(zip(shapes, (left, right), strict=True)))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        return labels[0].shape[-1] > 1 or (len(labels) > 1 and labels[1].shape[-2] > 1)


class DotRule(ChannelRule):
    """`Dot`: contracts one axis of each input; channels on other axes keep their widths."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        axes = call.operation.axes
        axes = [axes, axes] if isinstance(axes, int) else list(axes)
        call.store.tie(*(call.vector(axis, index) for index, axis in enumerate(axes)))
        for labels, axis in zip(call.labels, axes, strict=True):
            if labels.size > labels.shape[axis]:
                call.store.freeze(labels, f"a channel axis beside the contraction at {call.path}")
        return call.store.constant(len(call.outputs[0].shape))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        return any(x.size > 1 for x in labels)
