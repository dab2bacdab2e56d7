"""The pairs of a decomposed model: which basis layer feeds which scaling layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from spade_keras.errors import NotDecomposedError
from spade_keras.pruning.basis.factors import to_matrix
from spade_keras.pruning.basis.scaling import BasisScaling
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import Graph
from spade_keras.pruning.parts import is_network

BASIS_SUFFIX = "_basis"


@dataclass(frozen=True)
class Pair:
    """One decomposed layer.

    Args:
        name: Path of the layer that was decomposed, now of the scaling layer.
        basis: The layer with the orthonormal kernel.
        scaling: The layer with the factors.
        basis_path: Path of the basis layer.
    """

    name: str
    basis: Any
    scaling: BasisScaling
    basis_path: str

    def basis_matrix(self) -> np.ndarray:
        """`U` of every group, shape `(groups, rows, rank)`."""
        kernel = np.asarray(keras.ops.convert_to_numpy(self.basis.kernel)).astype(np.float64)
        return to_matrix(self.basis, kernel)


def find_pairs(model: Any) -> tuple[Pair, ...]:
    """The pairs of a decomposed model in running order, shared ones once; none if it is not.

    Args:
        model: A model made by `decompose`, or loaded from its file, or one that holds it.

    Raises:
        ValueError: A scaling layer does not follow its basis layer.
    """
    if is_network(model):
        return tuple(
            replace(pair, name=f"{key}/{pair.name}", basis_path=f"{key}/{pair.basis_path}")
            for key, prior in model.priors.items()
            for pair in find_pairs(prior)
        )
    analysis = analyze(model)
    pairs: dict[int, Pair] = {}
    _collect(analysis.graph, analysis.paths, pairs)
    return tuple(pairs.values())


def check_pairs(model: Any) -> tuple[Pair, ...]:
    """`find_pairs` for a model that must have some.

    Raises:
        NotDecomposedError: It has none.
    """
    parts = model.priors.values() if is_network(model) else [model]
    found = any(isinstance(x, BasisScaling) for part in parts for x in part._flatten_layers())
    pairs = find_pairs(model) if found else ()
    if not pairs:
        raise NotDecomposedError(
            "`model` must be decomposed. Received: "
            f"model={getattr(model, 'name', model)!r}, which has no basis scaling layer. Pass "
            "`decompose(model)`."
        )
    return pairs


def _collect(graph: Graph, paths: dict[int, str], pairs: dict[int, Pair]) -> None:
    makers = {id(x): call.operation for call in graph.calls for x in call.outputs}
    for call in graph.calls:
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            _collect(nested, paths, pairs)
        elif isinstance(call.operation, BasisScaling) and id(call.operation) not in pairs:
            basis, path = makers.get(id(call.inputs[0])), paths[id(call.operation)]
            if getattr(basis, "kernel", None) is None:
                raise ValueError(
                    f"Every scaling layer must follow its basis layer. Received: {path!r}, which "
                    f"follows {getattr(basis, 'name', 'an input of the model')!r}."
                )
            key = id(call.operation)
            pairs[key] = Pair(path, basis, call.operation, paths[id(basis)])
