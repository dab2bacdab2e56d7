"""Samples with a class each: the bundled digits, files, and their split."""

import numpy as np
import pytest

from spade_keras import data
from spade_keras.errors import SpadeError

pytestmark = pytest.mark.once


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


def test_a_random_split_is_disjoint_complete_and_the_seeds():
    split = data.random_split(50, validation=6, test=7, seed=3)
    parts = (split.train, split.validation, split.test)
    assert [len(part) for part in parts] == [37, 6, 7]
    assert sorted(np.concatenate(parts)) == list(range(50))
    again = data.random_split(50, validation=6, test=7, seed=3)
    np.testing.assert_array_equal(again.test, split.test)
    assert (data.random_split(50, validation=6, test=7, seed=4).test != split.test).any()
    assert len(data.random_split(14, validation=6, test=7).train) == 1
    with pytest.raises(ValueError, match="leave some to train on"):
        data.random_split(13, validation=6, test=7)


def test_a_file_gives_samples_and_classes(tmp_path):
    x = np.arange(12, dtype="uint8").reshape(3, 2, 2)
    np.savez(tmp_path / "some.npz", x=x, y=np.array([[2], [0], [1]]), more=x)
    samples, classes = data.load_labeled_arrays(tmp_path / "some.npz")
    np.testing.assert_array_equal(samples, x)
    assert samples.dtype == np.float32
    assert classes.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3))}, r"must hold the arrays x .* Received: \['x'\]"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3, int)}, r"shape \(2, 3\), y of shape \(3,\)"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "as integers"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, -1])}, "int64 from -1 to 0"),
        ({"x": np.full((2, 3), np.nan), "y": np.zeros(2, int)}, "must be finite"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, None])}, "cannot be read"),
    ],
)
def test_a_faulty_file_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(SpadeError, match=message) as caught:
        data.load_labeled_arrays(tmp_path / "some.npz")
    assert "some.npz" in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(SpadeError, match=r"text\.npz` cannot be read"):
        data.load_labeled_arrays(tmp_path / "text.npz")


def test_batches_of_one_array():
    x = np.arange(10.0).reshape(5, 2)
    batches = data.SliceDataset(x, np.arange(5), batch_size=2)
    assert len(batches) == 3
    inputs, targets = batches[2]
    np.testing.assert_array_equal(inputs, [[8, 9]])
    assert targets.tolist() == [4]
    with pytest.raises(ValueError, match=r"lengths \[4, 5\]"):
        data.SliceDataset(x, np.arange(4), batch_size=2)
