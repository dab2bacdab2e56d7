"""Lazy arrays: indexed as NumPy indexes, reading only what is asked for."""

import keras
import numpy as np
import pytest

from spade_keras import data

pytestmark = pytest.mark.once

STORED = np.random.default_rng(0).normal(size=(7, 3, 2)).astype("float32")


def lazy():
    reads = []

    def read(index):
        reads.append(index)
        return STORED[index]

    return data.LazyArray(read, 7, (3, 2)), reads


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        np.int64(3),
        slice(2, 5),
        slice(None, None, -2),
        slice(9, 12),
        [1, 1, -2],
        np.array([6, 0]),
        np.array([], int),
        [],
        np.arange(7) % 2 == 0,
    ],
)
def test_indexes_as_numpy_does(index):
    array, reads = lazy()
    found, expected = array[index], STORED[index]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert len(reads) == expected.size // 6  # nothing else was read


def test_looks_like_an_array():
    array, reads = lazy()
    assert (array.shape, array.ndim, array.dtype, len(array)) == ((7, 3, 2), 3, np.float32, 7)
    assert not reads
    np.testing.assert_array_equal(np.asarray(array), STORED)
    np.testing.assert_array_equal(np.asarray(array, "float64"), STORED.astype("float64"))
    np.testing.assert_array_equal(np.stack(list(array)), STORED)
    doubled = keras.tree.map_structure(lambda a: a[:2] * 2, {"x": array})
    np.testing.assert_array_equal(doubled["x"], STORED[:2] * 2)


def test_batches_read_their_own_slices_alone():
    array, reads = lazy()
    batches = data.SliceDataset({"x": array}, array, batch_size=2)
    inputs, targets = batches[1]
    np.testing.assert_array_equal(inputs["x"], STORED[2:4])
    np.testing.assert_array_equal(targets, STORED[2:4])
    assert reads == [2, 3, 2, 3]


@pytest.mark.parametrize(
    "index", [7, -8, [7], 1.0, "a", (0, 1), None, [[0]], [0.5], np.ones(6, bool)]
)
def test_wrong_index(index):
    with pytest.raises(IndexError, match="index"):
        lazy()[0][index]


def test_entries_of_different_shapes():
    ragged = data.LazyArray(lambda i: np.zeros((i, 2)), 4, (None, 2))
    assert ragged.shape == (4, None, 2)
    assert ragged[3:].shape == (1, 3, 2)
    with pytest.raises(ValueError, match=r"batch_size=1.*\(1, 2\), \(2, 2\)"):
        ragged[1:3]
    with pytest.raises(ValueError, match="copy"):
        np.array(ragged, copy=False)
