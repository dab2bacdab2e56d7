"""Masks, slabs, simulation and batches."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data.brain_template import center_crop
from spade_keras.data.multicoil_simulation import coil_sensitivities
from spade_keras.operators import CartesianMRI


def phantom(slices=3, size=24):
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.stack([(x**2 + y**2 < 0.5 + 0.1 * i) * 1.0 for i in range(slices)]).astype("float32")


def test_mask_has_the_spacing_and_the_center():
    mask = data.equispaced_mask(96, 4, 8, offset=1)
    assert mask[1::4].all()
    assert mask[44:52].all()
    assert mask.sum() == 24 + 8 - 2  # two of the central eight are on the grid
    outside = np.delete(mask, np.r_[44:52])
    assert outside.sum() == 22


def test_mask_center_holds_the_zero_frequency_of_odd_widths():
    assert data.equispaced_mask(9, 9, 1).tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "name"), [((8, 0, 2), "acceleration"), ((8, 4, 9), "acs_lines")]
)
def test_wrong_mask(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be from"):
        data.equispaced_mask(*arguments)
    with pytest.raises(ValueError, match="`offset`"):
        data.equispaced_mask(8, 4, 2, offset=4)


def test_slabs_are_disjoint_with_gaps():
    split = data.slab_split(50, validation=6, test=7, gap=3)
    indices = np.arange(50)
    validation, train, test = (indices[s] for s in (split.validation, split.train, split.test))
    assert (len(validation), len(test), len(train)) == (6, 7, 31)
    assert train[0] - validation[-1] == 4
    assert test[0] - train[-1] == 4
    with pytest.raises(ValueError, match="leave some to train on"):
        data.slab_split(12, validation=4, test=4, gap=2)


def test_simulation_is_the_forward_model_plus_noise_of_the_stated_size():
    slices = data.simulate_multicoil(phantom(), noise_std=0.02, seed=3)
    operator = CartesianMRI()
    clean = np.asarray(operator.forward(slices.truth, **operator.parameters(slices.inputs)))
    noise = (slices.measurements - clean)[
        np.broadcast_to(slices.mask[:, None, ..., None] > 0, clean.shape)
    ]
    assert noise.std() == pytest.approx(0.02, rel=0.05)
    assert not slices.measurements[
        np.broadcast_to(slices.mask[:, None, ..., None] == 0, clean.shape)
    ].any()
    np.testing.assert_allclose(np.linalg.norm(slices.truth, axis=-1), phantom(), atol=1e-6)
    assert slices.true_acceleration == pytest.approx(slices.mask.size / slices.mask.sum())


def test_coils_differ_and_sum_to_one():
    maps = coil_sensitivities(4, 20, 24, np.random.default_rng(0))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    gram = np.abs(np.einsum("ahw,bhw->ab", maps, maps.conj()))
    assert np.linalg.cond(gram) < 100
    assert np.abs(np.diff(maps, axis=-1)).max() < 0.3  # smooth


def test_simulation_is_seeded():
    first, again, other = (data.simulate_multicoil(phantom(), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.measurements, again.measurements)
    assert np.abs(first.measurements - other.measurements).max() > 0.1


def test_saves_and_loads(tmp_path):
    slices = data.simulate_multicoil(phantom())
    slices.save(str(tmp_path / "slices.npz"))
    loaded = data.MulticoilSlices.load(str(tmp_path / "slices.npz"))
    for name, array in {**slices.inputs, "truth": slices.truth}.items():
        np.testing.assert_array_equal(getattr(loaded, name), array)
    assert "truth" not in slices.inputs


def test_template_is_a_brain():
    pytest.importorskip("nilearn")
    volume = data.load_brain_template(96, 96)
    assert volume.shape == (112, 96, 96)
    assert volume.dtype == np.float32
    assert volume.max() == 1
    assert volume.min() == 0
    inside = (volume > 0.1).mean((1, 2))
    assert inside.min() > 0.15
    assert not volume[:, 0].any()  # the crop holds the whole head
    assert np.abs(volume[0] - volume[-1]).mean() > 0.05


def test_center_crop_and_pad():
    stack = np.arange(24).reshape(1, 4, 6)
    assert center_crop(stack, 2, 2).tolist() == [[[8, 9], [14, 15]]]
    padded = center_crop(stack, 6, 7)
    assert padded.shape == (1, 6, 7)
    np.testing.assert_array_equal(padded[:, 1:5, :6], stack)


def test_batches_cover_every_slice_once_an_epoch():
    inputs = {"a": np.arange(10), "b": np.arange(10) * 2}
    shuffled = data.SliceDataset(inputs, np.arange(10) * 3, batch_size=5, shuffle_seed=0)
    epochs = []
    for _ in range(2):
        batches = [shuffled[i] for i in range(len(shuffled))]
        order = np.concatenate([x["a"] for x, _ in batches])
        for x, y in batches:
            np.testing.assert_array_equal(x["b"], x["a"] * 2)
            np.testing.assert_array_equal(y, x["a"] * 3)
        assert sorted(order) == list(range(10))
        epochs.append(order.tolist())
        shuffled.on_epoch_end()
    assert epochs[0] != epochs[1]


def test_batches_without_targets_hold_no_targets():
    plain = data.SliceDataset({"a": np.arange(5)}, batch_size=2)
    assert len(plain) == 3
    assert len(plain[0]) == 1
    assert plain[2][0]["a"].tolist() == [4]


def test_wrong_batches():
    with pytest.raises(ValueError, match="batch_size=6"):
        data.SliceDataset({"a": np.arange(5)}, batch_size=6)
    with pytest.raises(ValueError, match="one length"):
        data.SliceDataset({"a": np.arange(5)}, np.arange(4), batch_size=2)
