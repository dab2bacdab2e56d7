"""Distances between class scores, for tuning classifiers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def cross_entropy(prediction: Any, labels: Any, *, from_logits: bool = True) -> Any:
    """Mean of -log p(label): the `distance` of `Supervised` for classifiers.

    Args:
        prediction: Class scores `(batch, classes)`.
        labels: Classes, integers `(batch,)`.
        from_logits: Whether scores are logits; else probabilities.

    Returns:
        A scalar.
    """
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, ops.cast(prediction, "float32"), from_logits=from_logits
    )
    return ops.mean(losses)


def divergence(
    prediction: Any, lesson: Any, *, from_logits: bool = True, temperature: float = 2.0
) -> Any:
    """T^2 KL(softmax(lesson / T) || softmax(prediction / T)): the `distance` of `School`.

    Args:
        prediction: Class scores of the slim network, `(batch, classes)`.
        lesson: Class scores of the teacher.
        from_logits: Whether scores are logits; else probabilities.
        temperature: T. Above 1 the unlikely classes count more, in which a teacher's knowledge is.

    Returns:
        A scalar, the mean over the batch.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    student = _log_softened(prediction, from_logits, temperature)
    teacher = _log_softened(lesson, from_logits, temperature)
    terms = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * ops.mean(terms)


def _log_softened(scores: Any, from_logits: bool, temperature: float) -> Any:
    scores = ops.cast(scores, "float32")
    logits = scores if from_logits else ops.log(ops.maximum(scores, 1e-7))
    return ops.log_softmax(logits / temperature, axis=-1)
