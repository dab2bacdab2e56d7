"""Data for networks, as arrays and as `keras.utils.PyDataset`."""

from collections.abc import Callable

import numpy as np

from spade_keras.data.array_files import load_nifti, load_stack
from spade_keras.data.brain_template import load_brain_template
from spade_keras.data.digits import load_digits
from spade_keras.data.espirit import espirit_maps
from spade_keras.data.fastmri import FastMRIData, open_fastmri
from spade_keras.data.fastmri_writing import FastMRILayout, write_fastmri_like
from spade_keras.data.image_files import ImageSet, open_images, read_image
from spade_keras.data.kernels import gaussian_kernel, load_kernels, motion_kernel
from spade_keras.data.kspace_file import MeasuredSlices, load_kspace
from spade_keras.data.labeled_arrays import load_labeled_arrays
from spade_keras.data.lazy_array import LazyArray
from spade_keras.data.mask_registry import MASKS, MaskFunction, get_mask
from spade_keras.data.masks import equispaced_mask, gaussian_mask, random_mask, true_acceleration
from spade_keras.data.multicoil_simulation import MulticoilSlices, simulate_multicoil
from spade_keras.data.photographs import PHOTOGRAPHS, load_photographs, random_patches
from spade_keras.data.poisson_disc import poisson_disc_mask
from spade_keras.data.slice_dataset import SliceDataset
from spade_keras.data.splits import (
    RandomSplit,
    SlabSplit,
    group_split,
    random_split,
    slab_split,
)
from spade_keras.data.super_resolution import (
    LowResolutionImages,
    modcrop,
    simulate_super_resolution,
)
from spade_keras.errors import BadFileError

LABELED_SOURCES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {"digits": load_digits}
"""Bundled samples with a class each, by name; each takes the side of its images."""

__all__ = [
    "LABELED_SOURCES",
    "MASKS",
    "PHOTOGRAPHS",
    "BadFileError",
    "FastMRIData",
    "FastMRILayout",
    "ImageSet",
    "LazyArray",
    "LowResolutionImages",
    "MaskFunction",
    "MeasuredSlices",
    "MulticoilSlices",
    "RandomSplit",
    "SlabSplit",
    "SliceDataset",
    "equispaced_mask",
    "espirit_maps",
    "gaussian_kernel",
    "gaussian_mask",
    "get_mask",
    "group_split",
    "load_brain_template",
    "load_digits",
    "load_kernels",
    "load_kspace",
    "load_labeled_arrays",
    "load_nifti",
    "load_photographs",
    "load_stack",
    "modcrop",
    "motion_kernel",
    "open_fastmri",
    "open_images",
    "poisson_disc_mask",
    "random_mask",
    "random_patches",
    "random_split",
    "read_image",
    "simulate_multicoil",
    "simulate_super_resolution",
    "slab_split",
    "true_acceleration",
    "write_fastmri_like",
]
