"""Every layer family: pruned by half, rebuilt, and proved equal to the masked original."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.rules import RULES, ChannelRule
from spade_keras.pruning.verify import measure_difference, verify_plan
from tests.pruning.random_plans import random_plan, swaps

CASES = {}


def case(**widths):
    """Registers a model builder with the groups it must free and their widths."""

    def add(function):
        CASES[function.__name__] = (function, widths)
        return function

    return add


@case(d=8)
def dense():
    x = keras.Input((5,))
    return x, layers.Dense(3)(layers.Dense(8, activation="tanh", name="d")(x))


@case(a=6, b=6)
def conv1d():
    x = keras.Input((9, 3))
    y = layers.Conv1D(6, 3, strides=2, name="a")(x)
    return x, layers.Conv1D(2, 1)(layers.Conv1DTranspose(6, 3, name="b")(y))


@case(a=4, b=4)
def conv3d():
    x = keras.Input((4, 4, 4, 2))
    y = layers.Conv3D(4, 2, name="a")(x)
    return x, layers.Conv3D(2, 1)(layers.Conv3DTranspose(4, 2, name="b")(y))


@case(a=6, b=6)
def transposed():
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="a")(x)
    y = layers.Conv2DTranspose(6, 4, strides=2, padding="same", name="b")(y)
    return x, layers.Conv2D(2, 3)(layers.BatchNormalization()(y))


@case(a=6, s=8)
def depthwise_and_separable():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, name="a")(x)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(y)
    y = layers.BatchNormalization()(y)
    y = layers.SeparableConv2D(8, 3, depth_multiplier=2, name="s")(y)
    return x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y))


@case(a=4, s=6)
def depthwise_1d():
    x = keras.Input((8, 3))
    y = layers.DepthwiseConv1D(3)(layers.Conv1D(4, 3, name="a")(x))
    return x, layers.Conv1D(2, 1)(layers.SeparableConv1D(6, 2, name="s")(y))


@case(a=4, g=8)
def grouped_conv():
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(16, 1, name="a")(x)
    y = layers.Conv2D(8, 3, groups=4, name="g")(y)
    return x, layers.Conv2D(2, 1)(layers.ReLU()(y))


@case(a=4)
def conv_with_one_channel_per_group():
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 1, name="a")(x)
    return x, layers.Conv2D(2, 1)(layers.Conv2D(8, 3, groups=4)(y))


@case(a=8, b=8)
def layer_norms():
    x = keras.Input((7, 3))
    y = layers.LayerNormalization()(layers.Dense(8, name="a")(x))
    y = layers.RMSNormalization()(layers.Dense(8, name="b")(y))
    return x, layers.Dense(2)(layers.UnitNormalization()(y))


@case(a=8)
def group_norm():
    x = keras.Input((4, 4, 3))
    y = layers.GroupNormalization(4)(layers.Conv2D(8, 3, name="a")(x))
    return x, layers.Conv2D(2, 1)(layers.Activation("gelu")(y))


@case(**{"a": 2, "a#2": 1})
def group_norm_over_a_concatenation():
    x = keras.Input((4, 4, 3))
    y = layers.Concatenate()([layers.Conv2D(8, 3, name="a")(x), layers.Conv2D(4, 3, name="b")(x)])
    return x, layers.Conv2D(2, 1)(layers.GroupNormalization(4)(y))


@case(a=6)
def prelu_and_instance_norm():
    x = keras.Input((4, 4, 3))
    y = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(6, 3, name="a")(x))
    y = layers.GroupNormalization(-1)(layers.PReLU()(y))
    return x, layers.Conv2D(2, 1)(y)


@case(a=6, b=4)
def pooling_and_flatten():
    x = keras.Input((9, 9, 2))
    y = layers.MaxPooling2D(2)(layers.Conv2D(6, 3, padding="same", name="a")(x))
    y = layers.ZeroPadding2D(1)(layers.AveragePooling2D(2, padding="same")(y))
    y = layers.Cropping2D(1)(layers.UpSampling2D(2)(y))
    y = layers.Dense(4, activation="relu", name="b")(layers.Flatten()(y))
    return x, layers.Dense(2, activation="softmax")(y)


@case(a=6, b=4)
def residual_and_maximum():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(6, 3, padding="same", name="a")(x)
    b = layers.Conv2D(6, 1, name="tied")(a)
    y = layers.Maximum()([layers.Add()([a, b]), layers.Subtract()([a, b])])
    y = layers.Average()([layers.Multiply()([y, a]), layers.Minimum()([y, b])])
    return x, layers.Conv2D(2, 1)(layers.Conv2D(4, 1, name="b")(y))


@case(a=8, s=4)
def squeeze_and_excitation():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    g = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(a))
    g = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1, name="s")(g))
    return x, layers.Conv2D(2, 1)(layers.Multiply()([a, g]))


@case(a=8)
def one_channel_gates():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    gate = layers.Conv2D(1, 1, activation="sigmoid")(a)
    mean = ops.mean(a, axis=-1, keepdims=True)
    return x, layers.Conv2D(2, 1)(layers.Multiply()([a, gate]) + mean * a)


@case(**{"a": 6, "b": 3, "b#2": 3})
def concatenate_and_split():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(6, 3, name="a")(x)
    b = layers.Conv2D(6, 3, name="b")(x)
    joined = layers.Concatenate()([a, b, a])
    first, second = ops.split(joined, [9], axis=-1)
    return x, layers.Conv2D(2, 1)(first) + layers.Conv2D(2, 1)(second)


@case(a=8, c=8)
def channel_shuffle():
    x = keras.Input((4, 4, 2))
    a = layers.Conv2D(16, 3, padding="same", name="a")(x)
    y = layers.Reshape((4, 4, 2, 8))(a)
    y = layers.Reshape((4, 4, 16))(layers.Permute((1, 2, 4, 3))(y))
    return x, layers.Conv2D(2, 1)(layers.Conv2D(8, 1, name="c")(y))


@case(a=4)
def pixel_shuffle():
    x = keras.Input((4, 4, 2))
    y = layers.Conv2D(16, 3, padding="same", name="a")(x)
    y = ops.reshape(y, (-1, 4, 4, 2, 2, 4))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 8, 8, 4))
    return x, layers.Conv2D(2, 3)(y)


@case(a=4, b=4)
def depth_to_space():
    x = keras.Input((None, None, 2))
    y = ops.depth_to_space(layers.Conv2D(16, 3, padding="same", name="a")(x), 2)
    y = ops.space_to_depth(layers.Conv2D(4, 1, name="b")(y), 2)
    return x, layers.Conv2D(2, 1)(y)


@case(d=4)
def dense_to_image():
    x = keras.Input((5,))
    y = layers.Reshape((3, 3, 4))(layers.Dense(36, name="d")(x))
    return x, layers.Conv2D(2, 2)(layers.UpSampling2D()(y))


@case(a=4)
def slicing():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    return x, layers.Conv2D(2, 1)(a[..., ::2]) + layers.Conv2D(2, 1)(a[:, :, :, 1::2])


@case(a=8)
def roll_flip_take_tile():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    y = ops.flip(ops.roll(a, 3, axis=-1), axis=-1)
    y = ops.tile(ops.take(y, np.array([7, 6, 5, 4, 3, 2, 1, 0]), axis=-1), (1, 1, 1, 2))
    return x, layers.Conv2D(2, 1)(ops.repeat(y, 2, axis=-1))


@case(a=4, b=4)
def padded_shortcut():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(4, 3, name="a")(x)
    y = ops.pad(a, ((0, 0), (0, 0), (0, 0), (2, 2)))
    return x, layers.Conv2D(2, 1)(y + layers.Conv2D(8, 1, name="b")(a))


@case(a=8)
def constants_per_channel():
    x = keras.Input((5, 5, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    y = layers.Rescaling(list(np.linspace(0.5, 2, 8)))(a) * np.linspace(1, 2, 8).astype("float32")
    return x, layers.Conv2D(2, 1)(ops.maximum(y, 0.1))


@case(e=6, d=4)
def embedding():
    x = keras.Input((7,), dtype="int32")
    y = layers.Embedding(11, 6, mask_zero=True, name="e")(x)
    return x, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Dense(4, name="d")(y)))


@case(**{"r": 6, "l": 6, "g": 6})
def recurrent():
    x = keras.Input((4, 3))
    y = layers.SimpleRNN(6, return_sequences=True, name="r")(x)
    y = layers.LSTM(6, return_sequences=True, name="l")(y)
    return x, layers.Dense(2)(layers.GRU(6, name="g")(y))


@case(l=4)
def recurrent_states():
    x = keras.Input((4, 3))
    y, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="l")(x)
    y = layers.LSTM(4, name="m")(y, initial_state=[h, c])
    return x, layers.Dense(2)(y)


@case(**{"b": 4, "b#2": 4, "c": 4})
def bidirectional():
    x = keras.Input((4, 3))
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="b")(x)
    y = layers.Bidirectional(layers.GRU(4), merge_mode="sum", name="c")(y)
    return x, layers.Dense(2)(y)


@case(t=6)
def time_distributed():
    x = keras.Input((3, 5))
    y = layers.TimeDistributed(layers.Dense(6, activation="relu"), name="t")(x)
    y = layers.TimeDistributed(layers.LayerNormalization())(y)
    return x, layers.TimeDistributed(layers.Dense(2))(y)


@case(**{"a": 4, "a#2": 4})
def cells():
    x = keras.Input((3, 5))
    y = layers.RNN([layers.LSTMCell(4), layers.GRUCell(4)], name="a")(x)
    return x, layers.Dense(2)(y)


@case(g=6)
def stateful():
    x = keras.Input(batch_shape=(4, 3, 2))
    return x, layers.Dense(2)(layers.GRU(6, stateful=True, name="g")(x))


@case(t=6)
def time_distributed_images():
    x = keras.Input((3, 6, 6, 2))
    y = layers.TimeDistributed(layers.Conv2D(6, 3), name="t")(x)
    y = layers.TimeDistributed(layers.BatchNormalization())(y)
    return x, layers.LSTM(3)(layers.TimeDistributed(layers.GlobalAveragePooling2D())(y))


@case(**{"e": 8, "c": 10})
def mlp_mixer():
    x = keras.Input((6, 5))
    e = layers.Dense(8, name="e")(x)
    y = layers.Permute((2, 1))(layers.LayerNormalization()(e))
    y = layers.Dense(6)(layers.Dense(7, activation="gelu")(y))
    e = layers.Add()([e, layers.Permute((2, 1))(y)])
    e = layers.Add()([e, layers.Dense(8)(layers.Dense(10, name="c")(e))])
    return x, layers.Dense(2)(layers.GlobalAveragePooling1D()(e))


@case(c=4)
def conv_lstm():
    x = keras.Input((2, 4, 4, 2))
    return x, layers.Conv2D(2, 1)(layers.ConvLSTM2D(4, 3, name="c")(x))


@case(**{"e": 8, "m#heads": 4, "f": 6})
def transformer_block():
    x = keras.Input((5, 3))
    e = layers.Dense(8, name="e")(x)
    y = layers.LayerNormalization()(e)
    e = layers.Add()([e, layers.MultiHeadAttention(4, 3, name="m")(y, y)])
    y = layers.Dense(6, activation="gelu", name="f")(layers.LayerNormalization()(e))
    e = layers.Add()([e, layers.Dense(8)(y)])
    return x, layers.Dense(2)(layers.GlobalAveragePooling1D()(e))


@case(**{"e": 8, "m#heads": 2, "m": 8})
def attention_without_residual():
    x = keras.Input((5, 3))
    e = layers.Dense(8, name="e")(x)
    y, _ = layers.MultiHeadAttention(2, 3, name="m")(e, e, return_attention_scores=True)
    return x, layers.Dense(2)(y)


@case(**{"e": 8, "m#heads": 2})
def grouped_query_attention():
    x = keras.Input((5, 3))
    e = layers.Dense(8, name="e")(x)
    y = layers.GroupQueryAttention(4, 4, 2, name="m")(e, e)
    return x, layers.Dense(2)(layers.Add()([e, y]))


@case(a=6, v=6)
def luong_attention():
    x = keras.Input((5, 3))
    q = layers.Dense(6, name="a")(x)
    k = layers.Dense(6)(x)
    return x, layers.Dense(2)(layers.Attention()([q, layers.Dense(6, name="v")(x), k]))


@case(a=6, v=6)
def additive_attention():
    x = keras.Input((5, 3))
    q = layers.Dense(6, name="a")(x)
    k = layers.Dense(6)(x)
    return x, layers.Dense(2)(layers.AdditiveAttention()([q, layers.Dense(6, name="v")(x), k]))


@case(k=4)
def attention_by_hand():
    x = keras.Input((5, 3))

    def heads(name):
        y = layers.Reshape((5, 4, 2))(layers.Dense(8, name=name)(x))
        return layers.Permute((2, 1, 3))(y)

    q, k, v = heads("q"), heads("k"), heads("v")
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0)
    y = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
    return x, layers.Dense(2)(layers.Reshape((5, 8))(y))


@case(a=8, b=8, g=4)
def dot_product():
    x = keras.Input((5, 3))
    a = layers.Dense(8, name="a")(x)
    b = layers.Dense(8, name="b")(x)
    y = ops.glu(layers.Dense(8, name="g")(layers.Dot(axes=2)([a, a])))
    return x, layers.Dense(2)(y) + ops.sum(ops.normalize(b), axis=-1, keepdims=True)


@case(a=8)
def einsum_dense():
    x = keras.Input((5, 3))
    y = layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", activation="relu", name="a")(x)
    return x, layers.EinsumDense("...c,cd->...d", (2,))(y)


@case(**{"inner/a": 6, "inner/b": 4})
def nested_and_shared():
    inner = keras.Sequential(
        [keras.Input((3,)), layers.Dense(6, name="a"), layers.ReLU(), layers.Dense(4, name="b")],
        name="inner",
    )
    x, z = keras.Input((3,)), keras.Input((3,))
    y = layers.Concatenate()([inner(x), inner(z)])
    return [x, z], [layers.Dense(2)(y), layers.Dense(3)(inner(x))]


class Pair(layers.Layer):
    """A composite layer, opened by tracing its `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6, activation="tanh", name="first")
        self.second = layers.Dense(4, name="second")

    def call(self, x):
        return self.second(self.first(x))


@case(**{"pair/first": 6, "inner/b": 4})
def composite_layer_inside_and_outside_of_a_model():
    pair = Pair(name="pair")
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Dense(4, name="b")(pair(x)), name="inner")
    y = keras.Input((4,))
    return y, layers.Dense(2)(inner(pair(y)))


@case(a=6)
def shared_layer():
    x = keras.Input((6, 6, 2))
    a = layers.Conv2D(6, 3, padding="same", name="a")(x)
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    return x, layers.Conv2D(2, 1)(shared(shared(a)))


@case(a=6)
def spectral_normalization():
    x = keras.Input((6, 6, 2))
    y = layers.SpectralNormalization(layers.Conv2D(6, 3), name="a")(x)
    return x, layers.Conv2D(2, 1)(y)


@case(a=8)
def reductions():
    x = keras.Input((6, 6, 2))
    a = layers.Conv2D(8, 3, name="a")(x)
    y = ops.stack([ops.sum(a, -1), ops.max(a, axis=-1), ops.mean(a, axis=3)], axis=-1)
    return x, layers.Conv2D(2, 1)(y) + ops.mean(a, axis=(1, 2, 3), keepdims=True)


def build(name):
    keras.utils.set_random_seed(0)
    inputs, outputs = CASES[name][0]()
    return keras.Model(inputs, outputs, name=name)


@pytest.mark.parametrize("name", list(CASES))
def test_layer_family(name):
    model = build(name)
    free = {group.name: group.width for group in find_groups(model) if group.fixed is None}
    assert free == CASES[name][1]
    plan = random_plan(model, np.random.default_rng(0))
    verify_plan(model, plan, tolerance=1e-4)
    slim = rebuild(model, plan)
    assert slim.count_params() < model.count_params()
    if keras.backend.backend() == "tensorflow":
        for _, mutated in swaps(model, plan):
            assert measure_difference(model, plan, mutated).largest_error > 1e-3


def test_attention_called_by_keywords():
    inputs = keras.Input((5, 8))
    x = layers.Dense(12, name="in")(inputs)
    x = layers.MultiHeadAttention(4, 3, name="m")(query=x, value=x, key=x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    plan = make_plan(model, ratio=0.5)
    assert plan.widths["in"] == 6
    assert plan.widths["m#heads"] == 2
    verify_plan(model, plan)


@pytest.mark.once
def test_every_rule_of_the_table_can_be_made():
    for entry in sorted(set(RULES.values())):
        file, _, name = entry.partition(":")
        module = importlib.import_module(f"spade_keras.pruning.rules.{file}")
        assert isinstance(getattr(module, name)(), ChannelRule)
