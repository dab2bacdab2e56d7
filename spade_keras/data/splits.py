"""Splits: slabs of one volume, samples at random, or groups of samples at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SlabSplit:
    """Ranges of slices, disjoint, with a gap between neighbors.

    Attributes:
        train: Slices to train on.
        validation: Slices to select by.
        test: Slices to report on.
    """

    train: slice
    validation: slice
    test: slice


def slab_split(slices: int, *, validation: int, test: int, gap: int) -> SlabSplit:
    """Puts the validation slab at the bottom, the test slab at the top, training between.

    A slab split is not a subject split: it shows that a network generalizes along one brain.

    Args:
        slices: Number of slices of the volume.
        validation: Slices of the validation slab.
        test: Slices of the test slab.
        gap: Slices left out on either side of the training slab.

    Returns:
        A `SlabSplit`.

    Raises:
        ValueError: If no slice is left to train on.

    Example:
        >>> slab_split(20, validation=4, test=3, gap=2).train
        slice(6, 15, None)
    """
    train = slice(validation + gap, slices - test - gap)
    if min(validation, test) < 1 or gap < 0 or train.start >= train.stop:
        raise ValueError(
            f"Validation and test slabs need at least 1 slice each, the gap at least 0, and "
            f"{slices} slices must leave some to train on. Received: validation={validation}, "
            f"test={test}, gap={gap}"
        )
    return SlabSplit(train, slice(0, validation), slice(slices - test, slices))


@dataclass(frozen=True)
class RandomSplit:
    """Indices of samples, disjoint.

    Attributes:
        train: Samples to train on.
        validation: Samples to select by.
        test: Samples to report on.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_split(samples: int, *, validation: int, test: int, seed: int = 0) -> RandomSplit:
    """Draws the validation and test samples at random; the rest is to train on.

    Args:
        samples: Number of samples.
        validation: Samples to select by.
        test: Samples to report on.
        seed: Of the draw.

    Returns:
        A `RandomSplit`, each part in ascending order.

    Raises:
        ValueError: If no sample is left to train on.

    Example:
        >>> [len(part) for part in vars(random_split(10, validation=2, test=3)).values()]
        [5, 2, 3]
    """
    if min(validation, test) < 1 or validation + test >= samples:
        raise ValueError(
            f"Validation and test need at least 1 sample each, and {samples} samples must leave "
            f"some to train on. Received: validation={validation}, test={test}"
        )
    order = np.random.default_rng(seed).permutation(samples)
    parts = np.split(order, [samples - validation - test, samples - test])
    return RandomSplit(*(np.sort(part) for part in parts))


def group_split(groups: Sequence[str], *, validation: int, test: int, seed: int = 0) -> RandomSplit:
    """Draws whole groups at random, such as all volumes of a patient.

    Args:
        groups: The group of every sample.
        validation: Groups to select by.
        test: Groups to report on.
        seed: Of the draw; the order of the samples does not matter.

    Returns:
        A `RandomSplit` of samples, each part in ascending order.

    Raises:
        ValueError: If no group is left to train on.

    Example:
        >>> split = group_split(["a", "a", "b", "c"], validation=1, test=1)
        >>> sum(len(part) for part in vars(split).values())
        4
    """
    names, members = np.unique(np.asarray(groups, str), return_inverse=True)
    parts = random_split(len(names), validation=validation, test=test, seed=seed)
    chosen = (parts.train, parts.validation, parts.test)
    return RandomSplit(*(np.flatnonzero(np.isin(members, part)) for part in chosen))
