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
    (reader,) = readers_of(layer)
    kernel = keras.ops.convert_to_numpy(reader.variable)
    np.testing.assert_array_equal(reader.kernel(reader.matrix(kernel), kernel.shape), kernel)
    found = product(reader, x)
    if name == "transposed":  # a row is what one pixel adds: 2 x 2 pixels that do not overlap
        batch, height, width, _ = shape
        tiles = found.reshape(batch, height, width, 2, 2, 5).transpose(0, 1, 3, 2, 4, 5)
        found = tiles.reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=3e-6)


def test_projections_of_attention_are_readers_of_query_value_and_key():
    attention = layers.MultiHeadAttention(2, 4, bias_initializer="normal")
    query, value = np.random.default_rng(0).normal(size=(2, 2, 7, 6)).astype("float32")
    attention(query, value)
    parts = (attention._query_dense, attention._value_dense, attention._key_dense)
    for reader, dense, x in zip(readers_of(attention), parts, (query, value, value), strict=True):
        assert reader.argument == parts.index(dense)
        wanted = keras.ops.convert_to_numpy(dense(x)).reshape(-1, 8)
        np.testing.assert_allclose(product(reader, x), wanted, atol=3e-6)


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
