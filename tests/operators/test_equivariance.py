"""The commutator, and the transforms themselves."""

import numpy as np
import pytest
from keras import ops

from spade_keras.operators import TRANSFORMS, Blur, Downsampling, SingleCoilMRI, commutator


def test_commutator_equals_its_definition():
    operator, shape = SingleCoilMRI(), (2, 16, 16, 2)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    parameters = operator.example_parameters(shape)

    def normal(image):
        return ops.convert_to_numpy(operator.normal(image, **parameters))

    def turn(image):
        return np.rot90(image, axes=(1, 2)).copy()

    after = turn(normal(x))
    expected = np.linalg.norm(after - normal(turn(x))) / np.linalg.norm(after)
    found = commutator(
        operator, lambda image: ops.rot90(image, axes=(1, 2)), shape, parameters, image=x
    )
    assert found == pytest.approx(expected, rel=1e-5)
    assert commutator(operator, "rotate90", shape, parameters, image=x) >= found * (1 - 1e-6)


def test_a_symmetric_kernel_tells_nothing_by_rotations():
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None] / 16
    assert commutator(Blur(), "rotate90", (1, 24, 24, 1), {"kernel": kernel}) < 1e-5


def test_shifts_by_the_scale_tell_nothing_after_downsampling():
    def by_three(image):
        return ops.roll(image, 3, axis=1)

    shape = (1, 24, 24, 1)
    assert commutator(Downsampling(3), by_three, shape) < 1e-5
    assert commutator(Downsampling(3), "shift", shape) > 0.05


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_keep_shape_and_are_linear(name):
    x, z = np.random.default_rng(0).standard_normal((2, 2, 9, 9, 3)).astype("float32")
    for transform in TRANSFORMS[name]:
        out = ops.convert_to_numpy(transform(ops.convert_to_tensor(2 * x - z)))
        parts = [ops.convert_to_numpy(transform(ops.convert_to_tensor(part))) for part in (x, z)]
        assert out.shape == x.shape
        np.testing.assert_allclose(out, 2 * parts[0] - parts[1], atol=1e-5)


def test_scaling_enlarges_about_the_middle():
    ramp = np.arange(9, dtype="float32")[None, :, None, None] * np.ones((1, 1, 9, 1), "float32")
    n = np.arange(9)

    def scaled(position):
        out = TRANSFORMS["scale"][position](ops.convert_to_tensor(ramp))
        return ops.convert_to_numpy(out)[0, :, 4, 0]

    np.testing.assert_allclose(scaled(1), 4 + (n - 4) / 1.25, rtol=1e-6)
    # What would come from outside is zero.
    np.testing.assert_allclose(scaled(0)[1:8], 4 + (n[1:8] - 4) / 0.8, rtol=1e-6)


@pytest.mark.once
def test_unknown_transform_is_named():
    with pytest.raises(ValueError, match=r"one of \['flip_horizontal'.*transform='zoom'"):
        commutator(Blur(), "zoom", (1, 8, 8, 1))
