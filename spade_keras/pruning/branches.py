"""Branches that run beside a skip connection and end in an addition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from spade_keras.pruning.analysis import Analysis
from spade_keras.pruning.graph_cut import keeps_weights, leave_out, variables
from spade_keras.pruning.trace import Call, Graph


@dataclass(frozen=True)
class Branch:
    """The branch of one residual block.

    Args:
        addition: The call that adds it.
        skip: The tensor it starts from.
        calls: Its calls, in running order.
        graph: The graph it stands in.
        prefix: Path of that graph.
    """

    addition: Call
    skip: Any
    calls: tuple[Call, ...]
    graph: Graph
    prefix: str

    @property
    def skips(self) -> dict[int, Any]:
        """What stands for the sum without the branch, by the id of the sum."""
        return {id(self.addition.outputs[0]): self.skip}


def find_branches(analysis: Analysis) -> dict[str, Branch]:
    """The branches that a model can do without, by the name of their block; found once.

    Args:
        analysis: The labels of the model.
    """
    known = analysis.cache.get("branches")
    if known is None:
        known = analysis.cache["branches"] = _droppable(analysis.graph)
    return known


def _droppable(graph: Graph) -> dict[str, Branch]:
    """All branches but those the model is nothing without."""
    found = list(_branches(graph, "", set()))
    sums = {id(branch.addition) for _, branch in found}
    calls_so_far: Counter[str] = Counter()
    result = {}
    for name, branch in found:
        calls_so_far[name] += 1
        others = sums - {id(branch.addition)}
        inside = {id(call) for call in _open(branch.calls, branch.graph)}
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
        nested = graph.nested.get(id(call.operation))
        if nested is not None and id(call.operation) not in seen:
            seen.add(id(call.operation))
            yield from _branches(nested, f"{prefix}{call.operation.name}/", seen)
        if not _adds_two_alike(call):
            continue
        for skip, end in (call.inputs, call.inputs[::-1]):
            inside = _between(skip, end, makers)
            if (
                inside
                and any(variables(made, graph) for made in inside.values())
                and _is_read_by(inside, call, readers)
            ):
                calls = tuple(made for made in graph.calls if id(made) in inside)
                yield prefix + _name(call, graph), Branch(call, skip, calls, graph, prefix)


def _name(call: Call, graph: Graph) -> str:
    """Name of an addition; Keras counts up the names of operations at every trace."""
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


def _open(calls: Iterable[Call], graph: Graph) -> Iterator[Call]:
    """The calls and those of the graphs inside them."""
    for call in calls:
        yield call
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            yield from _open(nested.calls, nested)


def paths(calls: Iterable[Call], graph: Graph, prefix: str) -> Iterator[str]:
    """Paths of the calls, nested models opened, in running order.

    Args:
        calls: The calls.
        graph: The graph they stand in.
        prefix: Path of that graph.
    """
    for call in calls:
        path = prefix + call.operation.name
        nested = graph.nested.get(id(call.operation))
        if nested is None:
            yield path
        else:
            yield from paths(nested.calls, nested, f"{path}/")
