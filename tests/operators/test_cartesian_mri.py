"""The contract of every operator: adjoint, linearity, autograd, and the textbook formula."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import backend
from spade_keras.operators import CartesianMRI, adjoint_test

SIZES = [(8, 10), (7, 9)]


def problem(size=(8, 10), batch=2, coils=3, seed=0):
    rng = np.random.default_rng(seed)
    mask = (rng.uniform(size=(batch, 1, size[1])) < 0.5).astype("float32")
    mask[..., size[1] // 2] = 1
    maps = rng.standard_normal((batch, coils, *size, 2)).astype("float32")
    x = rng.standard_normal((batch, *size, 2)).astype("float32")
    return x, {"mask": mask, "sensitivities": maps}


def to_complex(x):
    x = ops.convert_to_numpy(x)
    return x[..., 0] + 1j * x[..., 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adjoint(size, seed):
    x, parameters = problem(size, seed=seed)
    report = adjoint_test(CartesianMRI(), x.shape, parameters, seed=seed)
    assert report.passed
    assert max(report.random_error, report.aligned_error) <= 1e-5


def test_adjoint_at_image_scale_with_a_mask_over_rows_and_columns():
    rng = np.random.default_rng(0)
    mask = (rng.uniform(size=(1, 96, 64)) < 0.3).astype("float32")
    maps = rng.standard_normal((1, 4, 96, 64, 2)).astype("float32")
    adjoint_test(CartesianMRI(), (1, 96, 64, 2), {"mask": mask, "sensitivities": maps})


def test_a_slightly_scaled_adjoint_fails():
    class Scaled(CartesianMRI):
        def adjoint(self, y, **parameters):
            return super().adjoint(y, **parameters) * 1.001

    x, parameters = problem((96, 96), batch=1, coils=4)
    with pytest.raises(ValueError, match=r"Scaled\.adjoint"):
        adjoint_test(Scaled(), x.shape, parameters)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_textbook_formula(size):
    x, parameters = problem(size)
    axes = (-2, -1)
    coil_images = to_complex(parameters["sensitivities"]) * to_complex(x)[:, None]
    spectrum = np.fft.fft2(np.fft.ifftshift(coil_images, axes=axes), norm="ortho")
    expected = np.fft.fftshift(spectrum, axes=axes) * parameters["mask"][:, None]
    np.testing.assert_allclose(
        to_complex(CartesianMRI().forward(x, **parameters)), expected, atol=1e-5
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ["one row", "every row"])
def test_normal_is_the_adjoint_of_the_forward(size, rows):
    x, parameters = problem(size)
    if rows == "every row":
        drawn = np.random.default_rng(7).uniform(size=(2, *size)) < 0.4
        parameters["mask"] = drawn.astype("float32")
    operator = CartesianMRI()
    expected = operator.adjoint(operator.forward(x, **parameters), **parameters)
    np.testing.assert_allclose(
        to_complex(operator.normal(x, **parameters)), to_complex(expected), atol=2e-5
    )


def test_linear():
    x, parameters = problem()
    z, _ = problem(seed=5)
    operator = CartesianMRI()
    combined = operator.forward(2 * x - 3 * z, **parameters)
    separate = 2 * to_complex(operator.forward(x, **parameters)) - 3 * to_complex(
        operator.forward(z, **parameters)
    )
    np.testing.assert_allclose(to_complex(combined), separate, atol=3e-5)


def test_autograd_equals_the_adjoint():
    x, parameters = problem()
    y = np.random.default_rng(9).standard_normal((2, 3, 8, 10, 2)).astype("float32")
    y *= parameters["mask"][:, None, ..., None]

    class Image(keras.Model):
        def __init__(self):
            super().__init__()
            self.operator = CartesianMRI()
            self.image = self.add_weight(shape=x.shape, name="image")
            self.built = True

        def call(self, inputs, training=False):
            return self.operator.forward(self.image, **inputs)

    model = Image()
    model.image.assign(x)
    [gradient] = backend.loss_gradients(
        model, lambda target, out: 0.5 * ops.sum((out - target) ** 2), parameters, y
    )
    operator = CartesianMRI()
    residual = operator.forward(x, **parameters) - ops.convert_to_tensor(y)
    expected = ops.convert_to_numpy(operator.adjoint(residual, **parameters))
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_stays_in_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        x, parameters = problem()
        operator = CartesianMRI()
        out = operator(x, **parameters)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(out.dtype) == "float32"
    expected = CartesianMRI().forward(x, **parameters)
    np.testing.assert_allclose(to_complex(out), to_complex(expected), atol=1e-6)


def test_rotations_are_informative_and_column_shifts_are_not():
    x, parameters = problem((16, 16), batch=1, coils=1)
    parameters["sensitivities"] = np.stack(
        [np.ones((1, 1, 16, 16)), np.zeros((1, 1, 16, 16))], axis=-1
    )
    operator = CartesianMRI()

    def commutator(transform):
        there = transform(ops.convert_to_numpy(operator.normal(x, **parameters)))
        back = ops.convert_to_numpy(operator.normal(transform(x), **parameters))
        return np.linalg.norm(there - back) / np.linalg.norm(there)

    assert operator.informative_transforms == ("rotate90",)
    assert commutator(lambda image: np.rot90(image, axes=(1, 2)).copy()) > 0.05
    assert commutator(lambda image: np.roll(image, 3, axis=1)) < 1e-4


def test_missing_parameter_is_named():
    with pytest.raises(ValueError, match="missing: \\['sensitivities'\\]"):
        CartesianMRI().parameters({"mask": np.ones((1, 1, 4))})
