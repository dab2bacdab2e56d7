"""Recurrent layers: the units of all gates, the recurrent kernel and the state go together."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule

_GATES = {"SimpleRNNCell": 1, "GRUCell": 3, "LSTMCell": 4, "ConvLSTMCell": 4}
_STATES = {"SimpleRNNCell": 1, "GRUCell": 1, "LSTMCell": 2, "ConvLSTMCell": 2}


def _cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer in running order; empty if no rule knows one of them."""
    cell = layer.cell
    cells = list(cell.cells) if type(cell).__name__ == "StackedRNNCells" else [cell]
    return cells if all(type(cell).__name__ in _GATES for cell in cells) else []


def _label_cell(call: ChannelCall, cell: Any, source: Labels) -> Labels:
    """Contracts the inputs of a cell and makes its units."""
    gates = _GATES[type(cell).__name__]
    call.contract(cell.kernel, -2, source)
    units = call.produce(cell.kernel, -1, repeats=gates)
    tiled = np.tile(units, gates)
    call.also_produce(cell.recurrent_kernel, -1, tiled)
    call.contract(cell.recurrent_kernel, -2, units)
    call.parameter(cell.bias, -1, tiled)
    return units


def _label_layer(call: ChannelCall, layer: Any, source: Labels, states: list[Any]) -> list[Labels]:
    """Label vectors of a recurrent layer's output and of each of its states."""
    vector = source
    of_states: list[Labels] = []
    for cell in _cells(layer):
        vector = _label_cell(call, cell, vector)
        of_states += [vector] * _STATES[type(cell).__name__]
    axis = _channel_axis(layer)
    for state, units in zip(states, of_states, strict=False):
        call.store.tie(units, call.vector(axis, call.index_of(state)))
    for variable, units in zip(keras.tree.flatten(layer.states or []), of_states, strict=False):
        call.parameter(variable, axis, units)
    return [vector, *of_states]


def _channel_axis(layer: Any) -> int:
    """Channel axis of a state: 1 for channels_first convolutions, else the last."""
    return 1 if getattr(layer.cell, "data_format", None) == "channels_first" else -1


def _input_axis(layer: Any) -> int:
    return 2 if _channel_axis(layer) == 1 else -1


def _spread(
    call: ChannelCall, layer: Any, outputs: list[Labels], states: list[Labels]
) -> list[Labels]:
    """Label arrays of the output tensors: sequences or last outputs, then the states."""
    sequences = len(outputs) if layer.return_sequences else 0
    arrays = []
    for index, (tensor, vector) in enumerate(zip(call.outputs, [*outputs, *states], strict=False)):
        axis = _input_axis(layer) if index < sequences else _channel_axis(layer)
        arrays.append(call.spread(vector, axis, len(tensor.shape)))
    return arrays


def _states_of(call: ChannelCall) -> list[Any]:
    given = call.argument(1, "initial_state")
    return [x for x in keras.tree.flatten(given) if isinstance(x, keras.KerasTensor)]


class RecurrentRule(ChannelRule):
    """`SimpleRNN`, `LSTM`, `GRU`, `ConvLSTM`, and `RNN` of their cells."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        """Contracts the inputs and makes the units."""
        layer = call.operation
        if not _cells(layer):
            return call.freeze_all(f"a cell of {call.path} without a rule")
        source = call.source(_input_axis(layer))
        output, *states = _label_layer(call, layer, source, _states_of(call))
        return _spread(call, layer, [output], states)

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `units` (or `filters`)."""
        return _configure(change.operation, config, change)


def _configure(layer: Any, config: dict[str, Any], change: Change) -> dict[str, Any]:
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


class BidirectionalRule(ChannelRule):
    """`Bidirectional`: two recurrent layers, joined, added, averaged or multiplied."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        """Labels both directions and merges them."""
        layer = call.operation
        inner = [layer.forward_layer, layer.backward_layer]
        if not all(_cells(x) for x in inner):
            return call.freeze_all(f"a cell of {call.path} without a rule")
        states = _states_of(call)
        half = len(states) // 2
        source = call.source(_input_axis(inner[0]))
        given = [states[:half], states[half:]]
        found = [_label_layer(call, x, source, s) for x, s in zip(inner, given, strict=True)]
        outputs = [vectors[0] for vectors in found]
        if layer.merge_mode == "concat":
            outputs = [np.concatenate(outputs)]
        elif layer.merge_mode is not None:
            call.store.tie(outputs[0], outputs[1])
            outputs = outputs[:1]
        return _spread(call, inner[0], outputs, found[0][1:] + found[1][1:])

    def configure(self, config: dict[str, Any], change: Change) -> dict[str, Any]:
        """Sets `units` in both directions."""
        for direction, key in (("forward", "layer"), ("backward", "backward_layer")):
            layer = getattr(change.operation, f"{direction}_layer")
            config[key]["config"] = _configure(layer, config[key]["config"], change)
        return config
