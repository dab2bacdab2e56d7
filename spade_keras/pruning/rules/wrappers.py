"""Layers around a layer: the inner rule does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule, TensorSpec

RuleOf = Callable[[type], ChannelRule | None]


class WrapperRule(ChannelRule):
    """A wrapper with one inner `layer` that has a rule.

    Args:
        rule_of: Finds the rule of a class.
    """

    def __init__(self, rule_of: RuleOf) -> None:
        self.rule_of = rule_of

    def inner(self, operation: Any) -> ChannelRule | None:
        """The rule of the inner layer."""
        return self.rule_of(type(operation.layer))

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Configures the inner layer."""
        rule = self.inner(change.operation)
        if rule is None:
            return config
        inner = replace(
            change,
            operation=change.operation.layer,
            inputs=[self._drop(pair) for pair in change.inputs],
            outputs=[self._drop(pair) for pair in change.outputs],
        )
        config["layer"]["config"] = rule.configure(config["layer"]["config"], inner)
        return config

    def _drop(self, pair: tuple[Shape, Shape]) -> tuple[Shape, Shape]:
        return pair


class TimeDistributedRule(WrapperRule):
    """`TimeDistributed`: the inner layer without the time axis."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Labels the inner call and puts the time axis back."""
        rule = self.inner(call.operation)
        if rule is None or len(call.outputs) != 1:
            return call.freeze_all(f"the inner layer of {call.path}, which no rule knows")
        labels = call.store.collapse(call.labels[0], [1])
        inner = replace(
            call,
            operation=call.operation.layer,
            args=(),
            kwargs={},
            inputs=[TensorSpec(_without_time(call.shape()))],
            labels=[labels[:, 0]],
            outputs=[TensorSpec(_without_time(tuple(call.outputs[0].shape)))],
        )
        result = rule.propagate(inner)
        result = result[0] if isinstance(result, list) else result
        return np.expand_dims(result, 1)

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        """True when the inner layer mixes channels."""
        rule = self.inner(call.operation)
        inside = [x[:, 0] for x in labels[:1]]
        return rule is not None and rule.mixes(inside, _Inner(call.operation.layer))

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
        """The inner reference on every time step.

        Args:
            layer: The original wrapper.
            x: Its input, removed channels taken out.
            weights: Its weights by name, removed channels taken out.
        """
        rule: Any = self.inner(layer)
        steps = [rule.reference(layer.layer, x[:, i], weights) for i in range(x.shape[1])]
        return keras.ops.stack(steps, axis=1)

    def _drop(self, pair: tuple[Shape, Shape]) -> tuple[Shape, Shape]:
        return _without_time(pair[0]), _without_time(pair[1])


class SpectralNormalizationRule(WrapperRule):
    """`SpectralNormalization`: the inner layer and a vector as long as its output."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Labels the inner call and attaches the singular vector."""
        layer = call.operation
        rule = self.inner(layer)
        if rule is None:
            return call.freeze_all(f"the inner layer of {call.path}, which no rule knows")
        result = rule.propagate(replace(call, operation=layer.layer))
        known = call.store.known(layer.kernel, len(layer.kernel.shape) - 1)
        if known is not None:
            call.parameter(layer.vector_u, 1, known)
        return result


class _Inner:
    """A stand-in for a recorded call of an inner layer."""

    def __init__(self, operation: Any) -> None:
        self.operation = operation


def _without_time(shape: Shape) -> Shape:
    return (shape[0], *shape[2:])
