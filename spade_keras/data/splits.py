"""Splits of one volume into slabs."""

from __future__ import annotations

from dataclasses import dataclass


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
