"""Attention: whole heads are removed, and the model width through projections."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule, spread


class MultiHeadAttentionRule(ChannelRule):
    """`MultiHeadAttention`: kernels (width, heads, size) and (heads, size, width)."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        layer = call.operation
        heads, key_heads = self._heads(call)
        query, value = call.argument(0, "query"), call.argument(1, "value")
        key = call.argument(2, "key")
        key = value if key is None else key
        sources = [
            (layer._query_dense, query, heads),
            (layer._key_dense, key, key_heads),
            (layer._value_dense, value, key_heads),
            (getattr(layer, "_gate_dense", None), query, heads),
        ]
        for dense, tensor, labels in sources:
            if dense is None:
                continue
            call.contract(dense.kernel, 0, call.source(-1, call.index_of(tensor)))
            call.also_produce(dense.kernel, 1, labels, "#heads")
            call.parameter(dense.bias, 0, labels)
        dense = layer._output_dense
        call.contract(dense.kernel, 0, heads)
        made = self._output(call, query)
        if made is None:
            result = call.store.constant(len(query.shape))
        else:
            call.parameter(dense.bias, 0, made)
            result = call.output(made, -1)
        if len(call.outputs) == 1:
            return result
        scores = call.store.constant(len(call.outputs[1].shape))
        return [result, spread(heads, 1, scores.ndim) if len(heads) > 1 else scores]

    def _heads(self, call: ChannelCall) -> tuple[Labels, Labels]:
        heads = call.produce(call.operation._query_dense.kernel, 1, unit="#heads")
        return heads, heads

    def _output(self, call: ChannelCall, query: Any) -> Labels | None:
        """Labels of the output channels; None where the output has several channel axes."""
        kernel = call.operation._output_dense.kernel
        return call.produce(kernel, 2) if len(kernel.shape) == 3 else None

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        layer = change.operation
        config = {**config, "num_heads": change.new_shape(layer._query_dense.kernel)[1]}
        kernel = layer._output_dense.kernel
        new = change.new_shape(kernel)
        width = change.new_shape(layer._query_dense.kernel)[0]
        if len(new) == 3 and (config["output_shape"] or new[2] != width):
            config["output_shape"] = (new[2],)
        return config


class GroupedQueryAttentionRule(MultiHeadAttentionRule):
    """`GroupedQueryAttention`: a key-value head leaves with the query heads that read it."""

    def _heads(self, call: ChannelCall) -> tuple[Labels, Labels]:
        layer = call.operation
        if layer.num_key_value_heads == 1:
            heads = call.produce(layer._query_dense.kernel, 1, unit="#heads")
            return heads, np.zeros(1, dtype=np.int64)
        key_heads = call.produce(layer._key_dense.kernel, 1, unit="#heads")
        return np.repeat(key_heads, layer.num_repeats), key_heads

    def _output(self, call: ChannelCall, query: Any) -> Labels:
        """The output is as wide as the query: the two are tied."""
        vector = call.vector(-1, call.index_of(query))
        made = call.produce(call.operation._output_dense.kernel, 2)
        call.store.tie(made, vector)
        return made

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        layer = change.operation
        heads = change.new_shape(layer._query_dense.kernel)[1]
        key_heads = change.new_shape(layer._key_dense.kernel)[1]
        return {**config, "num_query_heads": heads, "num_key_value_heads": key_heads}


class AttentionRule(ChannelRule):
    """`Attention` and `AdditiveAttention`: query and key are contracted, value goes through."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        tensors = call.args[0]
        query, value = tensors[0], tensors[1]
        key = tensors[2] if len(tensors) > 2 else value
        vectors = [call.source(-1, call.index_of(tensor)) for tensor in (query, key)]
        call.store.tie(*vectors)
        scale = getattr(call.operation, "scale", None)
        if scale is not None and len(scale.shape) == 1:
            call.contract(scale, 0, vectors[0])
        labels = call.labels[call.index_of(value)]
        if labels.size > labels.shape[-1]:
            labels = call.store.collapse(labels, range(labels.ndim - 1))
        rest = [call.store.constant(len(output.shape)) for output in call.outputs[1:]]
        return [labels, *rest]

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        scale = getattr(call.operation, "scale", None)
        return (scale is None or len(scale.shape) == 0) and any(x.size > 1 for x in labels)


class DotProductAttentionRule(ChannelRule):
    """`ops.dot_product_attention` on (batch, time, heads, size): whole heads are tied."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        if len(call.inputs) < 3 or len({x.shape[2] for x in call.inputs[:3]}) > 1:
            return call.freeze_all(f"shared key-value heads at {call.path}")
        query, key, value = (call.store.collapse(x, [0, 1, 3]) for x in call.labels[:3])
        call.store.tie(query, key)
        call.store.tie(query, value)
        return value
