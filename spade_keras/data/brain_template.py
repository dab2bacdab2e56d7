"""The MNI152 T1 brain template that nilearn bundles."""

from __future__ import annotations

import numpy as np

from spade_keras.errors import MissingExtraError

FIRST_SLICE, LAST_SLICE = 24, 136
"""Axial slices, in voxels of 1 mm, that hold enough brain to learn from."""


def load_brain_template(height: int = 96, width: int = 96) -> np.ndarray:
    """Loads axial slices of the template at 2 mm in plane and 1 mm between slices.

    Pixels are means of 2x2 voxels; slices are cropped, or padded with zeros, around the center.
    The template is one average of many brains: smoother than any patient, and one subject only.

    Args:
        height: Rows (left to right).
        width: Columns (back to front); the direction that is undersampled.

    Returns:
        float32 array `(slices, height, width)` from bottom to top, scaled to a maximum of 1.

    Raises:
        MissingExtraError: If nilearn is not installed.

    Reference:
        Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", 2011.
    """
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise MissingExtraError("nilearn", "recipes") from error

    volume = np.asarray(load_mni152_template(resolution=1).dataobj, dtype="float32")
    volume = volume[: volume.shape[0] // 2 * 2, : volume.shape[1] // 2 * 2, FIRST_SLICE:LAST_SLICE]
    rows, columns, slices = volume.shape
    binned = volume.reshape(rows // 2, 2, columns // 2, 2, slices).mean(axis=(1, 3))
    stack = center_crop(np.moveaxis(binned, 2, 0), height, width)
    return np.ascontiguousarray(stack / stack.max())


def center_crop(stack: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops, or pads with zeros, the last two axes around the center."""
    for axis, size in ((-2, height), (-1, width)):
        excess = stack.shape[axis] - size
        before = abs(excess) // 2
        if excess >= 0:
            stack = np.take(stack, range(before, before + size), axis=axis)
        else:
            padding = [(0, 0)] * stack.ndim
            padding[axis] = (before, -excess - before)
            stack = np.pad(stack, padding)
    return stack
