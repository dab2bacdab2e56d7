"""The residual U-Net: published sizes, formula, widths per convolution, pruning."""

import keras
import numpy as np
import pytest

from spade_keras.networks import priors
from spade_keras.pruning import find_groups, find_residual_blocks, make_plan, rebuild, verify_plan

WIDTHS = [(8, 3, 4), (9, 5)]


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def picture(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.once
def test_the_published_sizes():
    assert priors.res_unet(condition_channels=1).count_params() == 17_010_624
    tiny = priors.res_unet(filters=(16, 32, 64, 64), condition_channels=1)
    assert tiny.count_params() == 588_784


@pytest.mark.once
def test_equals_its_formula():
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
def test_a_pruned_res_unet_is_an_ordinary_one():
    model = priors.res_unet(filters=[8, 12], condition_channels=1, blocks=1)
    groups = {group.name: group.fixed for group in find_groups(model)}
    assert {name for name, fixed in groups.items() if fixed} == {"tail"}
    assert set(groups) - {"tail"} == {
        *("head", "down_0", "down_0_block_0_conv_0", "up_0_block_0_conv_0", "body_block_0_conv_0")
    }
    widths = {"head": 8, "down_0_block_0_conv_0": 3, "up_0_block_0_conv_0": 4}
    widths |= {"down_0": 9, "body_block_0_conv_0": 5}
    slim = rebuild(model, make_plan(model, widths=widths))
    again = priors.res_unet(filters=WIDTHS, condition_channels=1, blocks=1)
    assert again.get_config() == slim.get_config()
    again.set_weights(slim.get_weights())
    x = picture(1, 6, 8, 4)
    np.testing.assert_array_equal(answer(again, x), answer(slim, x))


@pytest.mark.once
def test_a_slim_res_unet_computes_what_the_masked_one_does():
    model = priors.res_unet(filters=[6, 8, 10])
    assert verify_plan(model, make_plan(model, ratio=0.5)).largest_error < 1e-4
    # The two runs of level 0 and 1 and the body, of two blocks each.
    assert len(find_residual_blocks(model)) >= 2 * 5


@pytest.mark.once
@pytest.mark.parametrize("filters", [[], [8, (8, 4)], [(8, 4, 4, 4, 4), (8, 4, -1)]])
def test_wrong_widths(filters):
    with pytest.raises(ValueError, match=r"`filters` must hold one entry per level"):
        priors.res_unet(filters=filters)
