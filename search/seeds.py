"""Widths worth trying before a sampler has seen anything."""

from __future__ import annotations

from spade_keras.search.space import Configuration, SearchSpace

UNIFORM_RATIOS = (0.5, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9)


def uniform_seeds(space: SearchSpace) -> list[Configuration]:
    """All groups pruned by one ratio, for several ratios; then the narrowest network.

    The narrowest network comes last: it is the fastest there is, so a budget that even it misses
    is out of reach.

    Args:
        space: The widths allowed.

    Returns:
        Distinct configurations.
    """
    seeds = [space.uniform(ratio) for ratio in UNIFORM_RATIOS]
    seeds.append(space.narrowest)
    return [seed for index, seed in enumerate(seeds) if seed not in seeds[:index]]
