"""The denoisers: published sizes, formula, widths, pruning to an ordinary configuration."""

import keras
import numpy as np
import pytest

from spade_keras.networks import priors
from spade_keras.pruning import find_groups, make_plan, rebuild


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def picture(channels=2):
    return np.random.default_rng(0).normal(size=(1, 6, 8, channels)).astype("float32")


@pytest.mark.once
def test_the_default_edsr_has_the_published_size():
    assert priors.edsr().count_params() == 999_426
    assert priors.PRIORS.make("edsr", filters=(64,) * 13, kernel_size=3).count_params() == 999_426


@pytest.mark.once
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_edsr_equals_its_formula(scale):
    model = priors.edsr(filters=[3, 5], trunk=4, activation="relu", residual_scale=scale)
    layer, x = model.get_layer, picture()
    h = z = answer(layer("head"), x)
    for k in range(2):
        inner = np.maximum(answer(layer(f"block_{k}_conv_0"), z), 0)
        z = z + scale * answer(layer(f"block_{k}_conv_1"), inner)
    wanted = answer(layer("tail"), h + answer(layer("body_end"), z))
    np.testing.assert_allclose(answer(model, x), wanted, atol=1e-5)


@pytest.mark.once
def test_edsr_takes_widths_per_layer():
    model = priors.edsr(filters=[3, 5], trunk=4, channels=1, kernel_size=5)
    widths = {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}
    assert widths == {
        "head": 4,
        **{"block_0_conv_0": 3, "block_0_conv_1": 4, "block_1_conv_0": 5, "block_1_conv_1": 4},
        **{"body_end": 4, "tail": 1},
    }
    assert model.get_layer("head").kernel.shape == (5, 5, 1, 4)
    assert priors.edsr(filters=[3, 5]).get_layer("head").filters == 5


@pytest.mark.once
def test_a_pruned_edsr_is_an_ordinary_one():
    model = priors.edsr(filters=[8, 8], trunk=8, residual_scale=0.1)
    groups = {group.name: group.fixed for group in find_groups(model)}
    assert groups == {
        **{"head": None, "block_0_conv_0": None, "block_1_conv_0": None},
        "tail": "a model output",
    }
    slim = rebuild(
        model, make_plan(model, widths={"head": 6, "block_0_conv_0": 2, "block_1_conv_0": 5})
    )
    again = priors.edsr(filters=[2, 5], trunk=6, residual_scale=0.1)
    assert again.get_config() == slim.get_config()
    again.set_weights(slim.get_weights())
    np.testing.assert_array_equal(answer(again, picture()), answer(slim, picture()))


@pytest.mark.once
@pytest.mark.parametrize("name", list(priors.PRIORS))
def test_every_prior_keeps_the_shape_and_saves(name, tmp_path):
    model = priors.PRIORS.make(name, filters=[4, 3], channels=3)
    x = picture(3)
    assert answer(model, x).shape == x.shape
    model.save(tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    np.testing.assert_array_equal(answer(loaded, x), answer(model, x))


@pytest.mark.once
def test_wrong_widths():
    for name in priors.PRIORS:
        with pytest.raises(ValueError, match=r"`filters` must hold.*filters=\[4, 0\]"):
            priors.PRIORS.make(name, filters=[4, 0])
    for trunk in (0, True, 2.0):
        with pytest.raises(ValueError, match=f"`trunk` must be a positive.*trunk={trunk}"):
            priors.edsr(filters=[4], trunk=trunk)
