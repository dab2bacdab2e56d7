"""Accuracy and cross-entropy of logits and of probabilities."""

import numpy as np
import pytest

from spade_keras.metrics import are_probabilities, class_quality

pytestmark = pytest.mark.once

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [1.0, 1.5, 0.0]])
LABELS = np.array([0, 1, 1])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def test_logits_and_their_probabilities_score_alike():
    quality = class_quality(LABELS, LOGITS)
    expected = -np.log(softmax(LOGITS)[range(3), LABELS]).mean()
    assert quality.accuracy == pytest.approx(2 / 3)
    assert quality.cross_entropy == pytest.approx(expected)
    assert class_quality(LABELS, softmax(LOGITS)).cross_entropy == pytest.approx(expected)


def test_probabilities_are_told_from_logits():
    assert are_probabilities(softmax(LOGITS))
    assert are_probabilities(softmax(LOGITS).astype("float16"))
    assert not are_probabilities(LOGITS)
    assert not are_probabilities(softmax(LOGITS) + 0.01)
    assert not are_probabilities(np.array([[1.5, -0.5]]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], LOGITS, "labels of shape"),
        ([0, 1, 3], LOGITS, "from 0 to 2"),
        ([0.0, 1.0, 1.0], LOGITS, "must be integers"),
        ([-1, 1, 1], LOGITS, "from -1 to 1"),
        ([0, 1, 1], LOGITS * np.nan, "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        class_quality(np.array(labels), scores)
