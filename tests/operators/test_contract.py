"""One contract for every registered operator.

Adjoint, linearity, autograd, normal operator, norm, the textbook formula in NumPy, unknown sizes,
precision, saving, and which transforms are informative.
"""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import backend
from spade_keras.operators import (
    OPERATORS,
    TRANSFORMS,
    Blur,
    CartesianMRI,
    Composition,
    Denoising,
    Downsampling,
    Inpainting,
    Scaling,
    SingleCoilMRI,
    Stacking,
    adjoint_test,
    commutator,
)

SEEDS = [0, 1, 2]


def circular(x, kernel):
    rows, columns = kernel.shape[1:]
    out = np.zeros(x.shape)
    for i in range(rows):
        for j in range(columns):
            moved = np.roll(x, (i - rows // 2, j - columns // 2), axis=(1, 2))
            out += kernel[:, i, j, None, None, None] * moved
    return out


def valid(x, kernel):
    rows, columns = kernel.shape[1:]
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    out = 0
    for i in range(rows):
        for j in range(columns):
            part = x[:, rows - 1 - i :, columns - 1 - j :][:, :height, :width]
            out = out + kernel[:, i, j, None, None, None] * part
    return out


def reflect(x, kernel):
    margins = [(size - 1 - size // 2, size // 2) for size in kernel.shape[1:]]
    return valid(np.pad(x, ((0, 0), *margins, (0, 0)), mode="reflect"), kernel)


def to_complex(x):
    return x[..., 0] + 1j * x[..., 1]


def to_real(z):
    return np.stack([z.real, z.imag], axis=-1)


def centered(z):
    axes = (-2, -1)
    shifted = np.fft.fft2(np.fft.ifftshift(z, axes=axes), norm="ortho")
    return np.fft.fftshift(shifted, axes=axes)


def multicoil(transform):
    def measure(x, mask, sensitivities):
        coil_images = to_complex(sensitivities) * to_complex(x)[:, None]
        return to_real(transform(coil_images) * mask[:, None])

    return measure


def burst(x, kernel_0, kernel_1):
    return np.stack([circular(x, k)[:, ::2, ::2] for k in (kernel_0, kernel_1)], axis=1)


# Name in OPERATORS, how to make it, shapes (odd and even where there are odd ones), NumPy formula.
CASES = {
    "cartesian_mri": (
        "cartesian_mri",
        CartesianMRI,
        [(2, 9, 7, 2), (2, 8, 8, 2)],
        multicoil(centered),
    ),
    "cartesian_mri-modl": (
        "cartesian_mri",
        lambda: CartesianMRI("modl"),
        [(2, 9, 7, 2), (2, 8, 8, 2)],
        multicoil(lambda z: np.fft.fft2(z, norm="ortho")),
    ),
    "cartesian_mri-calgary": (
        "cartesian_mri",
        lambda: CartesianMRI("calgary"),
        [(2, 9, 7, 2), (2, 8, 8, 2)],
        multicoil(np.fft.fft2),
    ),
    "single_coil_mri": (
        "single_coil_mri",
        SingleCoilMRI,
        [(3, 7, 9, 2), (1, 8, 8, 2)],
        lambda x, mask: to_real(centered(to_complex(x)) * mask),
    ),
    "blur-circular": ("blur", Blur, [(2, 9, 7, 3), (2, 8, 10, 2)], circular),
    "blur-reflect": ("blur", lambda: Blur("reflect"), [(2, 9, 7, 1), (2, 8, 8, 2)], reflect),
    "blur-valid": ("blur", lambda: Blur("valid"), [(2, 9, 7, 3), (2, 8, 10, 2)], valid),
    "downsampling-2": (
        "downsampling",
        Downsampling,
        [(2, 8, 10, 3), (2, 8, 8, 1)],
        lambda x, kernel: circular(x, kernel)[:, ::2, ::2],
    ),
    "downsampling-3": (
        "downsampling",
        lambda: Downsampling(3),
        [(2, 9, 15, 1), (2, 12, 9, 3)],
        lambda x, kernel: circular(x, kernel)[:, ::3, ::3],
    ),
    "downsampling-4": (
        "downsampling",
        lambda: Downsampling(4),
        [(2, 12, 8, 3)],
        lambda x, kernel: circular(x, kernel)[:, ::4, ::4],
    ),
    "inpainting": (
        "inpainting",
        Inpainting,
        [(2, 7, 5, 3), (2, 4, 6, 1)],
        lambda x, mask: x * mask,
    ),
    "denoising": ("denoising", Denoising, [(2, 7, 5, 3), (2, 4, 6, 1)], lambda x: x),
    "composition": (
        "composition",
        lambda: Composition([Blur(), Inpainting(), Blur("valid")]),
        [(2, 9, 7, 1), (2, 8, 8, 2)],
        lambda x, kernel_0, mask, kernel_2: valid(circular(x, kernel_0) * mask, kernel_2),
    ),
    "stacking": (
        "stacking",
        lambda: Stacking([Downsampling(), Downsampling()]),
        [(2, 8, 10, 3)],
        burst,
    ),
    "scaling": (
        "scaling",
        lambda: Scaling(CartesianMRI(), -2.5),
        [(2, 9, 7, 2), (2, 8, 8, 2)],
        lambda x, **parameters: -2.5 * multicoil(centered)(x, **parameters),
    ),
}
each = pytest.mark.parametrize("case", CASES)
each_shape = pytest.mark.parametrize(
    ("case", "shape"), [(case, shape) for case in CASES for shape in CASES[case][2]]
)


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def numbers(x):
    return ops.convert_to_numpy(x)


def assert_near(found, expected, rtol):
    found, expected = numbers(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= rtol * np.linalg.norm(expected)


def test_every_operator_is_under_the_contract():
    assert {name for name, *_ in CASES.values()} == set(OPERATORS)
    for name, make, *_ in CASES.values():
        assert isinstance(make(), OPERATORS[name])


@each_shape
@pytest.mark.parametrize("seed", SEEDS)
def test_adjoint_on_both_probes(case, shape, seed):
    operator = CASES[case][1]()
    report = adjoint_test(operator, shape, seed=seed)
    assert report.random_error <= 1e-5
    assert report.aligned_error <= 1e-5


@each_shape
def test_equals_the_formula_in_numpy(case, shape):
    _, make, _, formula = CASES[case]
    operator, x = make(), noise(shape)
    parameters = operator.example_parameters(shape, seed=3)
    assert tuple(parameters) == operator.parameter_names
    expected = formula(
        x.astype("float64"), **{n: p.astype("float64") for n, p in parameters.items()}
    )
    assert_near(operator.forward(x, **parameters), expected, 2e-6)


@each
@pytest.mark.parametrize("seed", SEEDS)
def test_linear(case, seed):
    _, make, (shape, *_), _ = CASES[case]
    operator, x, z = make(), noise(shape, seed), noise(shape, seed + 10)
    parameters = operator.example_parameters(shape, seed)

    def a(image):
        return numbers(operator.forward(image, **parameters))

    def ah(measurements):
        return numbers(operator.adjoint(measurements, **parameters))

    assert_near(a(2 * x - 3 * z), 2 * a(x) - 3 * a(z), 2e-6)
    y, w = noise(a(x).shape, seed + 20), noise(a(x).shape, seed + 30)
    assert_near(ah(2 * y - 3 * w), 2 * ah(y) - 3 * ah(w), 2e-6)


@each_shape
@pytest.mark.parametrize("seed", SEEDS)
def test_normal_is_the_adjoint_of_the_forward(case, shape, seed):
    operator, x = CASES[case][1](), noise(shape, seed)
    parameters = operator.example_parameters(shape, seed)
    expected = operator.adjoint(operator.forward(x, **parameters), **parameters)
    assert_near(operator.normal(x, **parameters), numbers(expected), 2e-6)


class Residual(keras.Model):
    """Holds an image as its weight, so that a loss can be differentiated by it."""

    def __init__(self, operator, x):
        super().__init__()
        self.operator = operator
        self.image = self.add_weight(shape=x.shape, name="image")
        self.image.assign(x)
        self.built = True

    def call(self, inputs, training=False):
        return self.operator.forward(self.image, **inputs["parameters"])


@each
@pytest.mark.parametrize("seed", SEEDS)
def test_autograd_equals_the_adjoint_of_the_residual(case, seed):
    _, make, (shape, *_), _ = CASES[case]
    operator, x = make(), noise(shape, seed)
    parameters = operator.example_parameters(shape, seed)
    ax = numbers(operator.forward(x, **parameters))
    y = noise(ax.shape, seed + 10)
    [gradient] = backend.loss_gradients(
        Residual(operator, x),
        lambda target, out: 0.5 * ops.sum((out - target) ** 2),
        {"parameters": parameters},
        y,
    )
    assert_near(gradient, numbers(operator.adjoint(ax - y, **parameters)), 1e-5)


@each
def test_norm_equals_the_largest_singular_value(case):
    _, make, (shape, *_), _ = CASES[case]
    operator, shape = make(), (1, *shape[1:])
    parameters = operator.example_parameters(shape, seed=4)
    size = int(np.prod(shape))
    repeated = {name: np.repeat(value, size, axis=0) for name, value in parameters.items()}
    basis = np.eye(size, dtype="float32").reshape(size, *shape[1:])
    matrix = numbers(operator.forward(basis, **repeated)).reshape(size, -1)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    assert operator.norm(shape, parameters, iterations=500) == pytest.approx(largest, rel=2e-3)


def matches(described, shape):
    """Whether a shape fits one with unknown sizes, and is no vaguer in its last axis."""
    pairs = zip(described, shape, strict=True)
    return all(a in (None, b) for a, b in pairs) and described[-1] == shape[-1]


class Measure(keras.layers.Layer):
    """Returns A x, A^H A x by both ways."""

    def __init__(self, operator, **kwargs):
        super().__init__(**kwargs)
        self.operator = operator

    def call(self, inputs):
        x, parameters = inputs["x"], self.operator.parameters(inputs)
        y = self.operator(x, **parameters)
        return y, self.operator.adjoint(y, **parameters), self.operator.normal(x, **parameters)

    def compute_output_spec(self, inputs):
        x, parameters = inputs["x"], {n: inputs[n] for n in self.operator.parameter_names}
        image = keras.KerasTensor(x.shape, dtype="float32")
        return self.operator.compute_output_spec(x, **parameters), image, image


def model_of_unknown_sizes(operator, shape):
    inputs = {"x": keras.Input((None, None, shape[-1]), name="x")}
    for name, value in operator.example_parameters(shape).items():
        last = value.shape[-1:] if value.ndim > 3 else (None,)
        inputs[name] = keras.Input((*[None] * (value.ndim - 2), *last), name=name)
    return keras.Model(inputs, Measure(operator)(inputs))


@each
def test_sizes_unknown_when_built(case):
    _, make, shapes, _ = CASES[case]
    operator = make()
    channels = shapes[0][-1]
    model = model_of_unknown_sizes(operator, shapes[0])
    for batch, shape in enumerate(shapes, start=1):
        shape = (batch, *shape[1:-1], channels)
        x, parameters = noise(shape), operator.example_parameters(shape, seed=1)
        expected = operator.forward(x, **parameters)
        assert matches(model.output_shape[0], numbers(expected).shape)
        y, back, normal = model.predict({"x": x, **parameters}, verbose=0)
        assert_near(y, numbers(expected), 2e-6)
        expected = numbers(operator.adjoint(expected, **parameters))
        assert_near(back, expected, 2e-6)
        assert_near(normal, expected, 2e-6)


@each
def test_stays_in_float32_under_mixed_precision(case):
    _, make, (shape, *_), _ = CASES[case]
    x = noise(shape).astype("float16")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        operator = make()
        parameters = operator.example_parameters(shape)
        y = operator(x, **parameters)
        results = [y, operator.adjoint(y, **parameters), operator.normal(x, **parameters)]
    finally:
        keras.config.set_dtype_policy("float32")
    assert {keras.backend.standardize_dtype(result.dtype) for result in results} == {"float32"}
    full = make()
    assert_near(y, numbers(full.forward(x.astype("float32"), **parameters)), 1e-6)
    assert_near(results[2], numbers(full.normal(x.astype("float32"), **parameters)), 1e-6)


@each
def test_saved_and_loaded(case, tmp_path):
    _, make, (shape, *_), _ = CASES[case]
    operator, x = make(), noise(shape)
    parameters = operator.example_parameters(shape, seed=2)
    again = type(operator).from_config(operator.get_config())
    assert again.get_config() == operator.get_config()
    assert again.parameter_names == operator.parameter_names
    inputs = {"x": keras.Input(shape[1:], name="x")}
    inputs.update({n: keras.Input(p.shape[1:], name=n) for n, p in parameters.items()})
    model = keras.Model(
        inputs, operator(inputs["x"], **{name: inputs[name] for name in parameters})
    )
    model.save(tmp_path / "operator.keras")
    loaded = keras.models.load_model(tmp_path / "operator.keras")
    assert model.output_shape[1:] == numbers(operator.forward(x, **parameters)).shape[1:]
    data = {"x": x, **parameters}
    found = loaded.predict(data, verbose=0)
    np.testing.assert_allclose(found, model.predict(data, verbose=0), rtol=1e-6)
    assert_near(found, numbers(operator.forward(x, **parameters)), 2e-6)


@each
@pytest.mark.parametrize("seed", SEEDS)
def test_transforms_are_informative_where_stated(case, seed):
    operator = CASES[case][1]()
    assert not set(operator.informative_transforms) & set(operator.uninformative_transforms)
    channels = CASES[case][2][0][-1]
    for name in TRANSFORMS:
        measured = commutator(operator, name, (4, 36, 36, channels), seed=seed)
        stated = "uninformative" if name in operator.uninformative_transforms else "informative"
        assert ("informative" if measured > 0.05 else "uninformative") == stated, (name, measured)
    assert set(operator.informative_transforms) <= set(TRANSFORMS)
