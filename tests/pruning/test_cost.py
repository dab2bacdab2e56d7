"""Counters, layer type by layer type, against products written out by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.pruning import count_macs, count_parameters, make_plan, rebuild


def _model(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(inputs[0] if len(inputs) == 1 else inputs))


CASES = {
    "dense": (lambda: layers.Dense(5), [(7,)], 7 * 5),
    "dense_on_sequence": (lambda: layers.Dense(5), [(3, 7)], 3 * 7 * 5),
    "einsum_dense": (
        lambda: layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4)),
        [(3, 7)],
        3 * 7 * 2 * 4,
    ),
    "einsum_dense_ellipsis": (
        lambda: layers.EinsumDense("...x,xy->...y", output_shape=4),
        [(3, 5, 7)],
        3 * 5 * 7 * 4,
    ),
    "conv1d": (lambda: layers.Conv1D(4, 3, strides=2), [(11, 2)], 5 * 3 * 2 * 4),
    "conv2d_same": (
        lambda: layers.Conv2D(4, (3, 5), padding="same"),
        [(6, 7, 2)],
        6 * 7 * 15 * 2 * 4,
    ),
    "conv2d_dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2), [(9, 9, 2)], 25 * 9 * 2 * 4),
    "conv2d_grouped": (lambda: layers.Conv2D(6, 3, groups=2), [(6, 6, 4)], 16 * 9 * 2 * 6),
    "conv3d": (lambda: layers.Conv3D(2, 2), [(4, 4, 4, 3)], 27 * 8 * 3 * 2),
    "conv1d_transpose": (
        lambda: layers.Conv1DTranspose(4, 3, strides=2),
        [(5, 2)],
        5 * 3 * 2 * 4,
    ),
    "conv2d_transpose": (
        lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        [(5, 6, 2)],
        5 * 6 * 9 * 2 * 4,
    ),
    "conv3d_transpose": (
        lambda: layers.Conv3DTranspose(2, 2, strides=2),
        [(3, 3, 3, 2)],
        27 * 8 * 2 * 2,
    ),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3), [(8, 5)], 6 * 3 * 5),
    "depthwise2d": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        [(6, 6, 5)],
        16 * 9 * 5 * 2,
    ),
    "separable1d": (lambda: layers.SeparableConv1D(4, 3), [(8, 5)], 6 * (3 * 5 + 5 * 4)),
    "separable2d": (
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2),
        [(6, 6, 5)],
        16 * (9 * 5 * 2 + 10 * 4),
    ),
    "simple_rnn": (lambda: layers.SimpleRNN(4), [(6, 3)], 6 * (3 * 4 + 4 * 4)),
    "lstm": (lambda: layers.LSTM(4), [(6, 3)], 6 * 4 * (3 * 4 + 4 * 4)),
    "gru": (lambda: layers.GRU(4, return_sequences=True), [(6, 3)], 6 * 3 * (3 * 4 + 4 * 4)),
    "bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(4)),
        [(6, 3)],
        2 * 6 * 4 * (3 * 4 + 4 * 4),
    ),
    "stacked_cells": (
        lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)]),
        [(6, 3)],
        6 * (4 * (3 * 4 + 4 * 4) + 3 * (4 * 5 + 5 * 5)),
    ),
    "conv_lstm": (
        lambda: layers.ConvLSTM2D(4, 3, padding="same"),
        [(2, 5, 5, 3)],
        2 * 25 * 9 * 4 * (3 * 4 + 4 * 4),
    ),
    "time_distributed": (
        lambda: layers.TimeDistributed(layers.Conv2D(4, 3)),
        [(2, 5, 5, 3)],
        2 * 9 * 9 * 3 * 4,
    ),
    "embedding": (lambda: layers.Embedding(20, 4), [(6,)], 0),
    "attention": (lambda: layers.Attention(), [(5, 4), (7, 4)], 5 * 7 * (4 + 4)),
    "additive_attention": (
        lambda: layers.AdditiveAttention(),
        [(5, 4), (7, 4)],
        5 * 7 * (4 + 4),
    ),
    "spectral_norm": (
        lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)),
        [(5, 5, 2)],
        9 * 9 * 2 * 4,
    ),
    "dot": (lambda: layers.Dot(axes=-1), [(5, 4), (7, 4)], 5 * 7 * 4),
    "norm": (lambda: layers.BatchNormalization(), [(5, 4)], 0),
    "prelu": (lambda: layers.PReLU(), [(5, 4)], 0),
    "squared_add": (lambda: layers.Add(), [(5, 4), (5, 4)], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_macs_per_layer_type(name):
    make, shapes, expected = CASES[name]
    report = count_macs(_model(make(), *shapes))
    assert (report.total, report.uncounted) == (expected, ())


@pytest.mark.parametrize("name", CASES)
def test_a_batch_counts_as_often_as_it_is_large(name):
    make, shapes, expected = CASES[name]
    report = count_macs(_model(make(), *shapes), [(3, *shape) for shape in shapes])
    assert report.total == 3 * expected


def test_multi_head_attention_projects_and_mixes():
    heads, key, value, queries, keys, width = 2, 3, 5, 7, 11, 6
    query, other = keras.Input((queries, width)), keras.Input((keys, 4))
    layer = layers.MultiHeadAttention(heads, key, value_dim=value)
    report = count_macs(keras.Model([query, other], layer(query, other)))
    projections = queries * width * heads * key + keys * 4 * heads * (key + value)
    mixing = queries * keys * heads * (key + value)
    assert report.total == projections + mixing + queries * heads * value * width


def test_attention_over_an_image_pairs_every_pixel():
    inputs = keras.Input((4, 5, 6))
    report = count_macs(keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs)))
    assert report.total == 20 * 6 * 6 * 4 + 20 * 20 * 2 * 6


def test_group_query_attention_projects_fewer_keys():
    inputs = keras.Input((7, 6))
    layer = layers.GroupQueryAttention(3, num_query_heads=4, num_key_value_heads=2)
    report = count_macs(keras.Model(inputs, layer(inputs, inputs)))
    projections = 7 * 6 * (4 + 2 + 2) * 3 + 7 * 12 * 6
    assert report.total == projections + 7 * 7 * 4 * (3 + 3)


def test_operations_of_the_graph_are_counted():
    a, b = keras.Input((3, 4)), keras.Input((4, 5))
    report = count_macs(keras.Model([a, b], keras.ops.matmul(a, b)))
    assert report.total == 3 * 4 * 5
    report = count_macs(keras.Model([a, b], keras.ops.einsum("bij,bjk->bik", a, b)))
    assert report.total == 3 * 4 * 5


def test_convolution_operations_are_counted_and_other_products_listed():
    x, kernel = keras.Input((6, 6, 4)), keras.Input(batch_shape=(3, 3, 4, 8))
    report = count_macs(
        keras.Model([x, kernel], keras.ops.conv(x, kernel)), [(1, 6, 6, 4), (3, 3, 4, 8)]
    )
    assert report.total == 16 * 9 * 4 * 8
    depthwise = keras.Input(batch_shape=(3, 3, 4, 2))
    model = keras.Model([x, depthwise], keras.ops.depthwise_conv(x, depthwise))
    assert count_macs(model).total == 16 * 9 * 4 * 2
    transposed = keras.Input(batch_shape=(3, 3, 5, 4))
    model = keras.Model([x, transposed], keras.ops.conv_transpose(x, transposed, strides=2))
    assert count_macs(model).total == 36 * 9 * 5 * 4
    a, b = keras.Input((4,)), keras.Input((4,))
    report = count_macs(keras.Model([a, b], keras.ops.outer(a, b)))
    assert (report.total, report.uncounted) == (0, ("outer",))


def test_a_tied_embedding_is_counted_when_it_projects_back():
    layer = layers.ReversibleEmbedding(20, 4, name="words")
    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, layer(layers.Dense(4)(layer(inputs)), reverse=True))
    assert count_macs(model).total == 6 * 4 * 4 + 6 * 4 * 20


def test_shared_and_nested_layers_count_once_per_call():
    inputs = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    inner_inputs = keras.Input((None, None, 4))
    inner = keras.Model(
        inner_inputs, layers.Conv2D(2, 1, name="inside")(inner_inputs), name="inner"
    )
    model = keras.Model(inputs, inner(layers.MaxPooling2D()(shared(shared(inputs)))))
    report = count_macs(model)
    assert report.layers["shared"] == 2 * 64 * 9 * 16
    assert report.layers["inner/inside"] == 16 * 4 * 2
    assert report.total == 2 * 64 * 9 * 16 + 16 * 4 * 2
    assert count_parameters(model) == (9 * 16 + 4) + (4 * 2 + 2)


def test_squeeze_and_excitation_counts_both_branches():
    x = inputs = keras.Input((8, 8, 6))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(6, 1, activation="sigmoid")(layers.Conv2D(2, 1)(gate))
    report = count_macs(keras.Model(inputs, layers.Multiply()([x, gate])))
    assert report.total == 6 * 2 + 2 * 6


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda form: layers.Conv2D(4, 3, data_format=form), (2, 6, 7), 20 * 9 * 2 * 4),
        (
            lambda form: layers.Conv2DTranspose(4, 3, strides=2, data_format=form),
            (2, 5, 6),
            30 * 9 * 2 * 4,
        ),
        (lambda form: layers.DepthwiseConv2D(3, data_format=form), (5, 6, 6), 16 * 9 * 5),
        (
            lambda form: layers.SeparableConv2D(4, 3, data_format=form),
            (5, 6, 6),
            16 * (9 * 5 + 5 * 4),
        ),
        (
            lambda form: layers.ConvLSTM2D(4, 3, padding="same", data_format=form),
            (2, 3, 5, 6),
            2 * 30 * 9 * 4 * (3 * 4 + 4 * 4),
        ),
    ],
)
def test_channels_first(make, shape, expected):
    assert count_macs(_model(make("channels_first"), shape)).total == expected


def test_open_sizes_need_inputs():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.Conv2D(3, 3, padding="same", name="conv")(inputs))
    with pytest.raises(ValueError, match="`inputs` must give the sizes"):
        count_macs(model)
    assert count_macs(model, (1, 10, 12, 2)).total == 120 * 9 * 2 * 3
    assert count_macs(model, np.zeros((2, 10, 12, 2))).total == 2 * 120 * 9 * 2 * 3
    with pytest.raises(ValueError, match=r"like \[\(None, None, None, 2\)\]"):
        count_macs(model, (1, 10, 2))


def test_sizes_a_layer_does_not_tell_are_found_by_tracing_it():
    inputs = keras.Input((9, 16))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 12))(inputs)
    model = keras.Model(inputs, layers.Dense(5)(x))
    assert model.layers[-1].input.shape == (None, None, 12)
    assert count_macs(model).total == 9 * 16 * 12 + 9 * 12 * 5


def test_named_inputs_are_taken_by_name():
    a, b = keras.Input((3,), name="a"), keras.Input((5,), name="b")
    model = keras.Model({"b": b, "a": a}, layers.Dense(2)(a) + layers.Dense(2)(b))
    assert count_macs(model).total == 3 * 2 + 5 * 2
    assert count_macs(model, {"b": (4, 5), "a": (4, 3)}).total == 4 * (3 * 2 + 5 * 2)


@keras.saving.register_keras_serializable("test_cost")
class Mystery(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


def test_a_layer_without_a_rule_is_listed_not_guessed():
    inputs = keras.Input((4,))
    report = count_macs(keras.Model(inputs, layers.Dense(3)(Mystery(name="mystery")(inputs))))
    assert report.uncounted == ("mystery",)
    assert report.total == 2 * 3


def test_parameters_include_moving_statistics_and_count_shared_weights_once():
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.BatchNormalization()(shared(shared(inputs))))
    assert count_parameters(model) == 4 * 4 + 4 + 4 * 4
    assert count_parameters(model) == model.count_params()


def test_unbuilt_models_and_other_objects_are_refused():
    with pytest.raises(ValueError, match="must be built"):
        count_parameters(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="must be a Keras model"):
        count_macs("model.keras")


def test_a_part_of_a_layer_that_is_never_used_is_no_fault():
    class Spare(Block):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.unused = layers.Dense(7)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Spare(name="block")(inputs))
    assert not model.get_layer("block").unused.built
    assert count_parameters(model) == 4 * 3 + 3 + 3 * 5 + 5


class Network(keras.Model):
    """Two priors, the first called three times: the protocol of an unrolled network."""

    def __init__(self, priors=None):
        super().__init__()
        self.step = self.add_weight(shape=(), name="step")
        self.inner = priors or {key: self._prior(key) for key in ("image", "maps")}
        self.built = True

    @staticmethod
    def _prior(name):
        inputs = keras.Input((None, None, 2))
        wide = layers.Conv2D(8, 3, padding="same", name="wide")
        conv = layers.Conv2D(2, 3, padding="same", name="conv")
        return keras.Model(inputs, conv(wide(inputs)), name=name)

    @property
    def priors(self):
        return dict(self.inner)

    def with_priors(self, priors):
        return Network({**self.priors, **priors})

    def prior_input_shapes(self, inputs):
        batch, coils, height, width, _ = inputs.shape
        image = [(batch, height, width, 2)] * 3
        return {"image": image, "maps": [(batch * coils, height, width, 2)]}


def test_networks_sum_over_priors_and_calls_and_say_what_is_left_out():
    network = Network()
    report = count_macs(network, np.zeros((1, 4, 6, 5, 2)))
    once = 30 * 9 * 2 * 8
    assert report.layers == {
        f"{prior}/{layer}": calls * once
        for prior, calls in (("image", 3), ("maps", 4))
        for layer in ("wide", "conv")
    }
    assert report.total == 14 * once
    assert "FFT" in report.note
    assert count_parameters(network) == 2 * (2 * 9 * 16 + 8 + 2) + 1
    with pytest.raises(ValueError, match="`inputs` must be given"):
        count_macs(network)


def test_networks_are_planned_over_their_priors_with_every_call_counted():
    network = Network()
    arrays = np.zeros((1, 4, 6, 5, 2), "float32")
    assert make_plan(network, ratio=0.5).steps[0].macs is None
    plan = make_plan(network, widths={"image/wide": 1, "maps/*": 5}, inputs=arrays)
    assert plan.widths == {"image/wide": 1, "image/conv": 2, "maps/wide": 5, "maps/conv": 2}
    slim = rebuild(network, plan)
    assert plan.steps[0].macs - plan.macs_saved == count_macs(slim, arrays).total
    assert plan.steps[0].parameters - plan.parameters_saved == count_parameters(slim)
    # A channel of the image prior takes part in three calls, one of the maps' in four.
    assert plan.groups[0].macs_saved == 3 * 30 * (8 - 1) * 9 * (2 + 2)
    assert plan.groups[2].macs_saved == 4 * 30 * (8 - 5) * 9 * (2 + 2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend is enough")
def test_published_counts():
    model = keras.applications.MobileNetV2(weights=None)
    assert count_macs(model).total == pytest.approx(300e6, rel=0.01)
    assert count_parameters(model) == 3_538_984


@keras.saving.register_keras_serializable("test_cost")
class Block(layers.Layer):
    """A composite layer: what it does is in the layers it calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(3, name="first")
        self.second = layers.Dense(5, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 3))

    def call(self, x):
        return self.second(self.first(x)) + 1.0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Block(name="block")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.block(x))


def test_composite_layers_and_subclassed_models_are_opened():
    inputs = keras.Input((4,))
    report = count_macs(keras.Model(inputs, Block(name="block")(inputs)))
    assert report.layers["block/first"] == 4 * 3 and report.layers["block/second"] == 3 * 5
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    report = count_macs(model)
    assert (report.total, report.uncounted) == (4 * 3 + 3 * 5 + 5 * 2, ())
    assert count_macs(model, (6, 4)).total == 6 * (4 * 3 + 3 * 5 + 5 * 2)
