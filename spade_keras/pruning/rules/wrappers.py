"""Recurrent layers around their cells, and wrappers around a layer, whose rule does the work."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules import rule_for
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule, spread

_GATES = {"SimpleRNNCell": 1, "GRUCell": 3, "LSTMCell": 4, "ConvLSTMCell": 4}
_STATES = {"SimpleRNNCell": 1, "GRUCell": 1, "LSTMCell": 2, "ConvLSTMCell": 2}


class RecurrentRule(ChannelRule):
    """`SimpleRNN`, `LSTM`, `GRU`, `ConvLSTM`, `RNN` of their cells, `Bidirectional` of these."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        layers = _directions(call.operation)
        if not all(_cells(layer) for layer in layers):
            return call.freeze_all(f"a cell of {call.path} without a rule")
        first = getattr(layers[0].cell, "data_format", None) == "channels_first"
        axis_of_sequence, axis_of_state = (2, 1) if first else (-1, -1)
        source = call.source(axis_of_sequence)
        given = keras.tree.flatten(call.argument(1, "initial_state"))
        states = [x for x in given if isinstance(x, keras.KerasTensor)]
        share = len(states) // len(layers)
        outputs: list[Labels] = []
        ends: list[Labels] = []
        for index, layer in enumerate(layers):
            own = states[index * share : (index + 1) * share]
            output, *vectors = _label_layer(call, layer, axis_of_state, source, own)
            outputs.append(output)
            ends += vectors
        mode = getattr(call.operation, "merge_mode", None)
        if mode == "concat":
            outputs = [np.concatenate(outputs)]
        elif mode is not None:
            call.store.tie(*outputs)
            outputs = outputs[:1]
        # Sequences or last outputs come first, then the states.
        axes = [axis_of_sequence if layers[0].return_sequences else axis_of_state] * len(outputs)
        axes += [axis_of_state] * len(ends)
        found = zip([*outputs, *ends], axes, call.outputs, strict=False)
        return [spread(vector, axis, len(tensor.shape)) for vector, axis, tensor in found]

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        if not isinstance(change.operation, keras.layers.Bidirectional):
            return _configure_layer(change.operation, config, change)
        keys = ("layer", "backward_layer")
        for key, layer in zip(keys, _directions(change.operation), strict=True):
            config[key]["config"] = _configure_layer(layer, config[key]["config"], change)
        return config


def _directions(layer: Any) -> list[Any]:
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def _cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer in running order; empty if no rule knows one of them."""
    cell = layer.cell
    cells = list(cell.cells) if type(cell).__name__ == "StackedRNNCells" else [cell]
    return cells if all(type(cell).__name__ in _GATES for cell in cells) else []


def _label_layer(
    call: ChannelCall, layer: Any, axis: int, source: Labels, states: list[Any]
) -> list[Labels]:
    """Label vectors of a recurrent layer's output and of each of its states, along their `axis`."""
    vector = source
    of_states: list[Labels] = []
    for cell in _cells(layer):
        kind = type(cell).__name__
        call.contract(cell.kernel, -2, vector)
        vector = call.produce(cell.kernel, -1, repeats=_GATES[kind])
        gates = np.tile(vector, _GATES[kind])
        call.also_produce(cell.recurrent_kernel, -1, gates)
        call.contract(cell.recurrent_kernel, -2, vector)
        call.parameter(cell.bias, -1, gates)
        of_states += [vector] * _STATES[kind]
    for state, units in zip(states, of_states, strict=False):
        call.store.tie(units, call.vector(axis, call.index_of(state)))
    for variable, units in zip(keras.tree.flatten(layer.states or []), of_states, strict=False):
        call.parameter(variable, axis, units)
    return [vector, *of_states]


def _configure_layer(layer: Any, config: dict[str, Any], change: Change) -> dict[str, Any]:
    cells = _cells(layer)
    if not cells:
        return config
    sizes = [change.new_shape(x.kernel)[-1] // _GATES[type(x).__name__] for x in cells]
    for key in ("filters", "units"):
        if key in config:
            return {**config, key: sizes[0]}
    inner = config["cell"]["config"]
    stacked = inner["cells"] if "cells" in inner else [config["cell"]]
    for cell, size in zip(stacked, sizes, strict=True):
        cell["config"]["units"] = size
    return config


class SpectralNormalizationRule(ChannelRule):
    """`SpectralNormalization`: the inner layer and a vector as long as its output."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
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
        return _configure_inner(config, change)


class TimeDistributedRule(ChannelRule):
    """`TimeDistributed`: the inner layer without the time axis."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
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
        inputs, outputs = (
            [(_without_time(old), _without_time(new)) for old, new in pairs]
            for pairs in (change.inputs, change.outputs)
        )
        return _configure_inner(config, replace(change, inputs=inputs, outputs=outputs))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        layer = call.operation.layer
        rule = rule_for(type(layer))
        inside = [x[:, 0] for x in labels[:1]]
        return rule is not None and rule.mixes(inside, SimpleNamespace(operation=layer))

    def reference(self, layer: Any, x: Any, weights: dict[str, np.ndarray]) -> Any:
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
