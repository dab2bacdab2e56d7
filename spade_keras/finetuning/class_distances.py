"""Distances between class scores, for tuning classifiers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def cross_entropy(y_true: Any, y_pred: Any, *, from_logits: bool = True) -> Any:
    """Mean of -log p(label): the `distance` of `Supervised` for classifiers.

    Args:
        y_true: Classes, integers `(batch,)`.
        y_pred: Class scores `(batch, classes)`.
        from_logits: Whether scores are logits; else probabilities.

    Returns:
        A scalar.
    """
    losses = keras.losses.sparse_categorical_crossentropy(
        y_true, ops.cast(y_pred, "float32"), from_logits=from_logits
    )
    return ops.mean(losses)


def divergence(
    y_true: Any, y_pred: Any, *, from_logits: bool = True, temperature: float = 2.0
) -> Any:
    """T^2 KL(softmax(y_true / T) || softmax(y_pred / T)): the `distance` of `School`.

    Args:
        y_true: Class scores of the teacher, `(batch, classes)`.
        y_pred: Class scores of the slim network.
        from_logits: Whether scores are logits; else probabilities.
        temperature: T. Above 1 unlikely classes count more, which carry the teacher's knowledge.

    Returns:
        A scalar, the mean over the batch.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    student = _log_softened(y_pred, from_logits, temperature)
    teacher = _log_softened(y_true, from_logits, temperature)
    terms = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * ops.mean(terms)


def _log_softened(scores: Any, from_logits: bool, temperature: float) -> Any:
    scores = ops.cast(scores, "float32")
    logits = scores if from_logits else ops.log(ops.maximum(scores, 1e-7))
    return ops.log_softmax(logits / temperature, axis=-1)
