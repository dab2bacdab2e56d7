"""Layers around a layer: the inner rule does the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules import rule_for
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


class SpectralNormalizationRule(ChannelRule):
    """`SpectralNormalization`: the inner layer and a vector as long as its output."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Labels the inner call and attaches the singular vector."""
        layer = call.operation
        rule = rule_for(type(layer.layer))
        if rule is None:
            return call.freeze_all(f"the inner layer of {call.path}, which has no rule")
        result = rule.propagate(replace(call, operation=layer.layer))
        known = call.store.known(layer.kernel, len(layer.kernel.shape) - 1)
        if known is not None:
            call.parameter(layer.vector_u, 1, known)
        return result

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Configures the inner layer."""
        return _configure_inner(config, change)


class TimeDistributedRule(ChannelRule):
    """`TimeDistributed`: the inner layer without the time axis."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Labels the inner call and puts the time axis back."""
        rule = rule_for(type(call.operation.layer))
        if rule is None or len(call.outputs) != 1:
            return call.freeze_all(f"the inner layer of {call.path}, which has no rule")
        labels = call.store.collapse(call.labels[0], [1])
        inner = replace(
            call,
            operation=call.operation.layer,
            args=(),
            kwargs={},
            inputs=[keras.KerasTensor(_without_time(call.shape()))],
            labels=[labels[:, 0]],
            outputs=[keras.KerasTensor(_without_time(tuple(call.outputs[0].shape)))],
        )
        result = rule.propagate(inner)
        return np.expand_dims(result[0] if isinstance(result, list) else result, 1)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Configures the inner layer for one time step."""
        inputs, outputs = (
            [(_without_time(old), _without_time(new)) for old, new in pairs]
            for pairs in (change.inputs, change.outputs)
        )
        return _configure_inner(config, replace(change, inputs=inputs, outputs=outputs))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True when the inner layer mixes channels."""
        layer = call.operation.layer
        rule = rule_for(type(layer))
        inside = [x[:, 0] for x in labels[:1]]
        return rule is not None and rule.mixes(inside, SimpleNamespace(operation=layer))

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        """The inner reference on every time step."""
        rule: Any = rule_for(type(layer.layer))
        steps = [rule.reference(layer.layer, x[:, i], weights) for i in range(x.shape[1])]
        return keras.ops.stack(steps, axis=1)


def _without_time(shape: Shape) -> Shape:
    return (shape[0], *shape[2:])


def _configure_inner(config: dict[str, Any], change: Change) -> dict[str, Any]:
    layer = change.operation.layer
    rule = rule_for(type(layer))
    if rule is not None:
        inner = replace(change, operation=layer)
        config["layer"]["config"] = rule.configure(config["layer"]["config"], inner)
    return config
