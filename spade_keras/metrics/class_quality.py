"""Accuracy and cross-entropy of a classifier's outputs, for evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import log_softmax

CLASS_CONVENTION = (
    "accuracy: share of test samples whose largest score is that of their class; cross-entropy: "
    "mean of -ln p(class), in nats"
)
"""What the numbers of `class_quality` mean; to be printed with them."""


@dataclass(frozen=True)
class ClassQuality:
    """Quality over all samples.

    Attributes:
        accuracy: Share of samples whose largest score is that of their class.
        cross_entropy: Mean of -ln p(class).
    """

    accuracy: float
    cross_entropy: float

    def as_dict(self) -> dict[str, float]:
        """Returns both as plain JSON values."""
        return asdict(self)


def class_quality(labels: np.ndarray, scores: np.ndarray) -> ClassQuality:
    """Compares class scores with the true classes; see `CLASS_CONVENTION`.

    Args:
        labels: Classes, integers `(samples,)`.
        scores: Logits or probabilities `(samples, classes)`; see `are_probabilities`.

    Returns:
        A `ClassQuality`.

    Raises:
        ValueError: If the shapes do not fit together, a label is no class, or a score not finite.

    Example:
        >>> import numpy as np
        >>> class_quality(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])).accuracy
        0.5
    """
    labels, scores = np.asarray(labels), np.asarray(scores, "float64")
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            "`scores` must have the shape (samples, classes) and `labels` (samples,). "
            f"Received: scores of shape {scores.shape}, labels of shape {labels.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite. Received: NaN or infinity")
    if not (np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0) or (
        labels.max() >= scores.shape[1]
    ):
        raise ValueError(
            f"`labels` must be integers from 0 to {scores.shape[1] - 1}. "
            f"Received: {labels.dtype} from {labels.min()} to {labels.max()}"
        )
    if are_probabilities(scores):
        logs = np.log(np.maximum(scores, 1e-12))
    else:
        logs = log_softmax(scores, axis=-1)
    rows = np.arange(len(labels))
    return ClassQuality(
        accuracy=float(np.mean(scores.argmax(axis=-1) == labels)),
        cross_entropy=float(-np.mean(logs[rows, labels])),
    )


def are_probabilities(scores: np.ndarray) -> bool:
    """Returns whether every row is non-negative and sums to 1, within float16's precision.

    Args:
        scores: `(samples, classes)`.
    """
    scores = np.asarray(scores, "float64")
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=-1), 1, atol=2e-3))
