"""What the contract does not ask of MRI: masks of all kinds, conventions, and old files."""

import numpy as np
import pytest
from keras import ops

from spade_keras.operators import CartesianMRI, SingleCoilMRI, adjoint_test

OPERATORS = [CartesianMRI, SingleCoilMRI]


def problem(operator, shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    return x, operator.example_parameters(shape, seed)


def assert_near(found, expected, rtol=2e-6):
    found, expected = ops.convert_to_numpy(found), ops.convert_to_numpy(expected)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= rtol * np.linalg.norm(expected)


def test_adjoint_at_image_scale_with_a_mask_over_rows_and_columns():
    operator = CartesianMRI()
    _, parameters = problem(operator, (1, 96, 64, 2))
    drawn = np.random.default_rng(0).uniform(size=(1, 96, 64)) < 0.3
    adjoint_test(operator, (1, 96, 64, 2), {**parameters, "mask": drawn.astype("float32")})


@pytest.mark.parametrize("probe", ["forward", "normal"])
def test_maps_may_be_complex_tensors(probe):
    operator = CartesianMRI()
    x, parameters = problem(operator, (2, 7, 9, 2))
    maps = parameters["sensitivities"]
    as_complex = {
        **parameters,
        "sensitivities": ops.convert_to_tensor(maps[..., 0] + 1j * maps[..., 1]),
    }
    assert_near(
        getattr(operator, probe)(x, **as_complex), getattr(operator, probe)(x, **parameters)
    )
    y = operator.forward(x, **parameters)
    assert_near(operator.adjoint(y, **as_complex), operator.adjoint(y, **parameters))


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("fft", ["fastmri", "modl", "calgary"])
@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
@pytest.mark.parametrize("rows", ["one row", "every row", "one column"])
def test_normal_for_weights_of_every_shape(kind, fft, size, rows):
    operator = kind(fft)
    x, parameters = problem(operator, (2, *size, 2))
    shape = {"one row": (1, size[1]), "every row": size, "one column": (size[0], 1)}[rows]
    # Weights, not ones: the normal operator has their squares.
    drawn = np.random.default_rng(7).uniform(size=(2, *shape))
    parameters["mask"] = drawn.astype("float32")
    expected = operator.adjoint(operator.forward(x, **parameters), **parameters)
    assert_near(operator.normal(x, **parameters), expected)


@pytest.mark.parametrize("kind", OPERATORS)
def test_norm_is_one_when_unitary_and_grows_with_the_pixels_when_not(kind):
    shape = (1, 12, 16, 2)
    full = {"mask": np.ones((1, 1, 16), "float32")}
    if kind is CartesianMRI:
        full["sensitivities"] = CartesianMRI().example_parameters(shape)["sensitivities"]
    assert kind("modl").norm(shape, full) == pytest.approx(1, rel=1e-4)
    assert kind("calgary").norm(shape, full) == pytest.approx(np.sqrt(12 * 16), rel=1e-4)


def test_a_config_from_before_there_were_conventions_is_fastmri():
    config = CartesianMRI("modl").get_config()
    del config["fft"]
    assert CartesianMRI.from_config(config).fft == "fastmri"


@pytest.mark.once
def test_unknown_convention_is_named():
    with pytest.raises(ValueError, match=r"one of \['calgary'.*Received: fft='itk'"):
        CartesianMRI("itk")


def test_missing_parameter_is_named():
    with pytest.raises(ValueError, match="missing: \\['sensitivities'\\]"):
        CartesianMRI().parameters({"mask": np.ones((1, 1, 4))})
