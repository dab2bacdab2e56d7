"""PSNR, SSIM and NMSE of predictions under a named convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spade_keras.errors import MissingExtraError
from spade_keras.metrics.conventions import LUMA_WEIGHTS, Convention, get_convention


@dataclass(frozen=True)
class Quality:
    """Quality of every image, or of every volume, under one convention.

    Attributes:
        convention: Its name.
        psnr_db: Peak signal-to-noise ratio in dB.
        ssim: Structural similarity.
        nmse: Normalized mean squared error.
    """

    convention: str
    psnr_db: np.ndarray
    ssim: np.ndarray
    nmse: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Returns the convention, and mean and standard deviation (`_std`) of each number."""
        values = {"psnr_db": self.psnr_db, "ssim": self.ssim, "nmse": self.nmse}
        means = {name: float(np.mean(v)) for name, v in values.items()}
        spreads = {f"{name}_std": float(np.std(v)) for name, v in values.items()}
        return {"convention": self.convention, **means, **spreads}

    def __str__(self) -> str:
        numbers = self.as_dict()
        return (
            f"PSNR {numbers['psnr_db']:.2f} dB, SSIM {numbers['ssim']:.4f}, NMSE "
            f"{numbers['nmse']:.4f} (convention {self.convention}, mean of {len(self.psnr_db)})"
        )


def evaluate(
    truth: Sequence[np.ndarray],
    prediction: Sequence[np.ndarray],
    *,
    convention: str,
    volumes: Sequence[int] | None = None,
    data_range: float = 1.0,
    border: int = 0,
) -> Quality:
    """Compares images under a named convention; see `CONVENTIONS`.

    Args:
        truth: Images `(height, width)` or `(height, width, channels)`, as one array or as a list
            of arrays of different sizes. Two channels are real and imaginary part.
        prediction: The same.
        convention: A key of `CONVENTIONS`.
        volumes: For `fastmri`, the volume of every slice; None: all are of one.
        data_range: For `image`, the largest possible value.
        border: Pixels to cut off every side; for `sr_y` the scale (or its square, as USRNet's
            authors do).

    Returns:
        A `Quality`.

    Raises:
        ValueError: If images do not fit together, a true one is zero, anything is not finite, or
            an argument is unknown.
        MissingExtraError: If scikit-image is not installed.

    Example:
        >>> truth = np.random.default_rng(0).uniform(size=(3, 16, 16))
        >>> print(evaluate(truth, truth + 0.1, convention="image").as_dict()["convention"])
        image

    Reference:
        Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", 2018.
    """
    rules = get_convention(convention)
    if len(truth) != len(prediction) or not len(truth):
        raise ValueError(
            "`truth` and `prediction` must hold as many images, and at least one. "
            f"Received: {len(truth)} and {len(prediction)}"
        )
    if not data_range > 0 or border < 0:
        raise ValueError(
            "`data_range` must be positive and `border` at least 0. "
            f"Received: data_range={data_range}, border={border}"
        )
    groups = _groups(rules, len(truth), volumes)
    numbers = [_compare(rules, truth, prediction, group, data_range, border) for group in groups]
    psnr, ssim, nmse = np.array(numbers).T
    return Quality(convention, psnr, ssim, nmse)


def _groups(rules: Convention, count: int, volumes: Sequence[int] | None) -> list[np.ndarray]:
    """Positions of the images that give one number."""
    if not rules.per_volume:
        if volumes is not None:
            raise ValueError(
                f"`volumes` belongs to the convention 'fastmri'. Received: volumes with "
                f"convention={rules.name!r}"
            )
        return [np.array([i]) for i in range(count)]
    index = np.zeros(count, int) if volumes is None else np.asarray(volumes)
    if index.shape != (count,):
        raise ValueError(f"`volumes` must have the shape ({count},). Received: shape {index.shape}")
    return [np.flatnonzero(index == volume) for volume in np.unique(index)]


def _compare(
    rules: Convention,
    truth: Sequence[np.ndarray],
    prediction: Sequence[np.ndarray],
    group: np.ndarray,
    data_range: float,
    border: int,
) -> tuple[float, float, float]:
    pairs = [_prepare(rules, truth[int(i)], prediction[int(i)], border) for i in group]
    if rules.per_volume:
        peak = max(float(t.max()) for t, _ in pairs)
    else:
        peak = 255.0 if rules.luma else data_range
    error = sum(float(np.sum((t - p) ** 2)) for t, p in pairs)
    energy = sum(float(np.sum(t**2)) for t, _ in pairs)
    if not energy > 0 or not peak > 0:
        raise ValueError("Every true image must hold a signal. Received: only zeros")
    mean = error / sum(t.size for t, _ in pairs)
    with np.errstate(divide="ignore"):  # a perfect image has an infinite PSNR
        psnr = 10 * np.log10(np.float64(peak) ** 2 / mean)
    ssim = float(np.mean([_ssim(rules, t, p, peak) for t, p in pairs]))
    return float(psnr), ssim, error / energy


def _prepare(
    rules: Convention, truth: np.ndarray, prediction: np.ndarray, border: int
) -> tuple[np.ndarray, np.ndarray]:
    t, p = _real(truth), _real(prediction)
    if rules.per_volume and t.ndim == p.ndim == 3:
        top, left = ((a - b) // 2 for a, b in zip(p.shape[:2], t.shape[:2], strict=True))
        p = p[max(top, 0) :, max(left, 0) :][: t.shape[0], : t.shape[1]]
    if t.ndim != 3 or t.shape != p.shape:
        raise ValueError(
            "Every pair of images must have one shape (height, width) or "
            "(height, width, channels). "
            f"Received: shapes {np.shape(truth)} and {np.shape(prediction)}"
        )
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("`truth` and `prediction` must be finite. Received: NaN or infinity")
    if rules.luma:
        t, p = _luma(t), _luma(p)
    if border:
        t, p = (image[border:-border, border:-border] for image in (t, p))
    side = 11 if rules.window == "gaussian" else 7
    if min(t.shape[:2]) < side:
        raise ValueError(
            f"Images must have at least {side} x {side} pixels inside of the border. "
            f"Received: {t.shape[:2]}"
        )
    return t, p


def _real(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if np.iscomplexobj(image):
        image = np.abs(image)
    image = image.astype("float64")
    if image.ndim == 3 and image.shape[-1] == 2:
        image = np.linalg.norm(image, axis=-1)
    return image[..., None] if image.ndim == 2 else image


def _luma(image: np.ndarray) -> np.ndarray:
    # In float32, as images come, so that halves round as they do in `fit`.
    levels = np.round(np.clip(image.astype("float32"), 0, 1) * np.float32(255)).astype("float64")
    if image.shape[-1] != 3:
        return levels
    return 16 + (levels @ np.array(LUMA_WEIGHTS) / 255)[..., None]


def _ssim(rules: Convention, truth: np.ndarray, prediction: np.ndarray, peak: float) -> float:
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtraError("scikit-image", "recipes") from error

    window: dict[str, Any] = {"win_size": 7}
    if rules.window == "gaussian":
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(
        structural_similarity(truth, prediction, data_range=peak, channel_axis=-1, **window)
    )
