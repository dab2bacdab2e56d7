"""Blur kernels, and low-resolution images: circular blur, decimation and noise."""

import numpy as np
import pytest
from scipy import io

from spade_keras import data


def moments(kernel):
    """Center, and variances along rows and columns and their covariance."""
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]]
    cy, cx = (kernel * y).sum(), (kernel * x).sum()
    return (cy, cx), np.array(
        [
            [(kernel * (y - cy) ** 2).sum(), (kernel * (y - cy) * (x - cx)).sum()],
            [(kernel * (y - cy) * (x - cx)).sum(), (kernel * (x - cx) ** 2).sum()],
        ]
    )


@pytest.mark.parametrize("size", [25, 24])
def test_gaussian_has_its_moments(size):
    kernel = data.gaussian_kernel(1.6, size=size)
    center, covariance = moments(kernel)
    assert kernel.shape == (size, size)
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert center == pytest.approx((size // 2, size // 2), abs=1e-4)
    np.testing.assert_allclose(covariance, 1.6**2 * np.eye(2), atol=1e-3)


def test_anisotropic_gaussian_is_turned():
    angle = np.deg2rad(30)
    _, covariance = moments(data.gaussian_kernel((3.0, 1.0), 30))
    axis = np.array([np.sin(angle), np.cos(angle)])  # (row, column)
    across = np.array([np.cos(angle), -np.sin(angle)])
    assert axis @ covariance @ axis == pytest.approx(9, rel=0.01)
    assert across @ covariance @ across == pytest.approx(1, rel=0.01)
    assert axis @ covariance @ across == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_motion_kernels(seed):
    kernel = data.motion_kernel(seed)
    assert kernel.shape == (25, 25)
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert kernel.min() >= 0
    center, covariance = moments(kernel)
    assert np.abs(np.array(center) - 12).max() < 5
    assert np.linalg.eigvalsh(covariance)[1] > 2  # it moves
    assert (kernel > 1e-3).mean() < 0.3  # along a path
    np.testing.assert_array_equal(kernel, data.motion_kernel(seed))
    assert np.abs(kernel - data.motion_kernel(seed + 1)).max() > 1e-2
    # Longer than the kernel is wide: shrunk to fit, so that nothing is cut off.
    long = data.motion_kernel(seed, length=500, size=15)
    assert long.sum() == pytest.approx(1, abs=1e-6)


def test_no_motion_is_a_point():
    center, covariance = moments(data.motion_kernel(0, length=0, size=7))
    assert center == pytest.approx((3, 3), abs=1e-5)
    assert covariance.trace() < 0.6


def twelve():
    return np.stack([data.motion_kernel(seed) for seed in range(12)])


@pytest.mark.parametrize("suffix", ["mat", "npy", "npz"])
def test_twelve_kernels_of_a_file(tmp_path, suffix):
    kernels = twelve()
    file = tmp_path / f"kernels.{suffix}"
    if suffix == "mat":
        cells = np.empty((1, 12), object)
        for i, kernel in enumerate(kernels):
            cells[0, i] = kernel
        io.savemat(file, {"kernels": cells})
    elif suffix == "npy":
        np.save(file, kernels)
    else:
        np.savez(file, kernels=kernels)
    read = data.load_kernels(file)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, kernels)


def test_one_kernel(tmp_path):
    np.save(tmp_path / "one.npy", data.gaussian_kernel(1.0).astype("float64"))
    assert data.load_kernels(tmp_path / "one.npy").shape == (1, 25, 25)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (twelve() * 2, "of sum 1 .*sums from 2 to 2"),
        (twelve() - 1e-3, "at least 0"),
        (twelve() * np.nan, "finite"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, 5, 5)), r"shape \(0, 5, 5\)"),
    ],
)
def test_wrong_kernels(tmp_path, kernels, message):
    np.savez(tmp_path / "some.npz", kernels=kernels)
    with pytest.raises(data.BadFileError, match=rf"some\.npz`: `kernels` must be .*{message}"):
        data.load_kernels(tmp_path / "some.npz")
    with pytest.raises(data.BadFileError, match=r"`k` must be an array .*\['kernels'\]"):
        data.load_kernels(tmp_path / "some.npz", key="k")


def test_kernels_of_several_sizes(tmp_path):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = data.gaussian_kernel(1.0, size=5), data.gaussian_kernel(1.0, size=7)
    io.savemat(tmp_path / "some.mat", {"kernels": cells})
    with pytest.raises(data.BadFileError, match="of one size"):
        data.load_kernels(tmp_path / "some.mat")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.gaussian_kernel((1, 0)), "std"),
        (lambda: data.gaussian_kernel(1.0, size=0), "size=0"),
        (lambda: data.motion_kernel(0, length=-1), "length=-1"),
        (lambda: data.motion_kernel(0, size=4), "size=4"),
    ],
)
def test_wrong_kernel_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
    np.testing.assert_array_equal(low.targets, data.modcrop(images(), scale).astype("float32"))
    for x, y, kernel in zip(
        low.targets, low.inputs["measurements"], low.inputs["kernel"], strict=True
    ):
        assert (kernels == kernel).all((1, 2)).sum() == 1
        np.testing.assert_allclose(y, blurred(x, kernel)[::scale, ::scale], atol=2e-6)
    assert not low.inputs["noise_level"].any()


def test_every_image_meets_every_kernel():
    kernels = np.stack([data.gaussian_kernel(std, size=7) for std in (0.7, 1.2, 2.0)])
    low = data.simulate_super_resolution(images(6), kernels, 3, every_kernel=True)
    assert low.inputs["measurements"].shape == (18, 8, 10, 3)
    np.testing.assert_array_equal(low.inputs["kernel"], np.tile(kernels, (6, 1, 1)))
    np.testing.assert_array_equal(low.targets[::3], low.targets[2::3])
    expected = blurred(low.targets[10], kernels[1])[::3, ::3]
    np.testing.assert_allclose(low.inputs["measurements"][10], expected, atol=2e-6)


def test_noise_has_the_stated_size_and_is_seeded():
    kernels = data.gaussian_kernel(1.0, size=5)[None]
    arguments = (images(4, 60, 60), kernels, 2)
    clean = data.simulate_super_resolution(*arguments)
    noisy = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=5)
    assert noisy.inputs["noise_level"].shape == (4, 1, 1, 1)
    assert 0.01 <= noisy.inputs["noise_level"].min() < noisy.inputs["noise_level"].max() <= 0.1
    noise = noisy.inputs["measurements"] - clean.inputs["measurements"]
    np.testing.assert_allclose(noise.std((1, 2, 3)), noisy.inputs["noise_level"].ravel(), rtol=0.06)
    again = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=5)
    np.testing.assert_array_equal(again.inputs["measurements"], noisy.inputs["measurements"])
    other = data.simulate_super_resolution(*arguments, noise_std=(0.01, 0.1), seed=6)
    assert np.abs(other.inputs["measurements"] - noisy.inputs["measurements"]).max() > 0.01
    fixed = data.simulate_super_resolution(*arguments, noise_std=0.03)
    np.testing.assert_allclose(fixed.inputs["noise_level"], 0.03, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 4, 3))}, "images, height, width, channels"),
        ({"kernels": np.ones((3, 3))}, r"kernels_shape=\(3, 3\)"),
        ({"kernels": np.ones((1, 31, 31))}, "at least as large as the kernels"),
        ({"images": np.zeros((0, 30, 30, 3))}, "at least as large"),
        ({"scale": 0}, "scale=0"),
        ({"noise_std": -0.1}, "noise_std=-0.1"),
        ({"noise_std": (0.2, 0.1)}, "noise_std"),
    ],
)
def test_wrong_degradations(change, message):
    arguments = {"images": images(), "kernels": np.ones((1, 3, 3)) / 9, "scale": 2} | change
    with pytest.raises(ValueError, match=message):
        data.simulate_super_resolution(**arguments)
