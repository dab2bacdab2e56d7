"""From layers to pairs: an orthonormal basis layer and the scaling of its components."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.basis.rank_groups import (
    RankGroup,
    choose_groups,
    find_rank_groups,
    leaf_calls,
    output_layers,
    to_kernel,
    to_matrix,
)
from spade_keras.pruning.basis.scaling import BASIS_SUFFIX, BasisScaling, find_pairs
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.partition import Read
from spade_keras.pruning.graph.trace import Chain
from spade_keras.pruning.parts import map_parts, own_names, parts_of, prefix_of
from spade_keras.pruning.replay import replay
from spade_keras.pruning.rules.rule import unbuilt_config

TRAINABLE = ("head", "norms")
_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.UnitNormalization,
    keras.layers.RMSNormalization,
)
# U, sigma and V^T, of shapes (groups, rows, rank), (groups, rank) and (groups, rank, columns).
_Factors = tuple[np.ndarray, np.ndarray, np.ndarray]
# Smaller singular values are rounding errors of a kernel stored in single precision.
_ROUNDING = 1e-7
# From this size on, the few largest triples are found by Lanczos iteration, not by all of them.
_LARGE = 512


def decompose(
    model: Any,
    layers: Iterable[str] | None = None,
    *,
    max_rank: int | Mapping[str, int] | None = None,
    trainable: Collection[str] = (),
) -> Any:
    """Replaces layers by pairs whose second layer has one scaling factor per basis vector.

        W = U diag(sigma) V^T,    W x  ->  (diag(s) diag(sigma) V^T) (U x),    s = 1

    The first layer of a pair is the stock convolution or dense layer with kernel `U`, without
    bias, with the original stride, padding and dilation; the second a
    `BasisScaling` under the original name, with the original bias and activation. The new
    model computes what the original computes; of its weights only the factors train, so
    regularizers and constraints of kernels and biases are dropped. With `groups`, component `i`
    is the `i`-th of every group. A shared layer becomes one shared pair.

    Args:
        model: A built Keras model, or a network with `priors`; it stays as it is.
        layers: Paths of the layers to decompose, wildcards allowed. None: every layer that can
            be, except the head if it is trained; `find_rank_groups` lists the layers that cannot
            be, and why.
        max_rank: Components per layer at most, for all layers or by path; the outputs are then
            those of the best approximation of that rank. Large dense layers are much faster
            with it.
        trainable: Weights that train besides the factors: `"head"`, the layers that make the
            outputs, which are then not decomposed unless named in `layers`; `"norms"`, scales,
            offsets and moving statistics of norms.

    Returns:
        A model of the kind that `rebuild` makes, or the network with decomposed priors, whose own
        weights train as before.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="a")])
        >>> low = decompose(model)
        >>> [layer.name for layer in low.layers], [v.name for v in low.trainable_variables]
        (['a_basis', 'a'], ['scale'])

    Reference:
        Wong, Kashyap, Moradi, arXiv 2108.02893.
    """
    unknown = sorted(set(trainable) - set(TRAINABLE))
    if isinstance(trainable, str) or unknown:
        raise ValueError(
            f"`trainable` must be a list out of {list(TRAINABLE)}. Received: trainable="
            f"{trainable!r}."
        )
    groups = find_rank_groups(model)
    kept_whole = _heads(model) if "head" in trainable and layers is None else set()
    chosen = [group for group in choose_groups(groups, layers) if group.name not in kept_whole]
    if not chosen:
        reasons = {group.name: group.fixed for group in groups if group.fixed is not None}
        raise ValueError(
            f"`model` must have a layer that can be decomposed. Received: model={model.name!r}, "
            f"whose layers cannot be: {reasons}."
        )
    return decompose_layers(model, _ranks(chosen, max_rank), trainable)


def decompose_layers(
    model: Any,
    ranks: Mapping[str, int],
    trainable: Collection[str] = (),
    read: Read = keras.ops.convert_to_numpy,
) -> Any:
    """`decompose` by the number of components of every layer, the weights' values from `read`."""
    return map_parts(
        model, lambda key, part: _decompose(part, own_names(ranks, key), trainable, read)
    )


def _heads(model: Any) -> set[str]:
    return {
        prefix_of(key) + analyze(part).paths[layer]
        for key, part in parts_of(model).items()
        for layer in output_layers(analyze(part).graph)
    }


def _ranks(groups: Sequence[RankGroup], max_rank: int | Mapping[str, int] | None) -> dict[str, int]:
    """Components to compute per layer."""
    names = [group.name for group in groups]
    given = max_rank if isinstance(max_rank, Mapping) else dict.fromkeys(names, max_rank)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(
            f"`max_rank` must name layers that are decomposed. Received: {unknown}, which are "
            f"none of {names[:20]}."
        )
    ranks = {}
    for group in groups:
        limit = given.get(group.name)
        if limit is not None and (not isinstance(limit, int | np.integer) or limit < 1):
            raise ValueError(
                "`max_rank` must be an integer of at least 1. "
                f"Received: max_rank={limit!r} for layer {group.name!r}."
            )
        ranks[group.name] = group.rank if limit is None else min(int(limit), group.rank)
    return ranks


def _decompose(
    model: keras.Model, ranks: Mapping[str, int], trainable: Collection[str], read: Read
) -> keras.Model:
    """`decompose_layers` of one part."""
    if find_pairs(model):
        raise ValueError(
            "`model` must not be decomposed already. Received: "
            f"model={model.name!r} with {len(find_pairs(model))} basis scaling layers. Fold them "
            "with `merge` first."
        )
    analysis = analyze(model)
    swaps: dict[int, Chain] = {}
    factors: list[tuple[Any, Chain, _Factors]] = []
    for call in leaf_calls(analysis.graph):
        layer, path = call.operation, analysis.paths[id(call.operation)]
        if path in ranks:
            found = _factorize(layer, ranks[path], path, read)
            swaps[id(layer)] = _pair(layer, found[1].shape[1])
            factors.append((layer, swaps[id(layer)], found))
    made = replay(model, analysis, swaps=swaps, read=read)
    for layer, chain, (left, values, right) in factors:
        basis, scaling = chain.layers
        basis.kernel.assign(to_kernel(layer, left))
        scaling.singular_values.assign(values.reshape(-1))
        scaling.directions.assign(right.reshape(-1, right.shape[-1]))
        if layer.use_bias:
            scaling.bias.assign(read(layer.bias))
    _set_trainable(made, trainable)
    return made


def _factorize(layer: Any, rank: int, path: str, read: Read) -> _Factors:
    """The first `rank` singular triples of every group, without those that are rounding errors."""
    matrix = to_matrix(layer, np.asarray(read(layer.kernel), np.float64))
    if not np.isfinite(matrix).all():
        raise ValueError(
            "`model` must have finite kernels. Received: NaN or infinite values in the kernel of "
            f"{path!r}. Train the model again from a state without them."
        )
    if not matrix.any():
        raise ValueError(
            "`model` must not have kernels that are zero, which have no basis. Received: only "
            f"zeros in the kernel of {path!r}. Train it first, or leave it out of `layers`."
        )
    smaller = min(matrix.shape[1:])
    if smaller >= _LARGE and rank <= smaller // 4:
        triples = [_largest_triples(block, rank) for block in matrix]
        left, values, right = (np.stack(parts) for parts in zip(*triples, strict=True))
    else:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
    largest = values.max(axis=0)
    rank = min(rank, max(1, int((largest > _ROUNDING * largest[0]).sum())))
    return left[:, :, :rank], values[:, :rank], right[:, :rank]


def _largest_triples(block: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.sparse.linalg import svds

    # The start vector is fixed, so that the same kernel always gives the same factors.
    start = np.random.default_rng(0).normal(size=min(block.shape))
    left, values, right = svds(block, k=rank, v0=start)
    order = np.argsort(values)[::-1]
    return left[:, order], values[order], right[order]


def _pair(layer: Any, rank: int) -> Chain:
    """The two layers that stand for one, unbuilt."""
    config = unbuilt_config(layer.get_config())
    groups = getattr(layer, "groups", 1)
    width = "units" if "units" in config else "filters"
    # A component has no activation, bias or penalty of its own: these stay behind both layers.
    penalties = [x for x in config if x.endswith(("_regularizer", "_constraint"))]
    del config["activation"]
    basis = {
        **config,
        **dict.fromkeys(penalties),
        "name": layer.name + BASIS_SUFFIX,
        width: rank * groups,
        "use_bias": False,
        "trainable": False,
    }
    second = BasisScaling(
        getattr(layer, width),
        groups=groups,
        activation=layer.activation,
        use_bias=layer.use_bias,
        data_format=getattr(layer, "data_format", "channels_last"),
        name=layer.name,
        dtype=layer.dtype_policy,
        activity_regularizer=layer.activity_regularizer,
    )
    return Chain([type(layer).from_config(basis), second])


def _set_trainable(model: Any, trainable: Collection[str]) -> None:
    """Freezes all but the scaling factors and the weights asked for."""
    heads = output_layers(analyze(model).graph) if "head" in trainable else set()
    leaves = []
    # A container must be trainable for its layers to train; setting it spreads to all of them.
    for layer in model._flatten_layers():
        if list(layer._flatten_layers(include_self=False, recursive=False)):
            layer.trainable = True
            for variable in layer._trainable_variables:
                variable.trainable = False
        else:
            leaves.append(layer)
    for layer in leaves:
        free = isinstance(layer, BasisScaling) or id(layer) in heads
        layer.trainable = free or ("norms" in trainable and isinstance(layer, _NORMS))
