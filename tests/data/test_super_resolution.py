"""Low-resolution images are circular blur, decimation and noise of the stated size."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data.super_resolution import modcrop


def images(count=3, height=25, width=30, channels=3):
    return np.random.default_rng(0).uniform(size=(count, height, width, channels))


def blurred(image, kernel):
    """(k * x)[n] = sum_m k[m + c] x[n - m], circular, with c = size // 2."""
    total = np.zeros(image.shape)
    center_y, center_x = (size // 2 for size in kernel.shape)
    for (y, x), weight in np.ndenumerate(kernel):
        total += weight * np.roll(image, (y - center_y, x - center_x), axis=(0, 1))
    return total


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_measurements_are_blurred_and_decimated(scale):
    kernels = np.stack([data.motion_kernel(seed, length=6, size=9) for seed in range(3)])
    low = data.simulate_super_resolution(images(), kernels, scale, seed=1)
    assert sorted(low.inputs) == ["kernel", "measurements", "noise_level"]
    assert len(low) == 3
    np.testing.assert_array_equal(low.truth, modcrop(images(), scale).astype("float32"))
    for x, y, kernel in zip(low.truth, low.measurements, low.kernel, strict=True):
        assert (kernels == kernel).all((1, 2)).sum() == 1
        np.testing.assert_allclose(y, blurred(x, kernel)[::scale, ::scale], atol=2e-6)
    assert not low.noise_level.any()


def test_every_image_meets_every_kernel():
    kernels = np.stack([data.gaussian_kernel(std, size=7) for std in (0.7, 1.2, 2.0)])
    low = data.simulate_super_resolution(images(6), kernels, 3, every_kernel=True)
    assert low.measurements.shape == (18, 8, 10, 3)
    np.testing.assert_array_equal(low.kernel, np.tile(kernels, (6, 1, 1)))
    np.testing.assert_array_equal(low.truth[::3], low.truth[2::3])
    expected = blurred(low.truth[10], kernels[1])[::3, ::3]
    np.testing.assert_allclose(low.measurements[10], expected, atol=2e-6)


def test_noise_has_the_stated_size_and_is_seeded():
    kernels = data.gaussian_kernel(1.0, size=5)[None]
    arguments = (images(4, 60, 60), kernels, 2)
    clean = data.simulate_super_resolution(*arguments)
    noisy = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=5)
    assert noisy.noise_level.shape == (4, 1, 1, 1)
    assert 0.01 <= noisy.noise_level.min() < noisy.noise_level.max() <= 0.1
    noise = noisy.measurements - clean.measurements
    np.testing.assert_allclose(noise.std((1, 2, 3)), noisy.noise_level.ravel(), rtol=0.06)
    again = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=5)
    np.testing.assert_array_equal(again.measurements, noisy.measurements)
    other = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=6)
    assert np.abs(other.measurements - noisy.measurements).max() > 0.01
    fixed = data.simulate_super_resolution(*arguments, noise_std=0.03)
    np.testing.assert_allclose(fixed.noise_level, 0.03, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 4, 3))}, "images, height, width, channels"),
        ({"kernels": np.ones((3, 3))}, r"kernels of shape \(3, 3\)"),
        ({"kernels": np.ones((1, 31, 31))}, "at least as large as the kernels"),
        ({"images": np.zeros((0, 30, 30, 3))}, "at least as large"),
        ({"scale": 0}, "scale=0"),
        ({"noise_std": -0.1}, "noise_std=-0.1"),
        ({"noise_std": (0.2, 0.1)}, "noise_std"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"images": images(), "kernels": np.ones((1, 3, 3)) / 9, "scale": 2} | change
    with pytest.raises(ValueError, match=message):
        data.simulate_super_resolution(**arguments)
