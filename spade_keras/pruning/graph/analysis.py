"""Labels for every tensor of a model: the rules applied to its graph, once per model."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import keras

from spade_keras.errors import TraceError
from spade_keras.pruning.graph.labels import Labels, LabelStore
from spade_keras.pruning.graph.trace import Call, Graph, is_functional, trace, trace_layer
from spade_keras.pruning.rules import Boundary, ChannelCall, ChannelRule, registered_count, rule_for


@dataclass
class Analysis:
    """The labels of one model.

    `labels` are by the id of a symbolic tensor, the others by the id of an operation: its rule
    (None: it has a graph inside, which is in `opened`) and its path. `cache` holds what was
    computed from the labels once.
    """

    graph: Graph
    store: LabelStore = field(default_factory=LabelStore)
    labels: dict[int, Labels] = field(default_factory=dict)
    rules: dict[int, ChannelRule | None] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    opened: dict[int, Graph] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)


_ANALYSES: weakref.WeakKeyDictionary[Any, tuple[Any, Analysis]] = weakref.WeakKeyDictionary()


def analyze(model: Any) -> Analysis:
    """Labels the graph of a model; the result is kept as long as the model lives.

    Raises:
        TraceError: The model has no graph that can be read.
    """
    known = _ANALYSES.get(model) if isinstance(model, keras.Model) else None
    # The functional model inside a Sequential one changes when a layer is added.
    token = (id(getattr(model, "_functional", None) or model), registered_count())
    if known is not None and known[0] == token:
        return known[1]
    analysis = label_graph(trace(model))
    _ANALYSES[model] = (token, analysis)
    return analysis


def label_graph(graph: Graph) -> Analysis:
    """Applies the rules to the graph of a model; its inputs and outputs keep their widths."""
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
    labels, rules = analysis.labels, analysis.rules
    for call in graph.calls:
        operation = call.operation
        path = analysis.paths[id(operation)] = prefix + operation.name
        if id(operation) not in rules:
            rules[id(operation)] = _choose_rule(graph, call, path)
        rule = rules[id(operation)]
        inputs = [labels[id(tensor)] for tensor in call.inputs]
        if rule is None:
            # A model or layer that is called in several graphs has one inner graph.
            nested = graph.inside(call) or analysis.opened[id(operation)]
            graph.nested[id(operation)] = analysis.opened[id(operation)] = nested
            results = _label_nested(analysis, nested, path, inputs)
        else:
            result = rule.propagate(
                ChannelCall(
                    **vars(call), path=path, owner=operation, labels=inputs, store=analysis.store
                )
            )
            results = result if isinstance(result, list) else [result]
        for tensor, result in zip(call.outputs, results, strict=True):
            labels[id(tensor)] = result


def _choose_rule(graph: Graph, call: Call, path: str) -> ChannelRule | None:
    """The rule of an operation; None when its inner graph is to be labeled instead."""
    operation = call.operation
    if is_functional(operation):
        if graph.inside(call) is None:
            graph.nested[id(operation)] = trace(operation)
        return None
    is_layer = isinstance(operation, keras.layers.Layer)
    if is_layer and not operation.built:
        raise TraceError(
            f"`model` has a layer that is not built. Received: layer {path!r}. Call the model "
            "once on an example input first."
        )
    rule = rule_for(type(operation))
    if rule is not None:
        state = vars(operation)
        if state.get("lora_enabled") or ("lora_rank" in state and operation.quantization_mode):
            # Its weights differ from its configuration.
            return Boundary(f"{path} is quantized or carries LoRA weights")
        return rule
    is_built_in = type(operation).__module__.startswith("keras.src.layers.")
    if is_layer and not is_built_in and operation._flatten_layers(False, recursive=False):
        try:
            graph.nested[id(operation)] = trace_layer(operation, call.args, call.kwargs)
            return None
        except TraceError as error:
            return Boundary(str(error))
    return Boundary(
        f"{path} is a {type(operation).__name__}, which has no rule; add one with "
        "`spade_keras.pruning.register_channel_rule`"
    )


def _label_nested(
    analysis: Analysis, nested: Graph, path: str, inputs: list[Labels]
) -> list[Labels]:
    """Labels a nested graph at its first call; later calls tie their inputs to the first."""
    known, store = analysis.labels, analysis.store
    for index, tensor in enumerate(nested.inputs):
        rank = len(tensor.shape)
        labels = inputs[index] if index < len(inputs) else store.constant(rank)
        if labels.ndim != rank:
            reason = f"an input of another rank at {path}"
            store.freeze(labels, reason)
            labels = store.constant(rank, reason)
        first = known.setdefault(id(tensor), labels)
        # Two calls of one model share its weights, so their inputs shrink position by position.
        if first is not labels and (first.any() or labels.any()):
            store.tie(first, labels)
    for labels in inputs[len(nested.inputs) :]:
        store.freeze(labels, f"an extra argument of {path}")
    if any(id(tensor) not in known for tensor in nested.outputs):
        _label_calls(analysis, nested, f"{path}/")
    return [known[id(tensor)] for tensor in nested.outputs]
