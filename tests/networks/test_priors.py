"""The denoisers: published sizes, formulas, widths, pruning to an ordinary configuration."""

import keras
import numpy as np
import pytest

from spade_keras.networks import priors
from spade_keras.pruning import find_groups, find_residual_blocks, make_plan, rebuild, verify_plan


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def picture(*shape):
    return np.random.default_rng(0).normal(size=shape or (1, 6, 8, 2)).astype("float32")


def widths_of(model):
    return {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}


@pytest.mark.once
def test_the_published_sizes():
    assert priors.edsr().count_params() == 999_426
    assert priors.PRIORS.make("edsr", filters=(64,) * 13, kernel_size=3).count_params() == 999_426
    assert priors.unet().count_params() == 2_454_338
    assert priors.unet(filters=(8, 16, 32, 64, 128)).count_params() == 484_898
    assert priors.res_unet(condition_channels=1).count_params() == 17_010_624
    tiny = priors.res_unet(filters=(16, 32, 64, 64), condition_channels=1)
    assert tiny.count_params() == 588_784


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


def test_unet_equals_its_formula():
    model = priors.unet(filters=[3, 4, 5], negative_slope=0.1)
    kernels = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}

    def convolve(x, kernel):
        size = kernel.shape[0]
        padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        h, w = x.shape[1:3]
        parts = [
            padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(size) for j in range(size)
        ]
        return sum(parts)

    def normalize(x):
        x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
        return np.where(x > 0, x, 0.1 * x)

    def block(x, name):
        for index in range(2):
            x = normalize(convolve(x, kernels[f"{name}_conv_{index}"][0]))
        return x

    def up(x, kernel):  # (2, 2, out, in)
        y = np.einsum("bhwi,pqoi->bhpwqo", x, kernel)
        b, h, _, w, _, o = y.shape
        return y.reshape(b, 2 * h, 2 * w, o)

    def pool(x):
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))

    x = picture(2, 8, 12, 2)
    fine = block(x.astype("float64"), "down_0")
    middle = block(pool(fine), "down_1")
    y = block(pool(middle), "down_2")
    for index, skip in ((1, middle), (0, fine)):
        y = np.concatenate([normalize(up(y, kernels[f"up_{index}"][0])), skip], axis=-1)
        y = block(y, f"up_{index}")
    kernel, bias = kernels["output"]
    wanted = y @ kernel[0, 0] + bias
    np.testing.assert_allclose(answer(model, x), wanted, atol=2e-4 * wanted.std())


@pytest.mark.once
def test_res_unet_equals_its_formula():
    model = priors.res_unet(filters=[4, 6, 8], channels=1, condition_channels=1, blocks=1)
    layer, x = model.get_layer, picture(2, 8, 12, 2)

    def block(z, name):
        inner = np.maximum(answer(layer(f"{name}_block_0_conv_0"), z), 0)
        return z + answer(layer(f"{name}_block_0_conv_1"), inner)

    fine = answer(layer("head"), x)
    middle = answer(layer("down_0"), block(fine, "down_0"))
    coarse = answer(layer("down_1"), block(middle, "down_1"))
    y = block(coarse, "body") + coarse
    y = block(answer(layer("up_1"), y), "up_1") + middle
    y = block(answer(layer("up_0"), y), "up_0") + fine
    wanted = answer(layer("tail"), y)
    assert wanted.shape == (2, 8, 12, 1)
    np.testing.assert_allclose(answer(model, x), wanted, atol=1e-5 * wanted.std())
    assert layer("down_1").kernel.shape == (2, 2, 6, 8)
    assert not [weight.path for weight in model.weights if weight.name != "kernel"]


@pytest.mark.once
def test_edsr_takes_widths_per_layer():
    model = priors.edsr(filters=[3, 5], trunk=4, channels=1, kernel_size=5)
    assert widths_of(model) == {
        "head": 4,
        **{"block_0_conv_0": 3, "block_0_conv_1": 4, "block_1_conv_0": 5, "block_1_conv_1": 4},
        **{"body_end": 4, "tail": 1},
    }
    assert model.get_layer("head").kernel.shape == (5, 5, 1, 4)
    assert priors.edsr(filters=[3, 5]).get_layer("head").filters == 5


UNET_WIDTHS = [(3, 4, 5, 6, 7), (8, 9, 10, 11, 12), (13, 14)]


@pytest.mark.once
def test_every_convolution_of_a_unet_has_its_width():
    model = priors.unet(filters=UNET_WIDTHS, channels=1)
    assert widths_of(model) == {
        **{"down_0_conv_0": 3, "down_0_conv_1": 4, "up_0": 5},
        **{"up_0_conv_0": 6, "up_0_conv_1": 7},
        **{"down_1_conv_0": 8, "down_1_conv_1": 9, "up_1": 10},
        **{"up_1_conv_0": 11, "up_1_conv_1": 12},
        **{"down_2_conv_0": 13, "down_2_conv_1": 14, "output": 1},
    }
    assert [w.name for w in model.weights].count("bias") == 1
    single = priors.unet(filters=[3, 5])
    again = priors.unet(filters=[(3,) * 5, (5, 5)])
    assert single.get_config() == again.get_config()


# A prior, its unconstrained groups, new widths, and the arguments that make the slim one.
EDSR = {"head": 6, "block_0_conv_0": 2, "block_1_conv_0": 5}
RES_UNET = {
    **{"head": 8, "down_0_block_0_conv_0": 3, "up_0_block_0_conv_0": 4},
    **{"down_0": 9, "body_block_0_conv_0": 5},
}
UNET = {
    name.format(level): width
    for level, row in enumerate([(3, 4, 5, 6, 7), (2, 8, 1, 6, 5), (9, 14)])
    for name, width in zip(
        ["down_{}_conv_0", "down_{}_conv_1", "up_{}", "up_{}_conv_0", "up_{}_conv_1"],
        row,
        strict=False,
    )
}
PRUNED = {
    "edsr": (
        {"filters": [8, 8], "trunk": 8, "residual_scale": 0.1},
        EDSR,
        {"filters": [2, 5], "trunk": 6, "residual_scale": 0.1},
        "tail",
    ),
    "res_unet": (
        {"filters": [8, 12], "condition_channels": 1, "blocks": 1},
        RES_UNET,
        {"filters": [(8, 3, 4), (9, 5)], "condition_channels": 1, "blocks": 1},
        "tail",
    ),
    "unet": (
        {"filters": [8, 8, 16]},
        UNET,
        {"filters": [(3, 4, 5, 6, 7), (2, 8, 1, 6, 5), (9, 14)]},
        "output",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", sorted(PRUNED))
def test_a_pruned_prior_is_an_ordinary_one(name):
    options, widths, slim_options, last = PRUNED[name]
    model = priors.PRIORS.make(name, **options)
    groups = {group.name: group.fixed for group in find_groups(model)}
    assert groups == {**dict.fromkeys(widths), last: "a model output"}
    slim = rebuild(model, make_plan(model, widths=widths))
    again = priors.PRIORS.make(name, **slim_options)
    assert again.get_config() == slim.get_config()
    again.set_weights(slim.get_weights())
    x = picture(1, 8, 12, model.input_shape[-1])
    np.testing.assert_array_equal(answer(again, x), answer(slim, x))


@pytest.mark.once
@pytest.mark.parametrize("make", [priors.unet, priors.res_unet])
def test_a_slim_prior_computes_what_the_masked_one_does(make):
    model = make(filters=[6, 8, 10])
    assert verify_plan(model, make_plan(model, ratio=0.5)).largest_error < 1e-4
    if make is priors.res_unet:  # the two runs of level 0 and 1 and the body, of two blocks each
        assert len(find_residual_blocks(model)) >= 2 * 5


def test_samples_of_a_unet_do_not_see_each_other():
    model = priors.unet(filters=[4, 6])
    x = picture(3, 8, 8, 2)
    alone = np.concatenate([answer(model, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(answer(model, x), alone, atol=1e-5 * alone.std())


@pytest.mark.once
@pytest.mark.parametrize("name", list(priors.PRIORS))
def test_every_prior_keeps_the_shape_and_saves(name, tmp_path):
    model = priors.PRIORS.make(name, filters=[4, 3], channels=3)
    x = picture(1, 6, 8, 3)
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


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "filters"),
    [
        *((priors.unet, f) for f in ([], [4, (4,) * 3], [(4, 4), 8], [4, (0, 4)], [True, 4])),
        *((priors.res_unet, f) for f in ([], [8, (8, 4)], [(8, 4, 4, 4, 4), (8, 4, -1)])),
    ],
)
def test_wrong_widths_of_levels(make, filters):
    with pytest.raises(ValueError, match=r"`filters` must hold one entry per level"):
        make(filters=filters)
