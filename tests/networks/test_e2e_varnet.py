"""The end-to-end variational network: coil maps from the center of k-space, protocol."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.data import MASKS
from spade_keras.networks import E2EVarNet, NormUNet, VarNet, priors
from spade_keras.networks.varnet import autocalibration_window
from spade_keras.operators import CartesianMRI


def make_inputs(height=7, width=12, coils=3, batch=2):
    rng = np.random.default_rng(0)
    mask = np.zeros((batch, 1, width), "float32")
    mask[..., ::3] = 1
    mask[0, :, 4:8] = 1  # 4 central lines of one sample, 6 of the other
    mask[1, :, 3:9] = 1
    k = rng.standard_normal((batch, coils, height, width, 2)).astype("float32")
    return {"measurements": k * mask[:, None, ..., None], "mask": mask}


def make(**options):
    keras.utils.set_random_seed(0)
    operator = CartesianMRI()
    parts = {"prior": priors.unet(filters=[3, 4]), "sensitivity": priors.unet(filters=[2, 3])}
    network = E2EVarNet(operator, **{**parts, "iterations": 2, **options})
    network.varnet.data_weights.assign(np.linspace(0.5, 1.5, network.iterations))
    return network


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def maps_of(network, inputs):
    return ops.convert_to_numpy(network.estimate_sensitivities(inputs))


def equispaced_mask(width, acceleration, acs_lines, offset=0):
    shape = (width, width)
    mask = MASKS["equispaced"]
    return mask(shape, acceleration=acceleration, acs_lines=acs_lines, offset=offset)[0]


def test_maps_are_the_normalized_answers_on_the_central_lines():
    network, inputs = make(), make_inputs()
    window = np.zeros((2, 1, 1, 12, 1), "float32")
    window[0, ..., 4:8, :] = window[1, ..., 3:9, :] = 1
    k = inputs["measurements"] * window
    z = np.fft.ifftshift(k[..., 0] + 1j * k[..., 1], axes=(-2, -1))
    z = np.fft.fftshift(np.fft.ifft2(z, norm="ortho"), axes=(-2, -1))
    layer = NormUNet(network.priors["sensitivity"])
    images = np.stack([z.real, z.imag], axis=-1).astype("float32")
    answers = np.stack([ops.convert_to_numpy(layer(images[:, c])) for c in range(3)], axis=1)
    wanted = answers / np.sqrt((answers**2).sum((1, 4), keepdims=True))
    maps = maps_of(network, inputs)
    np.testing.assert_allclose(maps, wanted, atol=1e-4)
    np.testing.assert_allclose((maps**2).sum((1, 4)), 1, rtol=1e-5)


def test_equals_a_varnet_with_its_maps():
    inputs = make_inputs()
    for output in ("image", "magnitude"):
        network = make(output=output)
        maps = maps_of(network, inputs)
        varnet = VarNet(
            CartesianMRI(), [network.priors[f"cascade_{t}"] for t in range(2)], output=output
        )
        varnet.data_weights.assign([0.5, 1.5])
        wanted = run(varnet, {**inputs, "sensitivities": maps})
        np.testing.assert_allclose(run(network, inputs), wanted, atol=1e-6 * wanted.std())
        # Maps in the input are not read.
        np.testing.assert_array_equal(
            run(network, {**inputs, "sensitivities": 0 * maps}), run(network, inputs)
        )


def test_the_number_of_central_lines_can_be_told():
    network, inputs = make(), make_inputs()
    given = {**inputs, "acs_lines": np.array([4, 6])}
    np.testing.assert_array_equal(maps_of(network, given), maps_of(network, inputs))
    fewer = maps_of(network, {**inputs, "acs_lines": np.array([4, 2])})
    np.testing.assert_allclose(fewer[0], maps_of(network, inputs)[0], atol=1e-6)
    assert np.abs(fewer[1] - maps_of(network, inputs)[1]).max() > 1e-2
    # Whatever else is sampled has no influence on the maps, and what is not sampled on nothing.
    disturbed = {**inputs, "measurements": inputs["measurements"].copy()}
    disturbed["measurements"][:, :, :, 0] += 1
    np.testing.assert_array_equal(maps_of(network, disturbed), maps_of(network, inputs))
    disturbed["measurements"][:, :, :, 1] += 1
    assert np.all(inputs["mask"][..., 1] == 0)
    assert np.abs(run(network, disturbed) - run(network, inputs)).max() > 1e-3
    np.testing.assert_array_equal(maps_of(network, disturbed), maps_of(network, inputs))


def test_with_priors_and_with_iterations():
    network, inputs = make(), make_inputs()
    before = run(network, inputs)
    same = network.with_priors(network.priors)
    np.testing.assert_array_equal(run(same, inputs), before)
    slim = network.with_priors({**network.priors, "sensitivity": priors.unet(filters=[1, 1])})
    assert slim.priors["cascade_1"] is network.priors["cascade_1"]
    assert slim.count_params() < network.count_params()
    shorter = network.with_iterations(1)
    assert list(shorter.priors) == ["sensitivity", "cascade_0"]
    assert ops.convert_to_numpy(shorter.varnet.data_weights).tolist() == [0.5]
    np.testing.assert_array_equal(maps_of(shorter, inputs), maps_of(network, inputs))


@pytest.mark.once
def test_the_sensitivity_network_is_called_on_every_coil():
    assert make().prior_input_shapes(make_inputs()) == {
        "sensitivity": [(6, 8, 12, 2)],
        "cascade_0": [(2, 8, 12, 2)],
        "cascade_1": [(2, 8, 12, 2)],
    }


@pytest.mark.once
def test_the_sensitivity_network_is_the_published_one_by_default():
    network = make(sensitivity=None)
    assert network.priors["sensitivity"].count_params() == 484_898


@pytest.mark.once
def test_wrong_arguments():
    prior = priors.unet(filters=[2, 3])
    for operator in (CartesianMRI(fft="modl"), None):
        with pytest.raises(ValueError, match="`operator` must be a CartesianMRI with a centered"):
            E2EVarNet(operator, prior, 1)
    with pytest.raises(ValueError, match="iterations=0"):
        E2EVarNet(CartesianMRI(), prior, 0)


def window(mask, acs_lines=None):
    return ops.convert_to_numpy(autocalibration_window(np.asarray(mask, "float32"), acs_lines))


def written_out(line):
    """fastMRI's rule by loops."""
    width, center = len(line), len(line) // 2
    left = right = 0
    while center - left - 1 >= 0 and line[center - left - 1]:
        left += 1
    while center + right < width and line[center + right]:
        right += 1
    count = max(2 * min(left, right), 1)
    first = (width - count + 1) // 2
    return [float(first <= column < first + count) for column in range(width)]


@pytest.mark.parametrize("width", [15, 16])
def test_equals_the_rule_written_out(width):
    rng = np.random.default_rng(0)
    lines = (rng.random((40, width)) < 0.8).astype("float32")
    lines[0], lines[1] = 0, 1
    found = window(lines[:, None])
    assert found.shape == (40, 1, width)
    np.testing.assert_array_equal(found[:, 0], [written_out(line) for line in lines])
    assert len({row.sum() for row in found[:, 0]}) > 4


def test_lines_that_happen_to_touch_the_block_are_left_out():
    mask = equispaced_mask(32, 4, 6)
    assert mask[11:20].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    columns = np.flatnonzero(window(mask[None, None])[0, 0])
    np.testing.assert_array_equal(columns, np.arange(13, 19))


def test_a_given_number_of_lines_is_taken():
    masks = np.stack([equispaced_mask(17, 4, lines) for lines in (3, 4, 5)])[:, None]
    found = window(masks, np.array([3, 4, 5]))
    for row, lines in zip(found[:, 0], (3, 4, 5), strict=True):
        only = equispaced_mask(17, 17, lines, offset=16)
        only[16] = 0
        np.testing.assert_array_equal(row, only)
    np.testing.assert_array_equal(window(masks, np.array([[3], [4], [5]])), found)


def test_a_mask_with_rows_gives_a_rectangle():
    mask = np.zeros((1, 9, 12))
    mask[0, 2:7, 4:8] = 1
    mask[0, ::4, ::5] = 1
    wanted = np.zeros((1, 9, 12))
    wanted[0, 3:7, 4:8] = 1  # 2 rows above the middle one, 3 from it on: 4 from (9 - 4 + 1) // 2 on
    np.testing.assert_array_equal(window(mask), wanted)
    assert window(mask, np.array([4])).shape == (1, 1, 12)
