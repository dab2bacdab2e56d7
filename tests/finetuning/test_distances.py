"""Distances between class scores, against NumPy."""

import numpy as np
import pytest
from keras import ops

from spade_keras.finetuning import cross_entropy, divergence

rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.standard_normal((2, 5, 4)).astype("float32") * 3
LABELS = np.array([0, 3, 1, 1, 2])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def number(value):
    return float(ops.convert_to_numpy(value))


def test_cross_entropy_of_logits_and_probabilities():
    expected = -np.log(softmax(STUDENT)[range(5), LABELS]).mean()
    assert number(cross_entropy(LABELS, STUDENT)) == pytest.approx(expected, rel=1e-5)
    probabilities = cross_entropy(LABELS, softmax(STUDENT), from_logits=False)
    assert number(probabilities) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_is_that_of_the_softened_scores(temperature):
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=-1).mean()
    given = divergence(TEACHER, STUDENT, temperature=temperature)
    assert number(given) == pytest.approx(expected, rel=1e-4)
    given = divergence(
        softmax(TEACHER), softmax(STUDENT), from_logits=False, temperature=temperature
    )
    assert number(given) == pytest.approx(expected, rel=1e-4)
    assert number(divergence(TEACHER, TEACHER + 5)) == pytest.approx(0, abs=1e-5)
