"""Random: the baseline every other importance has to beat."""

from __future__ import annotations

import zlib

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance
from spade_keras.pruning.weights import WeightTable


class Random(Importance):
    """Uniform numbers, the same for the same seed and group.

    Args:
        seed: Seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Draws one score per channel."""
        generator = np.random.default_rng([self.seed, zlib.crc32(group.name.encode())])
        return generator.uniform(size=(1, group.width))
