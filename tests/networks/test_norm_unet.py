"""Normalization and padding around a prior."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.networks import priors
from spade_keras.networks.norm_unet import NormUNet, pad_below, padded_shape, size_multiple


def answer(layer, x):
    return ops.convert_to_numpy(layer(x, training=False))


def picture(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def watched(multiple):
    """A prior that gives back its input, and needs sizes that are multiples."""
    image = keras.Input((None, None, 2))
    x = keras.layers.AveragePooling2D(multiple)(image)
    x = keras.layers.Rescaling(0.0)(keras.layers.UpSampling2D(multiple)(x))
    return keras.Model(image, keras.layers.Add()([image, x]))


@pytest.mark.parametrize("size", [(7, 9), (8, 12), (5, 4), (1, 3)])
def test_equals_its_formula_at_any_size(size):
    prior = priors.dncnn(filters=[3])
    prior.set_weights([picture(*w.shape) for w in prior.weights])
    x = 3e-5 * picture(2, *size, 2) + 1e-5
    mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), ddof=1, keepdims=True)
    wanted = std * answer(prior, (x - mean) / std) + mean
    np.testing.assert_allclose(answer(NormUNet(prior), x), wanted, atol=1e-4 * wanted.std())
    np.testing.assert_allclose(answer(NormUNet(watched(4)), x), x, atol=1e-5 * x.std())


def test_what_is_padded_is_zero_and_lies_around():
    """The prior sees the normalized image in the middle of zeros."""
    image = keras.Input((None, None, 2))
    seen = []

    class Watch(keras.layers.Layer):
        def call(self, x):
            seen.append(x)
            return x

    pooled = keras.layers.AveragePooling2D(4)(Watch()(image))
    layer = NormUNet(keras.Model(image, keras.layers.UpSampling2D(4)(pooled)))
    x = picture(1, 7, 9, 2)
    assert answer(layer, x).shape == x.shape
    inside = (x - x.mean((1, 2))) / x.std((1, 2), ddof=1)
    wanted = np.pad(inside, ((0, 0), (0, 1), (1, 2), (0, 0)))
    np.testing.assert_allclose(ops.convert_to_numpy(seen[-1]), wanted, atol=1e-5)
    assert padded_shape(layer.prior, None, 7, 9) == (None, 8, 12, 2)
    assert padded_shape(layer.prior, 3, None, 12) == (3, None, 12, 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_follows_scale_and_offset(scale):
    """N(a x + b) = a N(x) + b for a > 0, per sample and channel; and not for a < 0."""
    layer = NormUNet(priors.unet(filters=[3, 4]))
    x = picture(2, 7, 6, 2)
    a = scale * np.float32([[0.5, 2.0], [3.0, 1.0]])[:, None, None]
    b = scale * np.float32([[1.0, -2.0], [0.0, 0.5]])[:, None, None]
    wanted = a * answer(layer, x) + b
    np.testing.assert_allclose(answer(layer, a * x + b), wanted, atol=1e-4 * wanted.std())
    mirrored = answer(layer, -x) + answer(layer, x)
    assert np.abs(mirrored).max() > 0.05 * np.abs(answer(layer, x)).max()


def test_samples_do_not_see_each_other():
    layer = NormUNet(priors.unet(filters=[3, 4]))
    x = picture(3, 7, 6, 2) * np.float32([1, 10, 100])[:, None, None, None]
    alone = np.concatenate([answer(layer, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(answer(layer, x), alone, rtol=1e-4, atol=1e-5)


def test_a_constant_image_stays_finite():
    layer = NormUNet(priors.unet(filters=[3, 4]))
    for value in (0.0, 1.0):
        x = np.full((1, 4, 4, 2), value, "float32")
        np.testing.assert_allclose(answer(layer, x), x, atol=1e-5)


@pytest.mark.once
def test_sizes_are_multiples_of_the_product_of_the_strides():
    assert size_multiple(priors.unet(filters=[2] * 4)) == 8
    assert size_multiple(priors.res_unet(filters=[2] * 3)) == 4
    assert size_multiple(priors.edsr(filters=[2])) == 1
    inside = keras.Sequential([keras.Input((None, None, 2)), keras.layers.MaxPooling2D((2, 3))])
    assert size_multiple(keras.Sequential([inside, keras.layers.UpSampling2D(3)])) == 3
    with pytest.raises(ValueError, match="`prior` must be a Functional model"):
        size_multiple("unet")


def test_padding_below_repeats_the_last_row_and_column():
    x = picture(2, 5, 7, 3)
    padded = ops.convert_to_numpy(pad_below(x, 4))
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (0, 3), (0, 1), (0, 0)), mode="edge"))
    np.testing.assert_array_equal(ops.convert_to_numpy(pad_below(x[:, :4, :4], 4)), x[:, :4, :4])
