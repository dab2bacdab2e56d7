"""Metrics against their definitions and scikit-image."""

import keras
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from spade_keras.metrics import PSNR, image_quality


def stacks(seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 2.0, (3, 20, 24))
    return truth, truth + rng.normal(scale=0.1, size=truth.shape)


def test_image_quality_equals_scikit_image():
    truth, image = stacks()
    quality = image_quality(truth, image)
    peak = truth.max()
    for i in range(3):
        assert quality.psnr_db[i] == pytest.approx(
            peak_signal_noise_ratio(truth[i], image[i], data_range=peak), abs=1e-5
        )
        assert quality.ssim[i] == pytest.approx(
            structural_similarity(truth[i], image[i], data_range=peak), abs=1e-5
        )
        assert quality.nmse[i] == pytest.approx(
            np.linalg.norm(truth[i] - image[i]) ** 2 / np.linalg.norm(truth[i]) ** 2
        )
    summary = quality.as_dict()
    assert summary["psnr_db"] == pytest.approx(quality.psnr_db.mean())
    assert summary["psnr_db_std"] == pytest.approx(quality.psnr_db.std())


def test_keras_metric_is_the_mean_over_magnitude_images():
    truth, image = stacks()
    angle = np.random.default_rng(1).uniform(0, 6, truth.shape)

    def channels(z, phase):
        return np.stack([z * np.cos(phase), z * np.sin(phase)], -1).astype("float32")

    metric = PSNR(data_range=2.0)
    metric.update_state(channels(truth[:2], angle[:2]), channels(image[:2], 0 * angle[:2]))
    metric.update_state(channels(truth[2:], angle[2:]), channels(image[2:], 0 * angle[2:]))
    expected = np.mean(
        [
            peak_signal_noise_ratio(t, abs(i), data_range=2.0)
            for t, i in zip(truth, image, strict=True)
        ]
    )
    assert float(metric.result()) == pytest.approx(expected, abs=1e-3)


def test_keras_metric_round_trips():
    metric = PSNR(data_range=3.0, name="quality")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert (again.data_range, again.name) == (3.0, "quality")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p: (t, p[:2]), "shape"),
        (lambda t, p: (t * np.nan, p), "finite"),
        (lambda t, p: (t * np.array([0, 1, 1])[:, None, None], p), "all-zero"),
    ],
)
def test_wrong_images(change, message):
    with pytest.raises(ValueError, match=message):
        image_quality(*change(*stacks()))


def test_wrong_range():
    with pytest.raises(ValueError, match="data_range=0"):
        PSNR(data_range=0)
