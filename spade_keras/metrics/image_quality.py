"""PSNR, SSIM and NMSE of a stack of slices, for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spade_keras.errors import MissingExtraError

CONVENTION = (
    "magnitude images; per slice, then mean and standard deviation over slices; data range = "
    "maximum of the truth over all slices of the test slab; SSIM with a uniform 7x7 window; "
    "NMSE = ||error||^2 / ||truth||^2"
)
"""What the numbers of `image_quality` mean; to be printed with them."""


@dataclass(frozen=True)
class ImageQuality:
    """Quality of every slice, arrays of shape `(slices,)`.

    Attributes:
        psnr_db: Peak signal-to-noise ratio in dB.
        ssim: Structural similarity.
        nmse: Normalized mean squared error.
    """

    psnr_db: np.ndarray
    ssim: np.ndarray
    nmse: np.ndarray

    def as_dict(self) -> dict[str, float]:
        """Returns mean and standard deviation (`_std`) of each over the slices."""
        values = {"psnr_db": self.psnr_db, "ssim": self.ssim, "nmse": self.nmse}
        means = {name: float(np.mean(v)) for name, v in values.items()}
        return means | {f"{name}_std": float(np.std(v)) for name, v in values.items()}


def image_quality(truth: np.ndarray, prediction: np.ndarray) -> ImageQuality:
    """Compares magnitude images slice by slice; see `CONVENTION`.

    Args:
        truth: Magnitudes, `(slices, height, width)`.
        prediction: The same shape.

    Returns:
        An `ImageQuality`.

    Raises:
        ValueError: If shapes differ, the truth is zero or anything is not finite.
        MissingExtraError: If scikit-image is not installed.

    Reference:
        The data range and the SSIM window are those of Zbontar et al., "fastMRI: an open dataset
        and benchmarks for accelerated MRI", 2018; there PSNR and NMSE are taken per volume.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtraError("scikit-image", "recipes") from error

    truth = np.asarray(truth, "float64")
    prediction = np.asarray(prediction, "float64")
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(
            "`truth` and `prediction` must both have the shape (slices, height, width). "
            f"Received: shapes {truth.shape} and {prediction.shape}"
        )
    if not (np.isfinite(truth).all() and np.isfinite(prediction).all()):
        raise ValueError("`truth` and `prediction` must be finite. Received: NaN or infinity")
    data_range = truth.max()
    energy = np.sum(truth**2, axis=(1, 2))
    if not energy.min() > 0:
        raise ValueError("Every slice of `truth` must hold a signal. Received: an all-zero slice")
    squared = (truth - prediction) ** 2
    with np.errstate(divide="ignore"):  # a perfect slice has an infinite PSNR
        psnr = 10 * np.log10(data_range**2 / squared.mean(axis=(1, 2)))
    ssim = np.array(
        [
            structural_similarity(t, p, data_range=data_range, win_size=7)
            for t, p in zip(truth, prediction, strict=True)
        ]
    )
    return ImageQuality(psnr, ssim, squared.sum(axis=(1, 2)) / energy)
