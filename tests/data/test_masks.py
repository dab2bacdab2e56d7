"""Sampling masks: every one of the registry, and the properties of each."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data import masks

pytestmark = pytest.mark.once


@pytest.mark.parametrize("shape", [(40, 64), (31, 45)])
@pytest.mark.parametrize("name", sorted(data.MASKS))
def test_every_mask_has_its_center_and_acceleration(name, shape):
    acs = 8
    sample = data.get_mask(name, acceleration=4, acs_lines=acs)
    mask = sample(shape, seed=3)
    same = data.MASKS[name](shape, acceleration=4, acs_lines=acs, seed=3)
    np.testing.assert_array_equal(same, mask)
    assert mask.shape in {(1, shape[1]), shape}
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {0, 1}
    full = np.broadcast_to(mask, shape)
    # Eight samples around the zero frequency at size // 2; of odd sizes one more above than below.
    top, left = (size // 2 - 4 + size % 2 for size in shape)
    rows = slice(None) if mask.shape[0] == 1 else slice(top, top + acs)
    assert full[rows, left : left + acs].all()
    assert full[shape[0] // 2, shape[1] // 2]
    expected = mask.size / round(mask.size / 4)
    if name == "equispaced":
        assert 2 < data.true_acceleration(mask) < 4
    else:
        assert data.true_acceleration(mask) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(mask, sample(shape, seed=3))
    assert any((sample(shape, seed=seed) != mask).any() for seed in range(4, 9))


def test_true_acceleration_counts():
    mask = np.zeros((10, 10))
    mask[:, :3] = 0.5
    assert data.true_acceleration(mask) == pytest.approx(10 / 3)
    with pytest.raises(ValueError, match="sample something"):
        data.true_acceleration(np.zeros(4))


def test_gaussian_columns_follow_the_density():
    width, std = 200, 0.15
    options = {"shape": (1, width), "acceleration": 20, "acs_lines": 0}
    counts = sum(masks.gaussian(**options, std=std, seed=seed)[0] for seed in range(400))
    k = (np.arange(width) - width // 2) / width
    expected = np.exp(-0.5 * (k / std) ** 2)
    correlation = np.corrcoef(counts, expected)[0, 1]
    assert correlation > 0.97
    spread = np.sqrt((counts * k**2).sum() / counts.sum())
    assert 0.15 < spread < 0.18  # drawing without replacement widens it a little
    even = sum(masks.random(**options, seed=seed)[0] for seed in range(400))
    assert np.sqrt((even * k**2).sum() / even.sum()) == pytest.approx(1 / np.sqrt(12), rel=0.05)


def test_narrow_gaussian_still_reaches_the_count():
    assert masks.gaussian((1, 64), acceleration=2, acs_lines=0, std=0.01).sum() == 32


def test_poisson_discs_keep_their_distance():
    even = masks.poisson_disc((48, 48), acceleration=6, acs_lines=0, slope=0.0, seed=1)
    y, x = np.nonzero(even)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    np.fill_diagonal(squared, 10**6)
    assert squared.min() >= 3  # samples drawn evenly at random would touch
    dense = masks.poisson_disc((48, 48), acceleration=6, acs_lines=0, slope=4.0, seed=1)
    assert dense[16:32, 16:32].mean() > 3 * dense[:8].mean()
    assert even[16:32, 16:32].mean() == pytest.approx(even[:8].mean(), rel=0.2)


@pytest.mark.parametrize("acceleration", [1, 1.5, 12, 60])
def test_poisson_disc_at_its_ends(acceleration):
    mask = masks.poisson_disc((24, 20), acceleration=acceleration, acs_lines=2)
    assert mask.sum() == round(480 / acceleration)


def test_seeds_depend_on_names():
    assert masks.seed_from_name("file1.h5") == 9266173894800998231  # on every machine
    seeds = {masks.seed_from_name(name, seed) for name in ("a.h5", "b.h5") for seed in (0, 1)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("name", "acceleration", "acs_lines", "own", "message"),
    [
        ("spiral", 2, 2, {}, "Unknown mask"),
        ("random", 2, 2, {"std": 1}, "takes"),
        ("random", 4, 8, {}, "at most the 4 samples"),
        ("random", 0.5, 0, {}, "acceleration=0.5"),
        ("gaussian", 4, 2, {"std": 0}, "std=0"),
        ("poisson_disc", 4, 17, {}, "acs_lines=17"),
        ("poisson_disc", 4, 2, {"slope": -1}, "slope=-1"),
        ("equispaced", 0, 2, {}, "`acceleration` must be from"),
        ("equispaced", 4, 17, {}, "`acs_lines` must be from"),
        ("equispaced", 4, 2, {"offset": 4}, "`offset`"),
    ],
)
def test_wrong_masks(name, acceleration, acs_lines, own, message):
    with pytest.raises(ValueError, match=message):
        data.get_mask(name, acceleration=acceleration, acs_lines=acs_lines, **own)((16, 16))


def test_settings_are_checked_at_once():
    with pytest.raises(ValueError, match="needs acceleration and acs_lines"):
        data.get_mask("random", acceleration=2)


def test_mask_has_the_spacing_and_the_center():
    mask = masks.equispaced((1, 96), acceleration=4, acs_lines=8, offset=1)[0]
    assert mask[1::4].all()
    assert mask[44:52].all()
    assert mask.sum() == 24 + 8 - 2  # two of the central eight are on the grid
    outside = np.delete(mask, np.r_[44:52])
    assert outside.sum() == 22


def test_mask_center_holds_the_zero_frequency_of_odd_widths():
    mask = masks.equispaced((1, 9), acceleration=9, acs_lines=1, offset=0)
    assert mask.tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 0]]
