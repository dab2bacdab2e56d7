"""The U-Net: published sizes, formula, widths per convolution, pruning."""

import keras
import numpy as np
import pytest

from spade_keras.networks import priors
from spade_keras.pruning import find_groups, make_plan, rebuild, verify_plan

WIDTHS = [(3, 4, 5, 6, 7), (8, 9, 10, 11, 12), (13, 14)]


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def picture(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.once
def test_the_published_sizes():
    assert priors.unet().count_params() == 2_454_338
    assert priors.unet(filters=(8, 16, 32, 64, 128)).count_params() == 484_898


def test_equals_its_formula():
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
def test_every_convolution_has_its_width():
    model = priors.unet(filters=WIDTHS, channels=1)
    widths = {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}
    assert widths == {
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


@pytest.mark.once
def test_a_pruned_unet_is_an_ordinary_one():
    model = priors.unet(filters=[8, 8, 16])
    groups = {group.name: group.fixed for group in find_groups(model)}
    assert len(groups) == 5 + 5 + 2 + 1
    assert {name for name, fixed in groups.items() if fixed} == {"output"}
    names = ["down_{}_conv_0", "down_{}_conv_1", "up_{}", "up_{}_conv_0", "up_{}_conv_1"]
    widths = {
        name.format(level): width
        for level, row in enumerate([(3, 4, 5, 6, 7), (2, 8, 1, 6, 5), (9, 14)])
        for name, width in zip(names, row, strict=False)
    }
    slim = rebuild(model, make_plan(model, widths=widths))
    again = priors.unet(filters=[(3, 4, 5, 6, 7), (2, 8, 1, 6, 5), (9, 14)])
    assert again.get_config() == slim.get_config()
    again.set_weights(slim.get_weights())
    x = picture(1, 8, 12, 2)
    np.testing.assert_array_equal(answer(again, x), answer(slim, x))


@pytest.mark.once
def test_a_slim_unet_computes_what_the_masked_one_does():
    model = priors.unet(filters=[6, 8, 10])
    assert verify_plan(model, make_plan(model, ratio=0.5)).largest_error < 1e-4


def test_samples_do_not_see_each_other():
    model = priors.unet(filters=[4, 6])
    x = picture(3, 8, 8, 2)
    alone = np.concatenate([answer(model, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(answer(model, x), alone, atol=1e-5 * alone.std())


@pytest.mark.once
@pytest.mark.parametrize("filters", [[], [4, (4, 4, 4)], [(4, 4), 8], [4, (0, 4)], [True, 4]])
def test_wrong_widths(filters):
    with pytest.raises(ValueError, match=r"`filters` must hold one entry per level"):
        priors.unet(filters=filters)
