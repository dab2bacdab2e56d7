"""Residual blocks: branches that may be left out, so that the block is the identity."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import keras

from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.branches import (
    Branch,
    find_branches,
    keeps_weights,
    leave_out,
    parameters,
)
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.rebuild import replay


@dataclass(frozen=True)
class ResidualBlock:
    """A sum `x + f(x)` whose branch `f` may be left out.

    Args:
        name: Path of the addition; from its second call on with the number of the call, as in
            `"sum:2"`, and in a network after the key of the prior, as in `"prior/sum"`.
        layers: Paths of the layers and operations that make up the branch, nested models
            opened, in running order.
        parameters: Parameters that go with the branch: those no other part of the model uses.
    """

    name: str
    layers: tuple[str, ...]
    parameters: int


def find_residual_blocks(model: Any) -> tuple[ResidualBlock, ...]:
    """The residual blocks of a model that `drop_blocks` can leave out.

    A block is an addition of two tensors of equal shape, `x` and `f(x)`, where `f` has weights,
    starts at `x` alone and is used by the addition alone. Blocks inside blocks are listed too.
    Left out of the list is a block without which the model would be no network any more: the
    global skip of a residual denoiser, whose removal leaves an output without weights before
    it, and the long skip around all the other blocks of a model.

    Args:
        model: A built Keras model, or a network with `priors`: then the blocks of every prior.

    Returns:
        The blocks in running order, inner ones before the one around them.

    Raises:
        TraceError: The graph of the model cannot be read; the message says why.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import find_residual_blocks
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="stem")(inputs)
        >>> y = keras.layers.Dense(8, name="branch")(x)
        >>> outputs = keras.layers.Dense(2)(keras.layers.Add(name="sum")([x, y]))
        >>> find_residual_blocks(keras.Model(inputs, outputs))
        (ResidualBlock(name='sum', layers=('branch',), parameters=72),)
    """
    if is_network(model):
        return tuple(
            replace(
                block,
                name=f"{key}/{block.name}",
                layers=tuple(f"{key}/{layer}" for layer in block.layers),
            )
            for key, prior in model.priors.items()
            for block in find_residual_blocks(prior)
        )
    graph = analyze(model).graph
    size = parameters(graph)
    return tuple(
        ResidualBlock(
            name,
            tuple(dict.fromkeys(branch.paths)),
            size - parameters(leave_out(graph, branch.skips)),
        )
        for name, branch in _branches(model).items()
    )


def drop_blocks(model: Any, names: Sequence[str]) -> Any:
    """A model in which each named residual block is the identity; the original stays as it is.

        x + f(x)  becomes  x

    Args:
        model: A built Keras model, or a network with `priors`.
        names: Names that `find_residual_blocks` gives; none gives a copy.

    Returns:
        A model of the kind that `rebuild` makes, with copied weights: the layers of the
        branches are gone. For a network, the network with such priors.

    Raises:
        ValueError: There is no such block, or without all of these together nothing with
            weights would be left before an output.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import drop_blocks
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="stem")(inputs)
        >>> y = keras.layers.Dense(8, name="branch")(x)
        >>> outputs = keras.layers.Dense(2, name="head")(keras.layers.Add(name="sum")([x, y]))
        >>> model = drop_blocks(keras.Model(inputs, outputs), ["sum"])
        >>> [layer.name for layer in model.layers[1:]]
        ['stem', 'head']
    """
    chosen = _checked(model, names)
    if not is_network(model):
        return _without(model, chosen)
    return model.with_priors(
        {
            key: _without(
                prior, {n.removeprefix(f"{key}/") for n in chosen if n.startswith(f"{key}/")}
            )
            for key, prior in model.priors.items()
        }
    )


def _checked(model: Any, names: Sequence[str]) -> frozenset[str]:
    if is_network(model):
        known = [f"{key}/{x}" for key, prior in model.priors.items() for x in _branches(prior)]
    else:
        known = list(_branches(model))
    if isinstance(names, str) or not set(known).issuperset(names):
        raise ValueError(
            "`names` must be a list of residual blocks that can be left out. "
            f"Known ones: {known}. Received: names={names!r}"
        )
    return frozenset(names)


def _branches(model: keras.Model) -> dict[str, Branch]:
    return find_branches(analyze(model))


def _without(model: keras.Model, names: Set[str]) -> keras.Model:
    analysis = analyze(model)
    branches = find_branches(analysis)
    left = leave_out(
        analysis.graph, {key: x for name in names for key, x in branches[name].skips.items()}
    )
    if not keeps_weights(analysis.graph, left):
        raise ValueError(
            f"`names` must leave something with weights before every output of {model.name!r}. "
            f"Received: names={sorted(names)}. Leave out fewer blocks."
        )
    return replay(model, replace(analysis, graph=left))
