"""Labels for every tensor of a model: the rules applied to its graph, once per model."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import keras

from spade_keras.errors import TraceError
from spade_keras.pruning.graph.labels import Labels, LabelStore
from spade_keras.pruning.graph.trace import (
    Call,
    Graph,
    is_functional,
    source_of,
    trace,
    trace_layer,
)
from spade_keras.pruning.rules import Boundary, ChannelCall, ChannelRule, registered_count, rule_for

_UNKNOWN = (
    "{name} is a {kind}, which no rule knows; teach it with "
    "`spade_keras.pruning.register_channel_rule`"
)
_CONVERTED = "{name} is quantized or carries LoRA weights"


@dataclass
class Analysis:
    """The labels of one model.

    Args:
        graph: Its calls.
        store: Labels, ties, slots.
        labels: Label arrays by the id of the symbolic tensor.
        rules: Rule of every operation by its id; None for a nested graph.
        paths: Path of every operation by its id.
    """

    graph: Graph
    store: LabelStore = field(default_factory=LabelStore)
    labels: dict[int, Labels] = field(default_factory=dict)
    rules: dict[int, ChannelRule | None] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)


_ANALYSES: weakref.WeakKeyDictionary[Any, tuple[Any, Analysis]] = weakref.WeakKeyDictionary()


def analyze(model: Any) -> Analysis:
    """Labels the graph of a model; the result is kept as long as the model lives.

    Args:
        model: A built Keras model.

    Returns:
        The analysis.

    Raises:
        TraceError: The model has no graph that can be read.
    """
    known = _ANALYSES.get(model) if isinstance(model, keras.Model) else None
    token = (id(source_of(model)), registered_count())
    if known is not None and known[0] == token:
        return known[1]
    analysis = label_graph(trace(model))
    _ANALYSES[model] = (token, analysis)
    return analysis


def label_graph(graph: Graph) -> Analysis:
    """Applies the rules to a graph.

    Args:
        graph: The graph of a whole model: its inputs and outputs keep their widths.
    """
    analysis = Analysis(graph)
    store = analysis.store
    for tensor in graph.inputs:
        analysis.labels[id(tensor)] = store.constant(len(tensor.shape), "a model input")
    _label_calls(analysis, graph, "")
    for tensor in graph.outputs:
        labels = analysis.labels[id(tensor)]
        if labels.any():
            store.freeze(labels, "a model output")
    return analysis


def _label_calls(analysis: Analysis, graph: Graph, prefix: str) -> None:
    labels = analysis.labels
    for call in graph.calls:
        operation = call.operation
        path = prefix + operation.name
        analysis.paths[id(operation)] = path
        inputs = [labels[id(tensor)] for tensor in call.inputs]
        if is_functional(operation):
            results = _label_nested(analysis, graph, call, path, inputs)
        else:
            rule = _rule(analysis, graph, call, path)
            if rule is None:
                results = _label_nested(analysis, graph, call, path, inputs)
            else:
                results = _apply(analysis, rule, call, path, inputs)
        for tensor, result in zip(call.outputs, results, strict=True):
            labels[id(tensor)] = result


def _apply(
    analysis: Analysis, rule: ChannelRule, call: Call, path: str, inputs: list[Labels]
) -> list[Labels]:
    view = ChannelCall(
        call.operation,
        path,
        call.operation,
        call.args,
        call.kwargs,
        call.inputs,
        inputs,
        call.outputs,
        analysis.store,
    )
    result = rule.propagate(view)
    return result if isinstance(result, list) else [result]


def _rule(analysis: Analysis, graph: Graph, call: Call, path: str) -> ChannelRule | None:
    """The rule of an operation; None when its inner graph is to be labeled instead."""
    operation = call.operation
    key = id(operation)
    if key in analysis.rules:
        return analysis.rules[key]
    analysis.rules[key] = rule = _choose_rule(graph, call, path)
    return rule


def _choose_rule(graph: Graph, call: Call, path: str) -> ChannelRule | None:
    operation = call.operation
    is_layer = isinstance(operation, keras.layers.Layer)
    if is_layer and not operation.built:
        raise TraceError(
            f"`model` has a layer that is not built. Received: layer {path!r}. Call the model "
            "once on an example input first."
        )
    rule = rule_for(type(operation))
    if rule is not None:
        return Boundary(_CONVERTED) if is_layer and _is_converted(operation) else rule
    kind = type(operation).__name__
    if is_layer and list(operation._flatten_layers(include_self=False, recursive=False)):
        if operation.__class__.__module__.startswith("keras.src.layers."):
            return Boundary(_UNKNOWN.replace("{kind}", kind))
        try:
            graph.nested[id(operation)] = trace_layer(operation, call.args, call.kwargs)
            return None
        except TraceError as error:
            return Boundary(str(error).replace("{", "{{").replace("}", "}}"))
    return Boundary(_UNKNOWN.replace("{kind}", kind))


def _is_converted(layer: Any) -> bool:
    """True for layers whose weights are not what their configuration says."""
    state = vars(layer)
    return bool(state.get("lora_enabled")) or ("lora_rank" in state and layer.quantization_mode)


def _label_nested(
    analysis: Analysis, graph: Graph, call: Call, path: str, inputs: list[Labels]
) -> list[Labels]:
    """Labels a nested graph at its first call; later calls tie their inputs to the first."""
    operation = call.operation
    nested = graph.nested.get(id(operation))
    if nested is None:
        nested = graph.nested[id(operation)] = trace(operation)
    analysis.rules.setdefault(id(operation), None)
    known = analysis.labels
    store = analysis.store
    tensors = [id(tensor) for tensor in nested.inputs]
    count = len(tensors)
    for index, (key, tensor) in enumerate(zip(tensors, nested.inputs, strict=True)):
        rank = len(tensor.shape)
        labels = inputs[index] if index < len(inputs) else store.constant(rank)
        if labels.ndim != rank:
            reason = f"an input of another rank at {path}"
            store.freeze(labels, reason)
            labels = store.constant(rank, reason)
        if key not in known:
            known[key] = labels
        else:
            _tie_calls(store, known[key], labels)
    for labels in inputs[count:]:
        store.freeze(labels, f"an extra argument of {path}")
    if any(id(tensor) not in known for tensor in nested.outputs):
        _label_calls(analysis, nested, path + "/")
    return [known[id(tensor)] for tensor in nested.outputs]


def _tie_calls(store: LabelStore, first: Labels, second: Labels) -> None:
    """Inputs of two calls of one nested model must stay equally wide, position by position."""
    if first is second or not (first.any() or second.any()):
        return
    store.tie(first, second)
