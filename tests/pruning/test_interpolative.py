"""Interpolative pruning: exact at low rank, better than magnitudes, and refused where wrong."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.pruning import make_plan, prune_interpolative, rebuild


def _run(model, x):
    return ops.convert_to_numpy(model(x))


def _chain():
    """Convolution, norm, nested convolution, flatten, dense: all of rank below their widths."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 12)), layers.Conv2D(8, 3, name="deep"), layers.Flatten()], name="inner"
    )
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(12, 3, padding="same", name="wide")(inputs)
    x = inner(layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        draw = generator.uniform(0.5, 1.5, weight.shape)
        weight.assign(draw if "var" in weight.name else 0.3 * generator.normal(size=weight.shape))
    for layer, rank in ((model.get_layer("wide"), 5), (inner.get_layer("deep"), 3)):
        kernel = ops.convert_to_numpy(layer.kernel)
        width = kernel.shape[-1]
        if layer.name == "wide":
            # Copies times positive factors, so that they stay multiples after the activation.
            layer.kernel.assign(kernel[..., np.arange(width) % rank] * np.linspace(0.5, 2, width))
            layer.bias.assign(np.zeros(width))
            norm = model.get_layer("norm")
            norm.beta.assign(np.zeros(width))
            norm.moving_mean.assign(np.zeros(width))
            norm.gamma.assign(np.abs(ops.convert_to_numpy(norm.gamma)))
        else:
            layer.kernel.assign(kernel[..., :rank] @ generator.normal(size=(rank, width)))
            layer.bias.assign(np.zeros(width))
    return model


def test_low_rank_activations_are_kept_exactly():
    model = _chain()
    x = np.random.default_rng(1).normal(size=(32, 8, 8, 2)).astype("float32")
    made = prune_interpolative(model, x, widths={"wide": 5, "inner/deep": 3})
    assert max(made.errors.values()) < 1e-5
    assert made.plan.widths["wide"] == 5 and made.plan.widths["inner/deep"] == 3
    assert len(set(i % 5 for i in made.plan.groups[0].kept)) == 5
    fresh = np.random.default_rng(2).normal(size=(4, 8, 8, 2)).astype("float32")
    wanted = _run(model, fresh)
    assert np.abs(_run(made.model, fresh) - wanted).max() < 1e-4 * wanted.std()
    plain = _run(rebuild(model, made.plan), fresh)
    assert np.abs(plain - wanted).max() > 0.1 * wanted.std()


@pytest.mark.once
def test_one_channel_less_than_the_rank_is_not_exact():
    x = np.random.default_rng(1).normal(size=(32, 8, 8, 2)).astype("float32")
    made = prune_interpolative(_chain(), x, widths={"wide": 4})
    assert list(made.errors) == ["wide"] and made.errors["wide"] > 1e-2


@pytest.mark.once
def test_it_beats_magnitudes_without_labels_or_fine_tuning():
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 16)).astype("float32")
    y = (x[:, :4].sum(axis=1) > 0).astype(int) + 2 * (x[:, 4:8].sum(axis=1) > 0).astype(int)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(48, activation="relu", name="one"),
            layers.Dense(48, activation="relu", name="two"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=12, batch_size=50, verbose=0)

    def accuracy(network):
        fresh = np.random.default_rng(5).normal(size=(600, 16)).astype("float32")
        return (_run(network, fresh).argmax(1) == _run(model, fresh).argmax(1)).mean()

    made = prune_interpolative(model, x, ratio=0.75)
    magnitudes = accuracy(rebuild(model, make_plan(model, ratio=0.75, importance="group_l1")))
    assert accuracy(made.model) > magnitudes + 0.03
    assert [layer.units for layer in made.model.layers] == [12, 12, 4]


@pytest.mark.once
def test_readers_behind_mixing_layers_and_several_readers_are_refitted():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10,))
    x = layers.Dense(8, name="plain")(inputs)
    x = layers.Dense(8, name="mixed")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(8, name="twice")(x)
    x = layers.Concatenate()([layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    data = np.random.default_rng(0).normal(size=(50, 10)).astype("float32")
    made = prune_interpolative(model, data, ratio=0.5)
    widths = {"plain": 4, "mixed": 4, "twice": 4, "a": 2, "b": 2, "head": 2}
    assert made.plan.widths == widths
    assert set(made.errors) == {"plain", "mixed", "twice", "a", "b"}
    wanted = _run(model, data)
    cut = np.square(_run(rebuild(model, made.plan), data) - wanted).mean()
    assert np.square(_run(made.model, data) - wanted).mean() < 0.7 * cut


@pytest.mark.once
def test_groups_without_a_reader_that_can_be_refitted_keep_their_width():
    inputs = keras.Input((5, 10))
    x = layers.Dense(8, name="plain")(inputs)
    x = layers.Dense(8, name="odd")(x)
    head = layers.SpectralNormalization(layers.Dense(2), name="head")
    model = keras.Model(inputs, head(x))
    data = np.random.default_rng(0).normal(size=(50, 5, 10)).astype("float32")
    made = prune_interpolative(model, data, ratio=0.5)
    assert made.plan.widths == {"plain": 4, "odd": 8, "head": 2}
    assert made.plan.groups[1].fixed == "Interpolative has no score for it"
    for key, value in (("ratio", 0.5), ("widths", 4)):
        with pytest.raises(ValueError, match=f"`{key}.*'odd' is fixed: Interpolative has no"):
            prune_interpolative(model, data, **{key: {"odd": value}})


@pytest.mark.once
def test_a_model_without_such_readers_is_refused():
    head = layers.SpectralNormalization(layers.Dense(2))
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6), head], name="net")
    with pytest.raises(ValueError, match=r"whose readers can be refitted.*Received: model='net'"):
        prune_interpolative(model, np.ones((4, 4), "float32"), ratio=0.5)
    for name, value in (("importance", "group_l1"), ("blocks", ["add"])):
        with pytest.raises(ValueError, match=f"Received: {name}="):
            prune_interpolative(model, np.ones((4, 4)), ratio=0.5, **{name: value})


@pytest.mark.once
def test_data_must_be_finite():
    model = _chain()
    with pytest.raises(ValueError, match="`inputs` must lead to finite activations"):
        prune_interpolative(model, np.full((2, 8, 8, 2), np.nan, "float32"), ratio=0.5)


@pytest.mark.once
def test_fewer_samples_than_channels_still_give_a_model():
    model = keras.Sequential([keras.Input((9,)), layers.Dense(8, name="a"), layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(3, 9)).astype("float32")
    made = prune_interpolative(model, x, widths={"a": 4})
    assert made.errors["a"] < 1e-5
    wanted = _run(model, x)
    assert np.abs(_run(made.model, x) - wanted).max() < 1e-4 * wanted.std()
