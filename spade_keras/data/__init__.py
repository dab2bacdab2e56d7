"""Data for networks, as arrays and as `keras.utils.PyDataset`."""

from spade_keras.data.array_files import load_kspace, load_labeled_arrays, load_nifti, load_stack
from spade_keras.data.bundled import PHOTOGRAPHS, load_brain_template, load_digits, load_photographs
from spade_keras.data.espirit import espirit_maps
from spade_keras.data.fastmri import FastMRIData, open_fastmri
from spade_keras.data.fastmri_writing import FastMRILayout, write_fastmri_like
from spade_keras.data.images import ImageSet, open_images, random_patches, read_image
from spade_keras.data.masks import MaskFunction, get_mask, true_acceleration
from spade_keras.data.multicoil import simulate_multicoil
from spade_keras.data.reading import LazyArray
from spade_keras.data.slices import (
    MeasuredSlices,
    SliceDataset,
    Split,
    group_split,
    random_split,
    slab_split,
)
from spade_keras.data.super_resolution import (
    load_kernels,
    modcrop,
    motion_kernel,
    simulate_super_resolution,
)
from spade_keras.errors import BadFileError
from spade_keras.operators.blur import gaussian_kernel
from spade_keras.registry import LABELED_SOURCES, MASKS

__all__ = [
    "LABELED_SOURCES",
    "MASKS",
    "PHOTOGRAPHS",
    "BadFileError",
    "FastMRIData",
    "FastMRILayout",
    "ImageSet",
    "LazyArray",
    "MaskFunction",
    "MeasuredSlices",
    "SliceDataset",
    "Split",
    "espirit_maps",
    "gaussian_kernel",
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
    "random_patches",
    "random_split",
    "read_image",
    "simulate_multicoil",
    "simulate_super_resolution",
    "slab_split",
    "true_acceleration",
    "write_fastmri_like",
]
