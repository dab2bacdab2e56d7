"""Branches beside a skip connection, and graphs without some of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.trace import Call, Graph, shape_of


@dataclass(frozen=True)
class Branch:
    """The branch of one residual block: its addition, its start, and its calls in order."""

    addition: Call
    skip: Any
    calls: tuple[Call, ...]
    graph: Graph
    prefix: str

    @property
    def skips(self) -> dict[int, Any]:
        """The tensor that replaces the sum when the branch is left out, by the id of the sum."""
        return {id(self.addition.outputs[0]): self.skip}

    @property
    def paths(self) -> list[str]:
        """Paths of its calls, nested models opened, in running order."""
        opened = self.graph.open(self.prefix, self.calls)
        return [path for path, _, inner in opened if inner is None]


def find_branches(analysis: Analysis) -> dict[str, Branch]:
    """The branches that a model can do without, by the name of their block; found once."""
    if "branches" not in analysis.cache:
        analysis.cache["branches"] = _droppable(analysis.graph)
    return analysis.cache["branches"]


def _droppable(graph: Graph) -> dict[str, Branch]:
    """Branches, except those around all others and those that hold the only weights."""
    found = list(_branches(graph, "", set()))
    sums = {id(branch.addition) for _, branch in found}
    calls_so_far: Counter[str] = Counter()
    result = {}
    for name, branch in found:
        calls_so_far[name] += 1
        others = sums - {id(branch.addition)}
        inside = {id(call) for _, call, _ in branch.graph.open(calls=branch.calls)}
        is_long_skip = bool(others) and others <= inside
        if not is_long_skip and keeps_weights(graph, leave_out(graph, branch.skips)):
            count = calls_so_far[name]
            result[name if count == 1 else f"{name}:{count}"] = branch
    return result


def _branches(graph: Graph, prefix: str, seen: set[int]) -> Iterator[tuple[str, Branch]]:
    """Every block of a graph and of the graphs inside it, in running order."""
    makers = {id(x): call for call in graph.calls for x in call.outputs}
    readers: dict[int, list[Call | None]] = {id(x): [None] for x in graph.outputs}
    for call in graph.calls:
        for x in call.inputs:
            readers.setdefault(id(x), []).append(call)
    for call in graph.calls:
        nested = graph.inside(call)
        if nested is not None and id(call.operation) not in seen:
            seen.add(id(call.operation))
            yield from _branches(nested, f"{prefix}{call.operation.name}/", seen)
        if not _adds_two_alike(call):
            continue
        for skip, end in (call.inputs, call.inputs[::-1]):
            inside = _between(skip, end, makers)
            if weights_of(graph, inside.values()) and _is_read_by(inside, call, readers):
                calls = tuple(made for made in graph.calls if id(made) in inside)
                yield prefix + _name(call, graph), Branch(call, skip, calls, graph, prefix)


def _name(call: Call, graph: Graph) -> str:
    # Keras counts up the names of operations at every trace.
    if graph.traced and not isinstance(call.operation, keras.layers.Layer):
        return "add"
    return call.operation.name


def _adds_two_alike(call: Call) -> bool:
    kind = type(call.operation)
    if kind.__name__ != "Add" or not kind.__module__.startswith("keras.src."):
        return False
    return len(call.inputs) == 2 and all(
        x.shape == call.outputs[0].shape and x.dtype == call.outputs[0].dtype for x in call.inputs
    )


def _between(start: Any, end: Any, makers: Mapping[int, Call]) -> dict[int, Call]:
    """The calls that lead from one tensor to another; none if others lead there as well."""
    inside: dict[int, Call] = {}
    reached = False
    waiting = [end]
    while waiting:
        tensor = waiting.pop()
        if tensor is start:
            reached = True
            continue
        call = makers.get(id(tensor))
        if call is None:
            return {}
        if id(call) not in inside:
            inside[id(call)] = call
            waiting += call.inputs
    return inside if reached else {}


def _is_read_by(
    inside: Mapping[int, Call], addition: Call, readers: Mapping[int, list[Call | None]]
) -> bool:
    """True when the results of the calls inside are read inside and by the addition alone."""
    allowed = {*inside, id(addition)}
    return all(
        reader is not None and id(reader) in allowed
        for call in inside.values()
        for x in call.outputs
        for reader in readers.get(id(x), ())
    )


def leave_out(graph: Graph, skips: Mapping[int, Any]) -> Graph:
    """The graph without some additions and their branches; itself if it has none of them.

    `skips` holds the tensor that replaces a sum by the id of the sum.
    """
    replaced: dict[int, Any] = {}
    nested = dict(graph.nested)
    calls = []

    def now(value: Any) -> Any:
        return replaced.get(id(value), value)

    for call in graph.calls:
        first = id(call.outputs[0])
        if first in skips:
            replaced[first] = now(skips[first])
            continue
        inner = graph.inside(call)
        if inner is not None:
            left = nested[id(call.operation)] = leave_out(inner, skips)
            if left is not inner and not left.calls:
                # Nothing is left of the nested model: its outputs are its inputs.
                given = {id(x): now(y) for x, y in zip(left.inputs, call.inputs, strict=False)}
                pairs = zip(call.outputs, left.outputs, strict=True)
                replaced |= {id(x): given[id(y)] for x, y in pairs}
                continue
        args, kwargs = keras.tree.map_structure(now, (call.args, call.kwargs))
        inputs = [now(x) for x in call.inputs]
        calls.append(replace(call, args=args, kwargs=kwargs, inputs=inputs))
    if not replaced and all(nested[key] is graph.nested[key] for key in nested):
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
    """True when every output that depended on weights before still does after."""
    once, now = (_depends(graph, [False] * len(graph.inputs)) for graph in (before, after))
    return all(y or not x for x, y in zip(once, now, strict=True))


def _depends(graph: Graph, inputs: Sequence[bool]) -> list[bool]:
    """Whether each output depends on weights, given whether the inputs do."""
    known = {id(x): given for x, given in zip(graph.inputs, inputs, strict=False)}
    for call in graph.calls:
        given = [known[id(x)] for x in call.inputs]
        nested = graph.inside(call)
        if nested is not None:
            results = _depends(nested, given)
        else:
            results = [any(given) or bool(weights_of(graph, [call]))] * len(call.outputs)
        known |= {id(x): result for x, result in zip(call.outputs, results, strict=True)}
    return [known[id(x)] for x in graph.outputs]


def weights_of(graph: Graph, calls: Iterable[Call] | None = None) -> dict[int, Any]:
    """The weights that calls of a graph use, by their ids; None: of all its calls."""
    opened = graph.open(calls=calls)
    leaves = (call.operation for _, call, inner in opened if inner is None)
    return {id(v): v for leaf in leaves for v in getattr(leaf, "weights", ())}


def parameters(graph: Graph) -> int:
    """Number of parameters in the weights that a graph uses."""
    return sum(math.prod(shape_of(weight)) for weight in weights_of(graph).values())
