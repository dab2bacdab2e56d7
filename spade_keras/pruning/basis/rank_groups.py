"""Which layers of a model can be decomposed, into how many components, and why others cannot."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from spade_keras.pruning.basis.factors import DECOMPOSABLE, TRANSPOSED
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.trace import Call, Graph
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.rules import Boundary


@dataclass(frozen=True)
class RankGroup:
    """The components of one layer: what a plan of ranks may choose from.

    A layer with `n` rows and `co` columns per group costs `n co`, a pair of rank `r` costs
    `r (n + e co)`, where `e` is 1 except for strided transposed convolutions, whose second
    layer works on about `e` times as many positions as the first (exactly, with padding "same").

    Args:
        name: Path of the layer.
        kind: Its class.
        rank: Components per group, `min(n, co)`; 0 where there is no kernel to decompose.
        rows: `n`, kernel size times input channels per group.
        columns: `co`, output channels per group.
        groups: Groups of the convolution; a component spans all of them.
        expansion: `e`.
        fixed: Why the layer cannot be decomposed, or None.
    """

    name: str
    kind: str
    rank: int
    rows: int
    columns: int
    groups: int = 1
    expansion: int = 1
    fixed: str | None = None

    @property
    def break_even(self) -> float:
        """`r* = n co / (n + e co)`: only a smaller rank makes the pair cheaper than one layer."""
        cost = self.rows + self.expansion * self.columns
        return self.rows * self.columns / cost if cost else 0.0

    def allowed(self, multiple: int = 1) -> tuple[int, ...]:
        """Ranks worth choosing: multiples of `multiple` below `break_even`, and the full rank.

        Args:
            multiple: Step of the ranks.
        """
        if multiple < 1:
            raise ValueError(f"`multiple` must be at least 1. Received: multiple={multiple!r}.")
        below = range(multiple, math.ceil(self.break_even), multiple)
        return (*(rank for rank in below if rank < self.rank), self.rank)


def find_rank_groups(model: Any) -> tuple[RankGroup, ...]:
    """Lists every layer with a kernel: what it can be decomposed into, or why it cannot be.

    Args:
        model: A built Keras model, or a network with `priors`.

    Returns:
        The layers in running order, shared ones once.

    Raises:
        TraceError: The graph of the model cannot be read.

    Example:
        >>> import keras
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, name="conv")]
        >>> layers += [keras.layers.DepthwiseConv2D(3, name="dw")]
        >>> for group in find_rank_groups(keras.Sequential(layers)):
        ...     print(group.name, group.rank, round(group.break_even, 2), group.fixed is None)
        conv 6 4.91 True
        dw 0 0.0 False
    """
    if is_network(model):
        return tuple(
            replace(group, name=f"{key}/{group.name}")
            for key, prior in model.priors.items()
            for group in find_rank_groups(prior)
        )
    analysis = analyze(model)
    return tuple(
        _rank_group(call.operation, analysis)
        for call in leaf_calls(analysis.graph)
        if _has_kernel(call.operation)
    )


def choose_groups(groups: Sequence[RankGroup], layers: Iterable[str] | None) -> list[RankGroup]:
    """The groups to decompose.

    Args:
        groups: All of them.
        layers: Paths, wildcards allowed; a path in full must name a layer that can be
            decomposed. None: all that can be.

    Raises:
        ValueError: A name matches nothing, or a layer that cannot be decomposed.
    """
    free = [group for group in groups if group.fixed is None]
    if layers is None:
        return free
    chosen: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        matched = [group for group in groups if fnmatch.fnmatchcase(group.name, pattern)]
        if not matched:
            raise ValueError(
                f"`layers` must name layers with a kernel. Received: {pattern!r}, which is none "
                f"of {[group.name for group in groups][:20]}."
            )
        for group in matched:
            if group.fixed is not None and group.name == pattern:
                raise ValueError(
                    f"`layers` names {pattern!r}, which cannot be decomposed: {group.fixed}. "
                    f"Received: layers={layers!r}. Leave it out."
                )
            chosen.add(group.name)
    return [group for group in free if group.name in chosen]


def leaf_calls(graph: Graph, seen: set[int] | None = None) -> Iterator[Call]:
    """The first call of every layer and operation in a graph, nested graphs opened.

    Args:
        graph: The graph.
        seen: Ids of the operations to pass over; filled as they are found.
    """
    seen = set() if seen is None else seen
    for call in graph.calls:
        if id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        nested = graph.nested.get(id(call.operation))
        if nested is None:
            yield call
        else:
            yield from leaf_calls(nested, seen)


def output_layers(graph: Graph) -> set[int]:
    """Ids of the layers with a kernel that make the outputs: the head of a model.

    Args:
        graph: The graph.
    """
    makers = {id(x): call for call in graph.calls for x in call.outputs}
    found: set[int] = set()
    waiting, seen = list(graph.outputs), set()
    while waiting:
        call = makers.get(id(waiting.pop()))
        if call is None or id(call) in seen:
            continue
        seen.add(id(call))
        nested = graph.nested.get(id(call.operation))
        inside = output_layers(nested) if nested is not None else set()
        if inside:
            found |= inside
        elif nested is None and _has_kernel(call.operation):
            found.add(id(call.operation))
        else:
            waiting += call.inputs
    return found


def _has_kernel(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    return any(len(weight.shape) > 1 for weight in operation.weights)


def _rank_group(layer: Any, analysis: Analysis) -> RankGroup:
    name, kind = analysis.paths[id(layer)], type(layer).__name__
    reason = _reason(layer, analysis)
    if type(layer) not in DECOMPOSABLE:
        return RankGroup(name, kind, 0, 0, 0, fixed=reason)
    groups = getattr(layer, "groups", 1)
    shape = [int(size) for size in layer.kernel.shape]
    outputs = shape[-2] if isinstance(layer, TRANSPOSED) else shape[-1]
    rows, columns = math.prod(shape) // outputs, outputs // groups
    rank = min(rows, columns)
    if reason is None and rank == 1:
        reason = "its kernel has a single component, so nothing could be pruned"
    expansion = math.prod(layer.strides) if isinstance(layer, TRANSPOSED) else 1
    return RankGroup(name, kind, rank, rows, columns, groups, expansion, reason)


def _reason(layer: Any, analysis: Analysis) -> str | None:
    kind = type(layer).__name__
    if "Depthwise" in kind:
        return "a depthwise kernel has a single component per channel"
    if isinstance(layer, keras.layers.Wrapper):
        return f"the layer inside a {kind} is called by the wrapper, not by the model"
    if type(layer) not in DECOMPOSABLE:
        return f"a {kind} is neither a convolution nor a dense layer of Keras"
    if isinstance(analysis.rules[id(layer)], Boundary):
        return "it is quantized or carries LoRA weights"
    return None
