"""Importances of basis components: which of them matter least to a layer and to the loss."""

from __future__ import annotations

import difflib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.basis.scaling import BasisScaling


class BasisImportance(ABC):
    """Scores the components of one layer; the least important of the whole network go first.

    Criteria that look at the norms of filters say nothing here: the filters of a basis layer
    are orthonormal, so all norms are 1.
    """

    needs_gradients: bool = False
    """Whether the gradients of the scaling factors must be recorded during training."""

    @abstractmethod
    def __call__(self, layer: BasisScaling, effects: np.ndarray | None) -> np.ndarray:
        """Scores the components of a layer.

        Args:
            layer: The scaling layer.
            effects: `(s dL/ds)^2` per factor, the mean over mini-batches; None where
                `needs_gradients` is false.

        Returns:
            Array of shape `(groups, rank)`; `BasisPruning` adds up the groups.
        """


class TaylorEffect(BasisImportance):
    """`mean over mini-batches of (s_i dL/ds_i)^2`: the first-order effect of a component.

    With `G = dL/dW` of the kernel that the pair stands for,

        dL/ds_i = sigma_i u_i^T G v_i

    The paper names the first-order Taylor expansion; the square and the mean over mini-batches
    are our choice.

    Reference:
        Wong, Kashyap, Moradi, arXiv 2108.02893.
    """

    needs_gradients = True

    def __call__(self, layer: BasisScaling, effects: np.ndarray | None) -> np.ndarray:
        """The recorded effects."""
        if effects is None:
            raise ValueError(
                f"`effects` must be recorded to score {layer.name!r}. Received: effects=None. "
                "Use 'sigma' outside of training."
            )
        return effects.reshape(layer.groups, -1)


class ScaledSingularValue(BasisImportance):
    """`(s_i sigma_i)^2 / sum over j of (s_j sigma_j)^2`: share of the kernel's energy.

    The share makes layers comparable; without data or labels.
    """

    def __call__(self, layer: BasisScaling, effects: np.ndarray | None) -> np.ndarray:
        """Shares of the components in their layer."""
        scale, sigma = (
            np.asarray(keras.ops.convert_to_numpy(v), np.float64)
            for v in (layer.scale, layer.singular_values)
        )
        energy = np.square(scale * sigma).reshape(layer.groups, -1)
        return energy / max(float(energy.sum()), np.finfo(np.float64).tiny)


class RandomScore(BasisImportance):
    """Uniform numbers, the same for the same seed and layer: the baseline to beat.

    Args:
        seed: Seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, layer: BasisScaling, effects: np.ndarray | None) -> np.ndarray:
        """Draws one score per component."""
        generator = np.random.default_rng([self.seed, zlib.crc32(layer.name.encode())])
        return np.tile(generator.uniform(size=layer.rank), (layer.groups, 1))


BASIS_IMPORTANCES: dict[str, Callable[..., BasisImportance]] = {
    "taylor": TaylorEffect,
    "sigma": ScaledSingularValue,
    "random": RandomScore,
}
"""The known importances of components by name; `register_basis_importance` adds to it."""


def get(name: str, **kwargs: Any) -> BasisImportance:
    """Makes the importance registered under a name.

    Args:
        name: One of `BASIS_IMPORTANCES`.
        **kwargs: Arguments of its constructor.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> get("random", seed=3).seed
        3
    """
    if name not in BASIS_IMPORTANCES:
        near = difflib.get_close_matches(str(name), BASIS_IMPORTANCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`importance` must be one of {sorted(BASIS_IMPORTANCES)}. "
            f"Received: importance={name!r}.{hint}"
        )
    return BASIS_IMPORTANCES[name](**kwargs)


def register_basis_importance(name: str, importance: Callable[..., BasisImportance]) -> None:
    """Makes an importance of components available by name.

    Args:
        name: The new name.
        importance: A class or function that makes a `BasisImportance`.

    Raises:
        ValueError: If the name is taken or `importance` is not callable.
    """
    if name in BASIS_IMPORTANCES:
        raise ValueError(
            f"`name` must not be one of the known {sorted(BASIS_IMPORTANCES)}. "
            f"Received: name={name!r}."
        )
    if not callable(importance):
        raise ValueError(
            "`importance` must be a class or function that makes a BasisImportance. "
            f"Received: importance={importance!r}."
        )
    BASIS_IMPORTANCES[name] = importance
