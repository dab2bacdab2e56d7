"""Every reader, as a matrix product, is the layer itself."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.pruning.compensation.readers import readers_of, row_chooser

ALL_ROWS = row_chooser(10**9, seed=0)
NORMAL = {"bias_initializer": "normal"}
IMAGE, SERIES, VOLUME = (2, 9, 11, 6), (2, 11, 6), (1, 5, 6, 7, 3)
CASES = {
    "dense": (layers.Dense(5, **NORMAL), IMAGE),
    "conv_1d_causal": (
        layers.Conv1D(5, 3, padding="causal", dilation_rate=2, **NORMAL),
        SERIES,
    ),
    "conv_2d": (layers.Conv2D(4, 3, **NORMAL), IMAGE),
    "conv_2d_same": (layers.Conv2D(4, 3, padding="same", **NORMAL), IMAGE),
    "conv_2d_strides": (layers.Conv2D(4, 3, padding="same", strides=2, **NORMAL), IMAGE),
    "conv_2d_dilated": (layers.Conv2D(4, 3, padding="same", dilation_rate=2, **NORMAL), IMAGE),
    "conv_2d_oblong": (layers.Conv2D(4, (2, 4), padding="same", **NORMAL), IMAGE),
    "conv_2d_grouped": (layers.Conv2D(6, 3, groups=3, **NORMAL), IMAGE),
    "conv_2d_no_bias": (layers.Conv2D(4, 3, use_bias=False), IMAGE),
    "conv_3d": (layers.Conv3D(4, 3, padding="same", **NORMAL), VOLUME),
    "separable": (
        layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, **NORMAL),
        IMAGE,
    ),
    "transposed": (layers.Conv2DTranspose(5, 2, strides=2, use_bias=False), IMAGE),
    "einsum": (
        layers.EinsumDense("...b,bcd->...cd", (2, 3), bias_axes="cd", **NORMAL),
        SERIES,
    ),
    "einsum_first": (layers.EinsumDense("abc,bd->acd", (6, 3), bias_axes="d", **NORMAL), SERIES),
    "time_distributed": (layers.TimeDistributed(layers.Conv1D(4, 3, **NORMAL)), (2, 3, 8, 5)),
    "simple_rnn": (layers.SimpleRNN(5, activation="linear", **NORMAL), (4, 1, 6)),
}


def product(reader, x):
    matrix = reader.matrix(keras.ops.convert_to_numpy(reader.variable))
    found = np.einsum("rbct,bctm->rbm", reader.patches(x, ALL_ROWS), matrix)
    if reader.bias is not None:
        found = found + keras.ops.convert_to_numpy(reader.bias).reshape(1, len(matrix), -1)
    return found.reshape(len(found), -1)


@pytest.mark.parametrize("name", CASES)
def test_a_reader_times_its_patches_is_the_layer(name):
    layer, shape = CASES[name]
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    wanted = keras.ops.convert_to_numpy(layer(x))
    reader = readers_of(layer)[0]
    kernel = keras.ops.convert_to_numpy(reader.variable)
    np.testing.assert_array_equal(reader.kernel(reader.matrix(kernel), kernel.shape), kernel)
    found = product(reader, x)
    if name == "transposed":  # a row is what one pixel adds: 2 x 2 pixels that do not overlap
        batch, height, width, _ = shape
        tiles = found.reshape(batch, height, width, 2, 2, 5).transpose(0, 1, 3, 2, 4, 5)
        found = tiles.reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=3e-6)


@pytest.mark.parametrize(
    "attention",
    [
        layers.MultiHeadAttention(2, 4, bias_initializer="normal"),
        layers.GroupQueryAttention(4, 4, 2, bias_initializer="normal"),
    ],
)
def test_projections_of_attention_are_readers(attention):
    query, value = np.random.default_rng(0).normal(size=(2, 2, 7, 6)).astype("float32")
    wanted = keras.ops.convert_to_numpy(attention(query, value))
    parts = (attention._query_dense, attention._value_dense, attention._key_dense)
    *inner, output = readers_of(attention)
    given = {"query": query, "value": value}
    for reader, dense, x in zip(inner, parts, (query, value, value), strict=True):
        answer = keras.ops.convert_to_numpy(dense(x))
        np.testing.assert_allclose(product(reader, given).ravel(), answer.ravel(), atol=3e-6)
    np.testing.assert_allclose(product(output, given), wanted.reshape(-1, 6), atol=3e-6)
    assert "call" not in vars(attention._output_dense)  # the recording is over


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_recurrent_kernels_read_the_states_before(kind, backwards):
    layer = kind(3, return_sequences=True, go_backwards=backwards, **NORMAL)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    outputs = keras.ops.convert_to_numpy(layer(x))
    _, reader = readers_of(layer)
    before = reader.patches({"sequences": x}, ALL_ROWS).reshape(2, 5, 3)
    np.testing.assert_allclose(before[:, 0], 0)
    np.testing.assert_allclose(before[:, 1:], outputs[:, :-1], atol=1e-6)
    first = np.ones((2, 3), "float32")
    states = [first] * (2 if kind is layers.LSTM else 1)
    given = {"sequences": x, "initial_state": states}
    np.testing.assert_allclose(reader.patches(given, ALL_ROWS).reshape(2, 5, 3)[:, 0], 1)
    biases = keras.ops.convert_to_numpy(layer.cell.bias)
    wanted = biases[1] if kind is layers.GRU else 0
    last = reader.weights()[0, -1]
    np.testing.assert_allclose(last, wanted + np.zeros_like(last))


def test_a_gru_that_resets_before_the_product_keeps_its_recurrent_kernel():
    layer = layers.GRU(3, reset_after=False)
    layer.build((None, 5, 4))
    assert [reader.variable for reader in readers_of(layer)] == [layer.cell.kernel]


def test_wrappers_have_the_readers_of_what_they_wrap():
    both = layers.Bidirectional(layers.LSTM(3))
    both.build((None, 5, 4))
    kernels = [
        kernel
        for layer in (both.forward_layer, both.backward_layer)
        for kernel in (layer.cell.kernel, layer.cell.recurrent_kernel)
    ]
    readers = readers_of(both)
    assert all(x.variable is kernel for x, kernel in zip(readers, kernels, strict=True))
    assert all(both.weights[x.index] is x.variable for x in readers)


def test_depthwise_and_unknown_layers_have_no_readers():
    depthwise = layers.Conv2D(6, 3, groups=6)
    depthwise.build(IMAGE)
    own = type("Own", (layers.Dense,), {})(3)
    own.build((None, 4))
    assert readers_of(depthwise) == readers_of(own) == readers_of(layers.ReLU()) == []


def test_the_same_rows_are_drawn_for_the_same_count_and_seed():
    choose = row_chooser(5, seed=1)
    assert sorted(set(choose(100))) == sorted(choose(100)) and len(choose(100)) == 5
    np.testing.assert_array_equal(choose(100), row_chooser(5, seed=1)(100))
    np.testing.assert_array_equal(choose(3), [0, 1, 2])
