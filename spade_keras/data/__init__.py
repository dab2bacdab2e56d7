"""Data for reconstruction networks, as arrays and as `keras.utils.PyDataset`."""

from spade_keras.data.brain_template import load_brain_template
from spade_keras.data.masks import equispaced_mask
from spade_keras.data.multicoil_simulation import MulticoilSlices, simulate_multicoil
from spade_keras.data.slice_dataset import SliceDataset
from spade_keras.data.splits import SlabSplit, slab_split

__all__ = [
    "MulticoilSlices",
    "SlabSplit",
    "SliceDataset",
    "equispaced_mask",
    "load_brain_template",
    "simulate_multicoil",
    "slab_split",
]
