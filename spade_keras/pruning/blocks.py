"""Residual blocks: branches that may be left out, which makes the block the identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from spade_keras.errors import PlanMismatchError
from spade_keras.pruning.cost import macs_by_layer
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.branches import find_branches, keeps_weights, leave_out, parameters
from spade_keras.pruning.graph.partition import Read
from spade_keras.pruning.graph.trace import Graph
from spade_keras.pruning.parts import map_parts, own_names, parts_of, prefix_of
from spade_keras.pruning.plan import BlockStep, PruningPlan
from spade_keras.pruning.replay import replay


@dataclass(frozen=True)
class ResidualBlock:
    """A sum `x + f(x)` whose branch `f` may be left out.

    It is named after the path of the addition; from its second call on with the number of the
    call, as in `"sum:2"`, and in a network after the key of the prior, as in `"prior/sum"`. Its
    parameters are those of the branch that no other part of the model uses.
    """

    name: str
    layers: tuple[str, ...]
    parameters: int


def find_residual_blocks(model: Any) -> tuple[ResidualBlock, ...]:
    """Lists the residual blocks of a model, or of a network's priors, that can be left out.

    A block is an addition of two tensors of equal shape, `x` and `f(x)`, where `f` has weights,
    starts at `x` alone and is used by the addition alone. Blocks come in running order, inner
    ones before the one around them. Blocks that the model cannot do without are not listed: the
    global skip of a residual denoiser, whose removal leaves an output without weights before it,
    and the long skip around all other blocks of a model.

    Example:
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="stem")(inputs)
        >>> y = keras.layers.Dense(8, name="branch")(x)
        >>> outputs = keras.layers.Dense(2)(keras.layers.Add(name="sum")([x, y]))
        >>> find_residual_blocks(keras.Model(inputs, outputs))
        (ResidualBlock(name='sum', layers=('branch',), parameters=72),)
    """
    found = []
    for key, part in parts_of(model).items():
        graph, prefix = analyze(part).graph, prefix_of(key)
        for name, branch in find_branches(analyze(part)).items():
            layers = dict.fromkeys(prefix + path for path in branch.paths)
            gone = parameters(graph) - parameters(leave_out(graph, branch.skips))
            found.append(ResidualBlock(prefix + name, tuple(layers), gone))
    return tuple(found)


def drop_blocks(model: Any, names: Collection[str], *, inputs: Any = None) -> PruningPlan:
    """Plans a model in which each named residual block is the identity.

        x + f(x)  becomes  x

    Names are those of `find_residual_blocks`; with none, `rebuild` makes a copy. Inputs are as in
    `count_macs`.

    Raises:
        ValueError: Nothing with weights would be left before an output.

    Example:
        >>> from spade_keras.pruning import rebuild
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="stem")(inputs)
        >>> y = keras.layers.Dense(8, name="branch")(x)
        >>> outputs = keras.layers.Dense(2, name="head")(keras.layers.Add(name="sum")([x, y]))
        >>> model = keras.Model(inputs, outputs)
        >>> plan = drop_blocks(model, ["sum"])
        >>> plan.parameters_saved, [layer.name for layer in rebuild(model, plan).layers[1:]]
        (72, ['stem', 'head'])
    """
    known = _known(model)
    if isinstance(names, str) or not set(known).issuperset(names):
        raise ValueError(
            "`names` must be a list of residual blocks that can be left out. "
            f"Known ones: {known}. Received: names={names!r}"
        )
    dropped = tuple(name for name in known if name in set(names))
    layers = macs_by_layer(model, inputs)
    saved, macs = 0, None if layers is None else 0
    for key, part in parts_of(model).items():
        graph, left = analyze(part).graph, _left(part, dropped, key)
        saved += parameters(graph) - parameters(left)
        if layers is not None and macs is not None:
            macs = _add_macs(macs, graph, left, own_names(layers, key))
    return PruningPlan(model.name, (BlockStep(dropped, saved, macs),))


def check_blocks(model: Any, names: Sequence[str]) -> None:
    """Raises `PlanMismatchError` for blocks that the model lacks."""
    unknown = sorted(set(names) - set(_known(model)))
    if unknown:
        raise PlanMismatchError(
            f"`plan` was made for another model: this one has no residual blocks {unknown}. "
            f"Its blocks: {_known(model)}. Make the plan again with `drop_blocks`."
        )


def leave_out_blocks(model: Any, names: Sequence[str], read: Read) -> Any:
    """Builds the model without some blocks, with the weights' values from `read`."""

    def left(key: str, part: keras.Model) -> keras.Model:
        return replay(part, replace(analyze(part), graph=_left(part, names, key)), read=read)

    return map_parts(model, left)


def _known(model: Any) -> list[str]:
    """Names of the blocks that can be left out, in running order."""
    return [
        prefix_of(key) + name
        for key, part in parts_of(model).items()
        for name in find_branches(analyze(part))
    ]


def _left(part: keras.Model, dropped: Sequence[str], key: str) -> Graph:
    """The graph of a part without those of the blocks that are its own."""
    analysis = analyze(part)
    own = own_names(dict.fromkeys(dropped), key)
    branches = find_branches(analysis)
    skips = {k: skip for name in own for k, skip in branches[name].skips.items()}
    left = leave_out(analysis.graph, skips)
    if not keeps_weights(analysis.graph, left):
        raise ValueError(
            f"`names` must leave something with weights before every output of {part.name!r}. "
            f"Received: names={sorted(own)}. Leave out fewer blocks."
        )
    return left


def _add_macs(macs: int, graph: Graph, left: Graph, layers: Mapping[str, int]) -> int | None:
    """`macs` and those of the removed calls; None where a layer is called elsewhere too."""
    before, after = (
        Counter(path for path, _, inner in x.open() if inner is None) for x in (graph, left)
    )
    gone = before - after
    if any(count < before[path] and layers.get(path) for path, count in gone.items()):
        return None
    return macs + sum(layers.get(path, 0) for path in gone)
