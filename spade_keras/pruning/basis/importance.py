"""Importances of basis components, for a layer or for the loss."""
# ruff: noqa: D102

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod

import numpy as np
from keras import ops

from spade_keras.pruning.basis.scaling import Pair


class BasisImportance(ABC):
    """Scores the components of one layer; the least important of the whole network go first.

    Criteria that look at the norms of filters say nothing here: the filters of a basis layer
    are orthonormal, so all norms are 1.
    """

    needs_gradients: bool = False
    """Whether the gradients of the scaling factors must be recorded during training."""

    @abstractmethod
    def __call__(self, pair: Pair, effects: np.ndarray | None) -> np.ndarray:
        """Scores of shape `(groups, rank)`; `BasisPruning` adds up the groups.

        `effects` are `(s dL/ds)^2` per factor, the mean over mini-batches; None where
        `needs_gradients` is false.
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

    def __call__(self, pair: Pair, effects: np.ndarray | None) -> np.ndarray:
        if effects is None:
            raise ValueError(
                f"`effects` must be recorded to score {pair.name!r}. Received: effects=None. "
                "Use 'sigma' outside of training."
            )
        return effects.reshape(pair.scaling.groups, -1)


class EffectPerParameter(TaylorEffect):
    """The Taylor effect of a component divided by the parameters that it costs.

    The goal is few parameters, not few components: in a network that doubles its width, a
    component of a late layer costs a hundred times one of the first layer.
    """

    def __call__(self, pair: Pair, effects: np.ndarray | None) -> np.ndarray:
        sizes = np.prod(pair.basis.kernel.shape) + np.prod(pair.scaling.directions.shape)
        return super().__call__(pair, effects) * pair.scaling.rank / sizes


class ScaledSingularValue(BasisImportance):
    """`(s_i sigma_i)^2 / sum over j of (s_j sigma_j)^2`: share of the kernel's energy.

    The share makes layers comparable; without data or labels.
    """

    def __call__(self, pair: Pair, effects: np.ndarray | None) -> np.ndarray:
        scale, sigma = (
            np.asarray(ops.convert_to_numpy(v), np.float64)
            for v in (pair.scaling.scale, pair.scaling.singular_values)
        )
        energy = np.square(scale * sigma).reshape(pair.scaling.groups, -1)
        return energy / max(float(energy.sum()), np.finfo(np.float64).tiny)


class RandomScore(BasisImportance):
    """Uniform numbers, the same for the same seed and layer: the baseline to beat."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, pair: Pair, effects: np.ndarray | None) -> np.ndarray:
        generator = np.random.default_rng([self.seed, zlib.crc32(pair.scaling.name.encode())])
        return np.tile(generator.uniform(size=pair.scaling.rank), (pair.scaling.groups, 1))
