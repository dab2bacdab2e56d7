"""Slices that are saved, batched and split."""

import numpy as np
import pytest

from spade_keras import data


def test_slabs_are_disjoint_with_gaps():
    split = data.slab_split(50, validation=6, test=7, gap=3)
    indices = np.arange(50)
    validation, train, test = (indices[s] for s in (split.validation, split.train, split.test))
    assert (len(validation), len(test), len(train)) == (6, 7, 31)
    assert train[0] - validation[-1] == 4
    assert test[0] - train[-1] == 4
    with pytest.raises(ValueError, match="leave some to train on"):
        data.slab_split(12, validation=4, test=4, gap=2)


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


def test_batches_of_one_array():
    x = np.arange(10.0).reshape(5, 2)
    batches = data.SliceDataset(x, np.arange(5), batch_size=2)
    assert len(batches) == 3
    inputs, targets = batches[2]
    np.testing.assert_array_equal(inputs, [[8, 9]])
    assert targets.tolist() == [4]
    with pytest.raises(ValueError, match=r"lengths=\[4, 5\]"):
        data.SliceDataset(x, np.arange(4), batch_size=2)
