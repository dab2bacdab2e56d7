"""Data bundled with installed packages, so that nothing is downloaded."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import ndimage

from spade_keras.data.images import open_images
from spade_keras.data.multicoil import center_crop
from spade_keras.errors import importing, require

PHOTOGRAPHS: dict[str, str] = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "hubble": "hubble_deep_field.jpg",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Photographs in scikit-image's wheel: name -> file."""

_FIRST_SLICE, _LAST_SLICE = 24, 136
"""Axial slices of the template, in voxels of 1 mm, that hold enough brain to learn from."""


def load_brain_template(height: int = 96, width: int = 96) -> np.ndarray:
    """Loads axial slices of the MNI152 T1 template, at 2 mm in plane and 1 mm between slices.

    Pixels are means of 2x2 voxels; slices are cropped, or padded with zeros, around the center.
    The template is one average of many brains: smoother than any patient, and one subject only.
    Returns a float32 array `(slices, height, width)` from bottom to top, rows from left to right,
    columns from back to front, scaled to a maximum of 1.

    Raises:
        MissingExtraError: If nilearn is not installed.

    Reference:
        Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", 2011.
    """
    with importing("nilearn", "recipes"):
        from nilearn.datasets import load_mni152_template

    volume = np.asarray(load_mni152_template(resolution=1).dataobj, dtype="float32")
    even = tuple(slice(size // 2 * 2) for size in volume.shape[:2])
    volume = volume[*even, _FIRST_SLICE:_LAST_SLICE]
    rows, columns, slices = volume.shape
    binned = volume.reshape(rows // 2, 2, columns // 2, 2, slices).mean(axis=(1, 3))
    stack = center_crop(np.moveaxis(binned, 2, 0), height, width)
    return np.ascontiguousarray(stack / stack.max())


def load_photographs(
    names: Iterable[str] | None = None, *, channels: int = 3
) -> dict[str, np.ndarray]:
    """Loads photographs that scikit-image bundles, by default all of `PHOTOGRAPHS`.

    They come as float32 images `(height, width, channels)` in [0, 1]; see `open_images`.

    Raises:
        MissingExtraError: If scikit-image is not installed.

    Example:
        >>> load_photographs(["cat"])["cat"].shape
        (300, 451, 3)
    """
    with importing("scikit-image", "recipes"):
        import skimage.data

    chosen = list(PHOTOGRAPHS if names is None else names)
    known = chosen and set(chosen) <= set(PHOTOGRAPHS)
    require(known, f"`names` must be some of {sorted(PHOTOGRAPHS)}.", names=chosen)
    folder = Path(skimage.data.__file__).parent
    images = open_images([folder / PHOTOGRAPHS[name] for name in chosen], channels=channels).images
    return dict(zip(chosen, images, strict=True))


def load_digits(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Loads scikit-learn's handwritten digits, enlarged from 8 x 8 pixels by cubic splines.

    Returns float32 images `(1797, size, size, 1)` in [0, 1] and int32 classes 0 to 9.

    Raises:
        MissingExtraError: If scikit-learn is not installed.

    Reference:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    with importing("scikit-learn", "recipes"):
        from sklearn import datasets

    digits = datasets.load_digits()
    images = digits.images.astype("float32") / 16
    factor = size / images.shape[1]
    enlarged = ndimage.zoom(images, (1, factor, factor), order=3, mode="nearest", grid_mode=True)
    return np.clip(enlarged, 0, 1)[..., None], digits.target.astype("int32")
