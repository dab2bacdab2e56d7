"""Data for networks, as arrays and as `keras.utils.PyDataset`."""

from collections.abc import Callable

import numpy as np

from spade_keras.data.brain_template import load_brain_template
from spade_keras.data.digits import load_digits
from spade_keras.data.labeled_arrays import load_labeled_arrays
from spade_keras.data.masks import equispaced_mask
from spade_keras.data.multicoil_simulation import MulticoilSlices, simulate_multicoil
from spade_keras.data.slice_dataset import SliceDataset
from spade_keras.data.splits import RandomSplit, SlabSplit, random_split, slab_split

LABELED_SOURCES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {"digits": load_digits}
"""Bundled samples with a class each, by name; each takes the side of its images."""

__all__ = [
    "LABELED_SOURCES",
    "MulticoilSlices",
    "RandomSplit",
    "SlabSplit",
    "SliceDataset",
    "equispaced_mask",
    "load_brain_template",
    "load_digits",
    "load_labeled_arrays",
    "random_split",
    "simulate_multicoil",
    "slab_split",
]
