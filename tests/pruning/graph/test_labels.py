import numpy as np
import pytest

from spade_keras.pruning.graph.labels import LabelStore, reshape, squeeze_uniform


def test_fresh_labels_start_at_one_and_never_repeat():
    store = LabelStore()
    assert store.new(3).tolist() == [1, 2, 3]
    assert store.new(2).tolist() == [4, 5]


def test_elementwise_ties_equal_widths():
    store = LabelStore()
    a, b = store.new(4).reshape(1, 1, 4), store.new(4).reshape(1, 1, 4)
    result = store.elementwise([((None, 7, 4), a), ((None, 7, 4), b)])
    assert result is a
    pairs = {
        tuple(sorted(p)) for x, y in store.edges for p in zip(x.tolist(), y.tolist(), strict=True)
    }
    assert pairs == {(1, 5), (2, 6), (3, 7), (4, 8)}


def test_a_stretched_gate_neither_ties_nor_freezes():
    store = LabelStore()
    wide, gate = store.new(4).reshape(1, 4), np.zeros((1, 1), int)
    assert store.elementwise([((None, 4), wide), ((None, 1), gate)]) is wide
    assert store.edges == []
    assert store.frozen == []


def test_a_constant_of_full_width_freezes():
    store = LabelStore()
    wide, constant = store.new(4).reshape(1, 4), np.zeros((1, 1), int)
    store.elementwise([((None, 4), wide), ((None, 4), constant)])
    assert store.frozen[0][0].tolist() == [1, 2, 3, 4]


def test_an_outer_product_of_channel_axes_freezes_both():
    store = LabelStore()
    rows, columns = store.new(3).reshape(1, 3, 1), store.new(4).reshape(1, 1, 4)
    store.elementwise([((None, 3, 1), rows), ((None, 1, 4), columns)])
    assert sorted(np.concatenate([labels for labels, _ in store.frozen]).tolist())[:7] == [
        1, 2, 3, 4, 5, 6, 7,
    ]  # fmt: skip


def test_along_ties_what_differs_elsewhere():
    store = LabelStore()
    labels = store.new(6).reshape(1, 2, 3)
    assert store.along(labels, 2, 3).tolist() == [1, 2, 3]
    first, second = store.edges[0]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 4), (2, 5), (3, 6)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((None, 3, 3, 4), (None, 36)),
        ((None, 3, 3, 4), (None, 9, 4)),
        ((None, 3, 3, 4), (None, 3, 3, 2, 2)),
        ((None, 3, 3, 4), (None, 1, 1, 3, 3, 4)),
        ((None, None, None, 4), (None, None, None, 2, 2)),
        ((None, 36), (None, 3, 3, 4)),
        ((None, 2, 18), (None, 6, 6)),
    ],
)
def test_reshape_agrees_with_numpy(before, after):
    width = before[-1]
    labels = np.arange(1, width + 1).reshape((1,) * (len(before) - 1) + (width,))
    result = reshape(labels, before, after)
    sizes = [5 if size is None else size for size in before]
    full = np.broadcast_to(labels, sizes).reshape([5 if size is None else size for size in after])
    np.testing.assert_array_equal(np.broadcast_to(result, full.shape), full)
    assert result.shape == squeeze_uniform(full).shape


def test_reshape_of_unknown_sizes_is_refused():
    labels = np.arange(1, 5).reshape(1, 1, 1, 4)
    assert reshape(labels, (None, None, None, 4), (None, None)) is None
