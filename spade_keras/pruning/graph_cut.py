"""Graphs from which additions are left out, with all that only they needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from spade_keras.pruning.trace import Call, Graph, shape_of


def leave_out(graph: Graph, skips: Mapping[int, Any]) -> Graph:
    """The graph without some additions and what only they read; itself if it has none of them.

    Args:
        graph: The graph.
        skips: The tensor that stands for the result of an addition, by the id of the result.
    """
    stands_for: dict[int, Any] = {}
    nested = dict(graph.nested)
    calls = []

    def now(value: Any) -> Any:
        return stands_for.get(id(value), value)

    for call in graph.calls:
        first = id(call.outputs[0])
        inner = graph.nested.get(id(call.operation))
        if first in skips:
            stands_for[first] = now(skips[first])
            continue
        if inner is not None:
            left = nested[id(call.operation)] = leave_out(inner, skips)
            if left is not inner and not left.calls:
                given = {id(x): now(y) for x, y in zip(left.inputs, call.inputs, strict=False)}
                stands_for |= {
                    id(x): given[id(y)] for x, y in zip(call.outputs, left.outputs, strict=True)
                }
                continue
        args, kwargs = keras.tree.map_structure(now, (call.args, call.kwargs))
        inputs = [now(x) for x in call.inputs]
        calls.append(replace(call, args=args, kwargs=kwargs, inputs=inputs))
    if not stands_for and all(nested[key] is graph.nested[key] for key in nested):
        return graph
    outputs = [now(x) for x in graph.outputs]
    return replace(
        graph,
        outputs=outputs,
        calls=_needed(calls, outputs),
        output_struct=keras.tree.map_structure(now, graph.output_struct),
        opened=True,
        nested=nested,
    )


def _needed(calls: Sequence[Call], outputs: Sequence[Any]) -> list[Call]:
    """The calls that the outputs depend on."""
    wanted = {id(x) for x in outputs}
    kept = []
    for call in reversed(calls):
        if any(id(x) in wanted for x in call.outputs):
            kept.append(call)
            wanted |= {id(x) for x in call.inputs}
    return kept[::-1]


def keeps_weights(before: Graph, after: Graph) -> bool:
    """True when every output that depended on weights still does.

    Args:
        before: The whole graph.
        after: The same graph without some additions.
    """
    return all(
        now or not once
        for once, now in zip(
            _depends(before, [False] * len(before.inputs)),
            _depends(after, [False] * len(after.inputs)),
            strict=True,
        )
    )


def _depends(graph: Graph, inputs: Sequence[bool]) -> list[bool]:
    """Whether each output depends on weights, given whether the inputs do."""
    known = {id(x): given for x, given in zip(graph.inputs, inputs, strict=False)}
    for call in graph.calls:
        given = [known[id(x)] for x in call.inputs]
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            results = _depends(nested, given)
        else:
            results = [any(given) or bool(variables(call, graph))] * len(call.outputs)
        known |= {id(x): result for x, result in zip(call.outputs, results, strict=True)}
    return [known[id(x)] for x in graph.outputs]


def variables(call: Call, graph: Graph) -> dict[int, Any]:
    """The weights that a call uses, by their ids.

    Args:
        call: The call.
        graph: The graph it stands in.
    """
    nested = graph.nested.get(id(call.operation))
    if nested is not None:
        return {k: v for inner in nested.calls for k, v in variables(inner, nested).items()}
    return {id(v): v for v in getattr(call.operation, "weights", ())}


def parameters(graph: Graph) -> int:
    """Number of parameters in the weights that a graph uses.

    Args:
        graph: The graph.
    """
    weights = {k: v for call in graph.calls for k, v in variables(call, graph).items()}
    return sum(math.prod(shape_of(weight)) for weight in weights.values())
