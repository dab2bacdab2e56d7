"""Scores of images and of classifiers under a named convention, from NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from scipy.special import log_softmax

from spade_keras.metrics.conventions import Convention, get_convention
from spade_keras.metrics.image_metrics import check_settings, comparable, mean_squares, similarity

_FORMATS = {
    "psnr_db": "PSNR {:.2f} dB",
    "ssim": "SSIM {:.4f}",
    "nmse": "NMSE {:.4f}",
    "accuracy": "accuracy {:.4f}",
    "cross_entropy": "cross-entropy {:.4f}",
}


@dataclass(frozen=True)
class Scores:
    """Scores under one convention: one value per image or volume, or one over all samples."""

    convention: str
    values: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the values of a score."""
        return self.values[name]

    def as_dict(self) -> dict[str, Any]:
        """Returns the convention, the mean of each score, and its spread as `<score>_std`."""
        means = {name: float(np.mean(v)) for name, v in self.values.items()}
        spreads = {f"{n}_std": float(np.std(v)) for n, v in self.values.items() if np.ndim(v)}
        return {"convention": self.convention, **means, **spreads}

    def __str__(self) -> str:
        numbers = self.as_dict()
        said = ", ".join(_FORMATS[name].format(numbers[name]) for name in self.values)
        count = max(np.size(v) for v in self.values.values())
        return f"{said} (convention {self.convention}, mean of {count})"


def evaluate(
    y_true: Sequence[np.ndarray],
    y_pred: Sequence[np.ndarray],
    *,
    convention: str,
    volumes: Sequence[int] | None = None,
    data_range: float = 1.0,
    border: int = 0,
) -> Scores:
    """Compares images under a named convention; see `CONVENTIONS`.

    Args:
        y_true: Images `(height, width)` or `(height, width, channels)`, as one array or as a list
            of arrays of different sizes. Two channels are real and imaginary part.
        y_pred: The same.
        convention: A key of `CONVENTIONS`.
        volumes: For `fastmri`, the volume of every slice; None: all are of one.
        data_range: For `image`, the largest possible value.
        border: Pixels to cut off every side; for `sr_y` the scale (or its square, as USRNet's
            authors do).

    Returns:
        "psnr_db", "ssim" and "nmse" per image or volume.

    Example:
        >>> truth = np.random.default_rng(0).uniform(size=(3, 16, 16))
        >>> print(evaluate(truth, truth + 0.1, convention="image").as_dict()["convention"])
        image

    Reference:
        Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", 2018.
    """
    rules = get_convention(convention)
    if len(y_true) != len(y_pred) or not len(y_true):
        raise ValueError(
            "`y_true` and `y_pred` must hold the same number of images, at least one. "
            f"Received: {len(y_true)} and {len(y_pred)}"
        )
    check_settings(data_range, border)
    groups = _groups(rules, len(y_true), volumes)
    pairs = [_pair(rules, t, p, border) for t, p in zip(y_true, y_pred, strict=True)]
    numbers = [_compare(rules, [pairs[i] for i in group], data_range) for group in groups]
    psnr, ssim, nmse = np.array(numbers).T
    return Scores(convention, {"psnr_db": psnr, "ssim": ssim, "nmse": nmse})


def image_quality(y_true: np.ndarray, y_pred: np.ndarray) -> Scores:
    """Compares the slices of one slab; see `SLAB_CONVENTION`.

    Both are magnitudes `(slices, height, width)` of at least 7 x 7 pixels. Gives "psnr_db", "ssim"
    and "nmse" per slice.

    Reference:
        The data range and the SSIM window are those of Zbontar et al., "fastMRI: an open dataset
        and benchmarks for accelerated MRI", 2018; there PSNR and NMSE are taken per volume.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape or y_true.ndim != 3:
        raise ValueError(
            "`y_true` and `y_pred` must both have the shape (slices, height, width). "
            f"Received: shapes {y_true.shape} and {y_pred.shape}"
        )
    top = float(y_true.max())
    # Without a signal there is no range either; `evaluate` says which of its checks that fails.
    found = evaluate([*y_true], [*y_pred], convention="image", data_range=top if top > 0 else 1.0)
    return Scores("slab", found.values)


def class_quality(y_true: np.ndarray, y_pred: np.ndarray) -> Scores:
    """Compares class scores with the true classes; see `CLASS_CONVENTION`.

    `y_true` are integers `(samples,)`, `y_pred` logits or probabilities `(samples, classes)`. Gives
    "accuracy" and "cross_entropy" over all samples.

    Example:
        >>> print(class_quality(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))["accuracy"])
        0.5
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred, "float64")
    if y_pred.ndim != 2 or y_true.shape != y_pred.shape[:1]:
        raise ValueError(
            "`y_pred` must have the shape (samples, classes) and `y_true` (samples,). "
            f"Received: y_pred of shape {y_pred.shape}, y_true of shape {y_true.shape}"
        )
    if not np.isfinite(y_pred).all():
        raise ValueError("`y_pred` must be finite. Received: NaN or infinity")
    if not (np.issubdtype(y_true.dtype, np.integer) and y_true.min() >= 0) or (
        y_true.max() >= y_pred.shape[1]
    ):
        raise ValueError(
            f"`y_true` must be integers from 0 to {y_pred.shape[1] - 1}. "
            f"Received: {y_true.dtype} from {y_true.min()} to {y_true.max()}"
        )
    if are_probabilities(y_pred):
        logs = np.log(np.maximum(y_pred, 1e-12))
    else:
        logs = log_softmax(y_pred, axis=-1)
    accuracy = np.mean(y_pred.argmax(axis=-1) == y_true)
    cross_entropy = -np.mean(logs[np.arange(len(y_true)), y_true])
    return Scores("classes", {"accuracy": accuracy, "cross_entropy": cross_entropy})


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether every row of `(samples, classes)` is >= 0 and sums to 1, as precise as float16 is."""
    scores = np.asarray(scores, "float64")
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1, atol=2e-3))


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


def _pair(
    rules: Convention, y_true: np.ndarray, y_pred: np.ndarray, border: int
) -> tuple[Any, Any]:
    """Checks two images; returns them as the convention compares them, as batches of one."""
    t, p = _real(y_true), _real(y_pred)
    larger = t.ndim == p.ndim == 3 and all(np.array(p.shape) >= t.shape) and rules.per_volume
    if t.ndim != 3 or (t.shape != p.shape and not (larger and t.shape[-1] == p.shape[-1])):
        raise ValueError(
            "Every pair of images must have one shape (height, width) or "
            "(height, width, channels). "
            f"Received: shapes {np.shape(y_true)} and {np.shape(y_pred)}"
        )
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("`y_true` and `y_pred` must be finite. Received: NaN or infinity")
    x, y = comparable(t[None], p[None], rules, border)
    side = 11 if rules.window == "gaussian" else 7
    if min(x.shape[1:3]) < side:
        raise ValueError(
            f"Images must have at least {side} x {side} pixels inside of the border. "
            f"Received: {tuple(x.shape[1:3])}"
        )
    return x, y


def _real(image: Any) -> np.ndarray:
    """Magnitudes of complex images, and one channel where none is given."""
    image = np.asarray(image)
    if np.iscomplexobj(image):
        image = np.abs(image)
    if image.ndim == 3 and image.shape[-1] == 2:
        image = np.linalg.norm(image.astype("float64"), axis=-1)
    return image[..., None] if image.ndim == 2 else image


def _compare(
    rules: Convention, pairs: Sequence[tuple[Any, Any]], data_range: float
) -> tuple[float, float, float]:
    """PSNR, SSIM and NMSE of one image, or of the slices of one volume."""
    if rules.per_volume:
        peak = max(float(ops.max(x)) for x, _ in pairs)
    else:
        peak = 255.0 if rules.luma else data_range
    scaled = [(x / (peak or 1.0), y / (peak or 1.0)) for x, y in pairs]
    squares = [[float(mean[0]) for mean in mean_squares(x, y)] for x, y in scaled]
    error, energy = np.average(squares, axis=0, weights=[np.prod(x.shape) for x, _ in pairs])
    if not energy > 0 or not peak > 0:
        raise ValueError("Every true image must hold a signal. Received: only zeros")
    with np.errstate(divide="ignore"):  # a perfect image has an infinite PSNR
        psnr = -10 * np.log10(error)
    ssim = np.mean([float(similarity(x, y, rules.window)[0]) for x, y in scaled])
    return float(psnr), float(ssim), float(error / energy)
