"""Simulated multi-coil acquisition."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data.multicoil import center_crop, coil_sensitivities
from spade_keras.operators import CartesianMRI


def phantom(slices=3, size=24):
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.stack([(x**2 + y**2 < 0.5 + 0.1 * i) * 1.0 for i in range(slices)]).astype("float32")


def test_simulation_is_the_forward_model_plus_noise_of_the_stated_size():
    slices = data.simulate_multicoil(phantom(), noise_std=0.02, seed=3)
    operator = CartesianMRI()
    clean = np.asarray(operator.forward(slices.targets, **operator.parameters(slices.inputs)))
    noise = (slices.inputs["measurements"] - clean)[
        np.broadcast_to(slices.inputs["mask"][:, None, ..., None] > 0, clean.shape)
    ]
    assert noise.std() == pytest.approx(0.02, rel=0.05)
    assert not slices.inputs["measurements"][
        np.broadcast_to(slices.inputs["mask"][:, None, ..., None] == 0, clean.shape)
    ].any()
    np.testing.assert_allclose(np.linalg.norm(slices.targets, axis=-1), phantom(), atol=1e-6)
    assert slices.true_acceleration == pytest.approx(
        slices.inputs["mask"].size / slices.inputs["mask"].sum()
    )


def test_coils_differ_and_sum_to_one():
    maps = coil_sensitivities(4, 20, 24, np.random.default_rng(0))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    gram = np.abs(np.einsum("ahw,bhw->ab", maps, maps.conj()))
    assert np.linalg.cond(gram) < 100
    assert np.abs(np.diff(maps, axis=-1)).max() < 0.3  # smooth


def test_simulation_is_seeded():
    first, again, other = (data.simulate_multicoil(phantom(), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.inputs["measurements"], again.inputs["measurements"])
    assert np.abs(first.inputs["measurements"] - other.inputs["measurements"]).max() > 0.1


def test_saves_and_loads(tmp_path):
    slices = data.simulate_multicoil(phantom())
    slices.save(tmp_path / "slices.npz")
    loaded = data.MeasuredSlices.load(tmp_path / "slices.npz")
    assert (
        sorted(loaded.inputs) == sorted(slices.inputs) == ["mask", "measurements", "sensitivities"]
    )
    for name, array in slices.inputs.items():
        np.testing.assert_array_equal(loaded.inputs[name], array)
    np.testing.assert_array_equal(loaded.targets, slices.targets)
    data.MeasuredSlices(slices.inputs).save(tmp_path / "unknown.npz")
    assert data.MeasuredSlices.load(tmp_path / "unknown.npz").targets is None


def test_center_crop_and_pad():
    stack = np.arange(24).reshape(1, 4, 6)
    assert center_crop(stack, 2, 2).tolist() == [[[8, 9], [14, 15]]]
    padded = center_crop(stack, 6, 7)
    assert padded.shape == (1, 6, 7)
    np.testing.assert_array_equal(padded[:, 1:5, :6], stack)
