"""Rebuilding a model call by call: narrower, with other layers, or as a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from spade_keras.errors import RebuildError
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.partition import Narrowing, Read
from spade_keras.pruning.graph.trace import Call, Chain, Graph, takes_inputs_and_outputs
from spade_keras.pruning.parts import map_parts
from spade_keras.pruning.rules import Change
from spade_keras.pruning.rules.rule import restore_initializers


def copy_model(model: Any, *, open_layers: bool = False) -> Any:
    """Copies a model, or a network's priors, with weights of its own, as `rebuild` makes it.

    Unlike `keras.models.clone_model` it takes subclassed models and networks with `priors`. With
    `open_layers`, composite layers become models of the layers inside them, each of which is then
    saved with a configuration of its own.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> copy = copy_model(model)
        >>> copy.count_params(), copy.layers[0] is model.layers[0]
        (8, False)
    """
    return map_parts(model, lambda _, part: replay(part, analyze(part), open_layers=open_layers))


def replay(
    model: Any,
    analysis: Analysis,
    kept: Mapping[str, Sequence[int]] | None = None,
    *,
    read: Read = keras.ops.convert_to_numpy,
    open_layers: bool = False,
    swaps: Mapping[int, Chain] | None = None,
) -> Any:
    """Rebuilds a model call by call.

    Calls may have been left out of the graph of the analysis. `kept` names channels that stay by
    group, `read` gives the values of the original's variables, and `swaps` has replacements of
    layers by id, whose weights and flags the caller sets.
    """
    narrowing = Narrowing(analysis, kept or {}, read)
    return _Replay(analysis, narrowing, open_layers, swaps or {}).model(model)


@dataclass
class _Replay:
    """One replay: the new layers made so far, and composite ones that were copied whole."""

    analysis: Analysis
    narrowing: Narrowing
    open_layers: bool
    swaps: Mapping[int, Chain]
    made: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)

    def model(self, model: Any) -> Any:
        graph = self.analysis.graph
        slim = self._nested(model, graph)
        self._copy_flags(model, slim, graph)
        for key, (original, made) in self.made.items():
            leaf = self.analysis.rules.get(key) is not None or key in self.whole
            if isinstance(original, keras.layers.Layer) and leaf and key not in self.swaps:
                _copy_state(original, made, self.narrowing.value)
        return slim

    def _nested(self, operation: Any, graph: Graph) -> Any:
        inputs = [self._input(tensor) for tensor in graph.inputs]
        if isinstance(operation, keras.Sequential):
            calls = {id(call.operation): call for call in graph.calls}
            layers: list[Any] = []
            for x in operation.layers:
                if id(x) in calls:
                    made = self._operation(graph, calls[id(x)])
                    layers += made.layers if isinstance(made, Chain) else [made]
            return keras.Sequential([inputs[0], *layers], name=operation.name)
        tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            self._replay(graph, call, tensors)
        given = keras.tree.map_structure(lambda x: tensors[id(x)], graph.input_struct)
        answer = keras.tree.map_structure(lambda x: tensors[id(x)], graph.output_struct)
        kind = type(operation) if takes_inputs_and_outputs(operation) else keras.Model
        return kind(given, answer, name=operation.name)

    def _input(self, tensor: Any) -> Any:
        source = tensor._keras_history.operation
        return keras.Input(
            batch_shape=self.narrowing.shape(tensor),
            dtype=tensor.dtype,
            name=source.name,
            sparse=tensor.sparse,
            optional=getattr(source, "optional", False),
        )

    def _replay(self, graph: Graph, call: Call, tensors: dict[int, Any]) -> None:
        """Calls the new operation as the old one was called."""
        operation = self._operation(graph, call)
        nested = graph.nested.get(id(call.operation))
        if nested is not None and nested.traced and id(call.operation) not in self.whole:
            flat = [tensors[id(tensor)] for tensor in call.inputs]
            results = operation(keras.tree.pack_sequence_as(nested.input_struct, flat))
        else:
            args, kwargs = call.args, call.kwargs
            rule = self.analysis.rules[id(call.operation)]
            if rule is not None:
                args, kwargs = rule.arguments(args, kwargs, self._change(call))
            results = operation(*_fill(args, tensors), **_fill(kwargs, tensors))
        for old, new in zip(call.outputs, keras.tree.flatten(results), strict=True):
            tensors[id(old)] = new

    def _operation(self, graph: Graph, call: Call) -> Any:
        """The new operation, made at its first call."""
        original = call.operation
        if id(original) in self.made:
            return self.made[id(original)][1]
        nested = graph.nested.get(id(original))
        if id(original) in self.swaps:
            made = self.swaps[id(original)]
        elif nested is not None:
            made = self._again(original, nested) or self._nested(original, nested)
        else:
            made = self._resize(call)
        self.made[id(original)] = (original, made)
        return made

    def _again(self, original: Any, graph: Graph) -> Any:
        """A copy of a composite layer, or None if the plan changes something inside it."""
        if not graph.traced or graph.opened or self.open_layers:
            return None
        if any(id(layer) in self.swaps for layer in original._flatten_layers()):
            return None
        if not self.narrowing.spares(graph, original.variables):
            return None
        try:
            made = type(original).from_config(original.get_config())
        except (NotImplementedError, TypeError, ValueError):
            return None
        self.whole.add(id(original))
        return made

    def _resize(self, call: Call) -> Any:
        rule = self.analysis.rules[id(call.operation)]
        assert rule is not None
        try:
            return rule.resize(self._change(call))
        except Exception as error:
            path = self.analysis.paths[id(call.operation)]
            raise RebuildError(
                f"Layer {path!r} ({type(call.operation).__name__}) cannot be made again from its "
                f"configuration: {error} Give it a `get_config`, or teach the pruner with "
                "`spade_keras.pruning.register_channel_rule`."
            ) from error

    def _change(self, call: Call) -> Change:
        narrowing = self.narrowing
        tensors = {"inputs": call.inputs, "outputs": call.outputs}
        return Change(
            operation=call.operation,
            inputs=[(tuple(x.shape), narrowing.shape(x)) for x in call.inputs],
            outputs=[(tuple(x.shape), narrowing.shape(x)) for x in call.outputs],
            new_shape=narrowing.new_shape,
            kept=lambda index, axis, side="inputs": narrowing.kept(tensors[side][index], axis),
        )

    def _copy_flags(self, original: Any, made: Any, graph: Graph) -> None:
        """Sets `trainable` from the outside in, since setting it spreads to inner layers."""
        _copy_flag(original, made)
        for call in graph.calls:
            inner = call.operation
            if isinstance(inner, keras.layers.Layer) and id(inner) not in self.swaps:
                nested = graph.nested.get(id(inner))
                slim = self.made[id(inner)][1]
                if id(inner) in self.whole:
                    pairs = zip(inner._flatten_layers(), slim._flatten_layers(), strict=True)
                    for old, new in pairs:
                        _copy_flag(old, new)
                elif nested is not None:
                    self._copy_flags(inner, slim, nested)
                else:
                    _copy_flag(inner, slim)


def _copy_flag(original: Any, made: Any) -> None:
    if made.trainable != original.trainable:
        made.trainable = original.trainable


def _copy_state(original: Any, made: Any, value: Read) -> None:
    """Gives a new layer the kept weights, random states and initializers of the original."""
    old, new = _variables(original), _variables(made)
    if len(old) != len(new):
        raise RebuildError(
            f"Layer {original.name!r} ({type(original).__name__}) has {len(old)} variables, but "
            f"made again from its configuration it has {len(new)}."
        )
    for source, target in zip(old, new, strict=True):
        array = value(source)
        if tuple(target.shape) != array.shape:
            raise RebuildError(
                f"{source.path} should become {array.shape}, but layer {original.name!r} made "
                f"again from its configuration has {tuple(target.shape)}."
            )
        if array.dtype.kind == "f" and np.isnan(array.sum()):
            raise RebuildError(
                f"`model` must not have NaN among its weights. Received: NaN in {source.path}."
            )
        target.assign(array)
        _copy_flag(source, target)
    restore_initializers(original, made)


def _variables(layer: Any) -> list[Any]:
    """Variables of a layer and the states of stateful recurrent ones, which Keras leaves out."""
    states = [
        state
        for inner in layer._flatten_layers()
        for state in keras.tree.flatten(getattr(inner, "states", None) or [])
        if isinstance(state, keras.Variable)
    ]
    return [*layer.variables, *states]


def _fill(arguments: Any, tensors: dict[int, Any]) -> Any:
    if isinstance(arguments, tuple) and len(arguments) == 1:
        single = tensors.get(id(arguments[0]))
        if single is not None:
            return (single,)
    if not arguments:
        return arguments
    return keras.tree.map_structure(
        lambda x: tensors[id(x)] if isinstance(x, keras.KerasTensor) else x, arguments
    )
