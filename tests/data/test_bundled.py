"""Data that come with installed packages."""

import numpy as np
import pytest

from spade_keras import data

pytestmark = pytest.mark.once


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


def test_digits_keep_their_shape_when_enlarged():
    pytest.importorskip("sklearn")
    from sklearn import datasets

    x, y = data.load_digits(32)
    original = datasets.load_digits()
    assert x.shape == (1797, 32, 32, 1)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    assert (y == original.target).all()
    # Means over 4 x 4 pixels are the original pixels again, but for the splines' overshoot.
    binned = x.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    correlation = np.corrcoef(binned.ravel(), original.images.ravel())[0, 1]
    assert correlation > 0.99


def test_photographs_are_bundled():
    pytest.importorskip("skimage")
    photographs = data.load_photographs()
    assert list(photographs) == list(data.PHOTOGRAPHS)
    for image in photographs.values():
        assert image.shape[-1] == 3
        assert 0 <= image.min() < 0.1
        assert 0.8 < image.max() <= 1
    assert data.load_photographs(["cat"], channels=1)["cat"].shape == (300, 451, 1)
    with pytest.raises(ValueError, match=r"some of \['astronaut'"):
        data.load_photographs(["dog"])
