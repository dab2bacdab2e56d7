"""The handwritten digits that scikit-learn bundles."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spade_keras.errors import MissingExtraError


def load_digits(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Loads 1797 digits, enlarged from 8 x 8 pixels by cubic splines.

    Args:
        size: Height and width.

    Returns:
        float32 images `(1797, size, size, 1)` in [0, 1] and int32 classes 0 to 9.

    Raises:
        MissingExtraError: If scikit-learn is not installed.

    Reference:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "recipes") from error

    digits = datasets.load_digits()
    images = digits.images.astype("float32") / 16
    factor = size / images.shape[1]
    enlarged = ndimage.zoom(images, (1, factor, factor), order=3, mode="nearest", grid_mode=True)
    return np.clip(enlarged, 0, 1)[..., None], digits.target.astype("int32")
