"""Sampling masks: every one of the registry, and what sets each apart."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.data.masks import seed_from_name
from spade_keras.data.poisson_disc import poisson_disc_mask

pytestmark = pytest.mark.once


@pytest.mark.parametrize("shape", [(40, 64), (31, 45)])
@pytest.mark.parametrize("name", sorted(data.MASKS))
def test_every_mask_has_its_center_and_acceleration(name, shape):
    acs = 8
    sample = data.get_mask(name, acceleration=4, acs_lines=acs)
    mask = sample(shape, seed=3)
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
    counts = sum(data.gaussian_mask(width, 20, 0, std=std, seed=seed) for seed in range(400))
    k = (np.arange(width) - width // 2) / width
    expected = np.exp(-0.5 * (k / std) ** 2)
    correlation = np.corrcoef(counts, expected)[0, 1]
    assert correlation > 0.97
    spread = np.sqrt((counts * k**2).sum() / counts.sum())
    assert 0.15 < spread < 0.18  # drawing without replacement widens it a little
    even = sum(data.random_mask(width, 20, 0, seed=seed) for seed in range(400))
    assert np.sqrt((even * k**2).sum() / even.sum()) == pytest.approx(1 / np.sqrt(12), rel=0.05)


def test_narrow_gaussian_still_reaches_the_count():
    assert data.gaussian_mask(64, 2, 0, std=0.01).sum() == 32


def test_poisson_discs_keep_their_distance():
    even = poisson_disc_mask((48, 48), 6, 0, slope=0.0, seed=1)
    y, x = np.nonzero(even)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    np.fill_diagonal(squared, 10**6)
    assert squared.min() >= 3  # samples drawn evenly at random would touch
    dense = poisson_disc_mask((48, 48), 6, 0, slope=4.0, seed=1)
    assert dense[16:32, 16:32].mean() > 3 * dense[:8].mean()
    assert even[16:32, 16:32].mean() == pytest.approx(even[:8].mean(), rel=0.2)


@pytest.mark.parametrize("acceleration", [1, 1.5, 12, 60])
def test_poisson_disc_at_its_ends(acceleration):
    mask = poisson_disc_mask((24, 20), acceleration, 2)
    assert mask.sum() == round(480 / acceleration)


def test_seeds_depend_on_names():
    assert seed_from_name("file1.h5") == 9266173894800998231  # on every machine
    seeds = {seed_from_name(name, seed) for name in ("a.h5", "b.h5") for seed in (0, 1)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.get_mask("spiral", acceleration=2, acs_lines=2), "`name` must be one of"),
        (lambda: data.get_mask("random", acceleration=2), "needs acceleration and acs_lines"),
        (lambda: data.get_mask("random", acceleration=2, acs_lines=2, std=1), "takes"),
        (lambda: data.random_mask(16, 4, 8), "at most the 4 samples"),
        (lambda: data.random_mask(16, 0.5, 0), "acceleration=0.5"),
        (lambda: data.gaussian_mask(16, 4, 2, std=0), "std=0"),
        (lambda: data.poisson_disc_mask((8, 8), 4, 9), "acs_lines=9"),
        (lambda: data.poisson_disc_mask((8, 8), 4, 2, slope=-1), "slope=-1"),
        (lambda: data.get_mask("equispaced", acceleration=0, acs_lines=2)((8, 8)), "acceleration"),
    ],
)
def test_wrong_masks(make, message):
    with pytest.raises(ValueError, match=message):
        make()
