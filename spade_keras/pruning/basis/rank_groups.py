"""Layers that can be decomposed, into how many components, and why others cannot."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.errors import PlanMismatchError
from spade_keras.pruning.cost import macs_by_layer
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.trace import Call, Graph
from spade_keras.pruning.parts import parts_of, prefix_of
from spade_keras.pruning.plan import Form, LayerRank, PruningPlan, RankStep
from spade_keras.pruning.rules import Boundary

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DECOMPOSABLE = (*CONVOLUTIONS, *TRANSPOSED, keras.layers.Dense)


@dataclass(frozen=True)
class RankGroup:
    """The components of one layer, among which a plan of ranks chooses.

    A layer with `n` rows and `co` columns per group costs `n co`, a pair of rank `r` costs
    `r (n + e co)`, where `e` is 1 except for strided transposed convolutions, whose second
    layer has about `e` times the positions of the first (exactly, with padding "same").

    Args:
        name: Path of the layer; `kind`: its class.
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
        """Returns the ranks worth choosing: multiples below `break_even`, and the full rank."""
        if multiple < 1:
            raise ValueError(f"`multiple` must be at least 1. Received: multiple={multiple!r}.")
        below = range(multiple, math.ceil(self.break_even), multiple)
        return (*(rank for rank in below if rank < self.rank), self.rank)

    def cheaper_form(self, rank: int) -> Form:
        """Returns the form that takes fewer multiply-accumulates at a rank."""
        return "pair" if rank < self.break_even else "one"

    def plan(
        self, kept: Sequence[int], form: Form, scales: Sequence[float] = (), macs: int | None = None
    ) -> LayerRank:
        """Returns the plan of this layer, with what it saves of its `macs` where known."""
        saved, share = 0, 0.0
        if form == "pair":
            whole, pair = self.rows * self.columns, len(kept) * (self.rows + self.columns)
            saved, share = self.groups * (whole - pair), 1 - len(kept) / self.break_even
        saved_macs = None if macs is None else round(macs * share)
        return LayerRank(self.name, self.rank, tuple(kept), form, tuple(scales), saved, saved_macs)


def find_rank_groups(model: Any) -> tuple[RankGroup, ...]:
    """Lists every layer with a kernel: its components, or why it cannot be decomposed.

    The layers come in running order, shared ones once.

    Example:
        >>> import keras
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, name="conv")]
        >>> layers += [keras.layers.DepthwiseConv2D(3, name="dw")]
        >>> for group in find_rank_groups(keras.Sequential(layers)):
        ...     print(group.name, group.rank, round(group.break_even, 2), group.fixed is None)
        conv 6 4.91 True
        dw 0 0.0 False
    """
    return tuple(
        _rank_group(call.operation, prefix_of(key), analyze(part))
        for key, part in parts_of(model).items()
        for call in leaf_calls(analyze(part).graph)
        if _has_kernel(call.operation)
    )


def plan_ranks(model: Any, ranks: Mapping[str, int], *, inputs: Any = None) -> PruningPlan:
    """Plans lower ranks of layers: the largest singular values stay.

    Every layer takes the form with fewer multiply-accumulates.

    Args:
        model: A built Keras model, or a network with `priors`.
        ranks: Components per layer, by path; layers not named or at full rank stay as they are.
        inputs: Arrays or shapes to count multiply-accumulates for, where the model's own
            input shapes leave sizes open.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import rebuild
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a")])
        >>> rebuild(model, plan_ranks(model, {"a": 2})).count_params()
        40
    """
    groups = {group.name: group for group in find_rank_groups(model) if group.fixed is None}
    full = {name: group.rank for name, group in groups.items()}
    for name, rank in ranks.items():
        whole = isinstance(rank, int | np.integer) and not isinstance(rank, bool)
        if name not in full or not whole or not 1 <= rank <= full[name]:
            raise ValueError(
                f"`ranks` must give each layer of {full} at least 1 and at most all of its "
                f"components. Received: {rank!r} for {name!r}."
            )
    macs = macs_by_layer(model, inputs) or {}
    layers = tuple(
        group.plan(range(ranks[name]), group.cheaper_form(ranks[name]), macs=macs.get(name))
        for name, group in groups.items()
        if ranks.get(name, group.rank) < group.rank
    )
    if not layers:
        raise ValueError(
            f"`ranks` must lower the rank of a layer. Received: ranks={dict(ranks)} of {full}."
        )
    return PruningPlan(model.name, (RankStep(layers, "sigma"),))


def check_ranks(model: Any, step: RankStep) -> None:
    """Raises `PlanMismatchError` for the first layer of a step that differs from the model's."""
    groups = {group.name: group for group in find_rank_groups(model)}
    for layer in step.layers:
        group = groups.get(layer.name)
        if group is None or group.fixed is not None or group.rank != layer.rank:
            found = "no such layer"
            if group is not None:
                found = group.fixed or f"{group.rank} components"
            raise PlanMismatchError(
                f"`plan` was made for another model: layer {layer.name!r} should have "
                f"{layer.rank} components. Received: a model with {found} there. Make the plan "
                "again with `plan_ranks` or `rank_plan`."
            )
        if len(layer.scales) not in (0, group.groups * len(layer.kept)):
            raise PlanMismatchError(
                f"`plan` must hold one scale per kept component and group of {layer.name!r}, "
                f"{group.groups * len(layer.kept)}. Received: {len(layer.scales)} scales."
            )


def choose_groups(groups: Sequence[RankGroup], layers: Iterable[str] | None) -> list[RankGroup]:
    """Returns the groups that `decompose` is asked for; see its `layers`."""
    free = [group for group in groups if group.fixed is None]
    if layers is None:
        return free
    chosen: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        matched = {x.name: x for x in groups if fnmatch.fnmatchcase(x.name, pattern)}
        if not matched:
            raise ValueError(
                f"`layers` must name layers with a kernel. Received: {pattern!r}, which is none "
                f"of {[group.name for group in groups][:20]}."
            )
        if pattern in matched and matched[pattern].fixed is not None:
            raise ValueError(
                f"`layers` names {pattern!r}, which cannot be decomposed: "
                f"{matched[pattern].fixed}. Received: layers={layers!r}. Leave it out."
            )
        chosen |= matched.keys()
    return [group for group in free if group.name in chosen]


def to_matrix(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """A kernel as `(groups, kernel size * input channels, output channels)`, both per group."""
    if isinstance(layer, TRANSPOSED):
        kernel = np.swapaxes(kernel, -1, -2)
    groups = getattr(layer, "groups", 1)
    matrix = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    return matrix.transpose(1, 0, 2)


def to_kernel(layer: Any, matrix: np.ndarray) -> np.ndarray:
    """The kernel of a matrix, which may have fewer or more columns than the layer's."""
    groups, rows, columns = matrix.shape
    flat = matrix.transpose(1, 0, 2).reshape(rows, groups * columns)
    if isinstance(layer, keras.layers.Dense):
        return flat
    size = tuple(layer.kernel_size)
    kernel = flat.reshape(*size, rows // int(np.prod(size)), groups * columns)
    return np.swapaxes(kernel, -1, -2) if isinstance(layer, TRANSPOSED) else kernel


def leaf_calls(graph: Graph) -> list[Call]:
    """The first call of every layer and operation in a graph, nested graphs opened."""
    first: dict[int, Call] = {}
    for _, call, inner in graph.open():
        if inner is None:
            first.setdefault(id(call.operation), call)
    return list(first.values())


def output_layers(graph: Graph) -> set[int]:
    """Ids of the layers with a kernel that make the outputs: the head of a model."""
    makers = {id(x): call for call in graph.calls for x in call.outputs}
    found: set[int] = set()
    waiting, seen = list(graph.outputs), set()
    while waiting:
        call = makers.get(id(waiting.pop()))
        if call is None or id(call) in seen:
            continue
        seen.add(id(call))
        nested = graph.inside(call)
        inside = output_layers(nested) if nested is not None else set()
        if inside:
            found |= inside
        elif nested is None and _has_kernel(call.operation):
            found.add(id(call.operation))
        else:
            waiting += call.inputs
    return found


def _has_kernel(operation: Any) -> bool:
    is_layer = isinstance(operation, keras.layers.Layer)
    return is_layer and any(len(weight.shape) > 1 for weight in operation.weights)


def _rank_group(layer: Any, prefix: str, analysis: Analysis) -> RankGroup:
    name, kind = prefix + analysis.paths[id(layer)], type(layer).__name__
    reason = _reason(layer, analysis)
    if type(layer) not in _DECOMPOSABLE:
        return RankGroup(name, kind, 0, 0, 0, fixed=reason)
    shape = [int(size) for size in layer.kernel.shape]
    groups = getattr(layer, "groups", 1)
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
    if type(layer) not in _DECOMPOSABLE:
        return f"a {kind} is neither a convolution nor a dense layer of Keras"
    if isinstance(analysis.rules[id(layer)], Boundary):
        return "it is quantized or carries LoRA weights"
    return None
