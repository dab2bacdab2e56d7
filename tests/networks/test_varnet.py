"""The variational network: formula, data consistency, coil combination, protocol."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.networks import VarNet, priors
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.operators import CartesianMRI


def make_inputs(height=7, width=10, coils=3, rows=1, batch=2):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((batch, coils, height, width, 2)).astype("float32")
    maps /= np.sqrt((maps**2).sum((1, 4), keepdims=True))
    mask = (rng.random((batch, rows, width)) < 0.5).astype("float32")
    mask[..., width // 2] = 1
    k = rng.standard_normal((batch, coils, height, width, 2)).astype("float32")
    measured = k * mask[:, None, ..., None]
    return {"measurements": measured, "mask": mask, "sensitivities": maps}


def make(filters=(3, 4), iterations=2, operator=None, **options):
    keras.utils.set_random_seed(0)
    prior = priors.unet(filters=filters)
    network = VarNet(operator or CartesianMRI(), prior, iterations=iterations, **options)
    network.data_weights.assign(np.linspace(0.5, 1.5, iterations))
    return network


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def as_complex(x):
    x = ops.convert_to_numpy(x).astype("float64")
    return x[..., 0] + 1j * x[..., 1]


def as_pair(z):
    return np.stack([z.real, z.imag], axis=-1).astype("float32")


def transform(z, inverse=False, centered=True):
    axes = (-2, -1)
    z = np.fft.ifftshift(z, axes=axes) if centered else z
    z = (np.fft.ifft2 if inverse else np.fft.fft2)(z, norm="ortho")
    return np.fft.fftshift(z, axes=axes) if centered else z


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("fft", ["fastmri", "modl"])
def test_equals_the_iteration_in_k_space_written_out(rows, fft):
    inputs = make_inputs(rows=rows)
    network = make(operator=CartesianMRI(fft=fft))
    y, maps = as_complex(inputs["measurements"]), as_complex(inputs["sensitivities"])
    sampled, centered = inputs["mask"][:, None], fft == "fastmri"
    k = y
    for weight, cascade in zip([0.5, 1.5], network.cascades, strict=True):
        image = (maps.conj() * transform(k, True, centered)).sum(1)
        refined = as_complex(cascade(as_pair(image)))
        k = k - weight * sampled * (k - y) - transform(maps * refined[:, None], False, centered)
    coil_images = transform(k, True, centered)
    wanted = as_pair((maps.conj() * coil_images).sum(1))
    np.testing.assert_allclose(run(network, inputs), wanted, atol=2e-5 * np.abs(wanted).max())
    magnitudes = make(operator=CartesianMRI(fft=fft), output="magnitude")
    magnitudes.set_weights(network.get_weights())
    wanted = np.sqrt((np.abs(coil_images) ** 2).sum(1))[..., None]
    np.testing.assert_allclose(run(magnitudes, inputs), wanted, atol=2e-5 * wanted.max())


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_without_u_net_the_measured_lines_come_back(weight, monkeypatch):
    """Every step shrinks the error on sampled lines by 1 - lambda and leaves the others alone."""
    inputs = make_inputs(coils=1)
    inputs["sensitivities"] = np.zeros_like(inputs["sensitivities"])
    inputs["sensitivities"][..., 0] = 1  # one coil that sees all alike: the image is the coil's
    shape = (2, 7, 10, 2)
    disturbance = np.random.default_rng(1).standard_normal(shape).astype("float32")

    def disturb_once(self, x, training=None):
        return (self.name == "cascade_0") * ops.convert_to_tensor(disturbance) + 0 * x

    monkeypatch.setattr(NormUNet, "call", disturb_once)
    y, moved = as_complex(inputs["measurements"])[:, 0], transform(as_complex(-disturbance))
    for iterations in (1, 2, 5):
        network = make(iterations=iterations)
        network.data_weights.assign(np.full(iterations, weight))
        k = transform(as_complex(run(network, inputs)))
        left = np.where(inputs["mask"], (1 - weight) ** (iterations - 1), 1) * moved
        np.testing.assert_allclose(k - y, left, atol=1e-5)


def test_exact_maps_and_all_lines_give_the_truth(monkeypatch):
    monkeypatch.setattr(NormUNet, "call", lambda self, x, training=None: 0 * x)
    inputs = make_inputs()
    truth = np.random.default_rng(1).standard_normal((2, 7, 10, 2)).astype("float32")
    inputs["mask"] = np.ones_like(inputs["mask"])
    operator = CartesianMRI()
    inputs["measurements"] = operator.forward(truth, **operator.parameters(inputs))
    np.testing.assert_allclose(run(make(), inputs), truth, atol=1e-5)
    magnitude = np.linalg.norm(truth, axis=-1, keepdims=True)
    np.testing.assert_allclose(run(make(output="magnitude"), inputs), magnitude, atol=1e-5)


def test_what_was_not_sampled_is_not_read():
    inputs = make_inputs()
    elsewhere = 1 - inputs["mask"][:, None, ..., None]
    disturbed = {**inputs, "measurements": inputs["measurements"] + elsewhere}
    np.testing.assert_array_equal(run(make(), inputs), run(make(), disturbed))


def test_follows_the_scale_of_the_measurements():
    inputs = make_inputs()
    small = {**inputs, "measurements": 1e-6 * inputs["measurements"]}
    for output in ("image", "magnitude"):
        network = make(output=output)
        wanted = 1e-6 * run(network, inputs)
        np.testing.assert_allclose(run(network, small), wanted, atol=1e-4 * wanted.std())


@pytest.mark.once
def test_one_prior_stands_for_unshared_ones():
    keras.utils.set_random_seed(0)
    prior = priors.unet(filters=[3, 4])
    network = VarNet(CartesianMRI(), prior, iterations=3)
    assert list(network.priors) == ["cascade_0", "cascade_1", "cascade_2"]
    kernels = [part.get_weights()[0] for part in (prior, *network.priors.values())]
    for i in range(4):
        for j in range(i):
            assert np.abs(kernels[i] - kernels[j]).max() > 1e-3
    assert network.count_params() == 3 * (prior.count_params() + 1)
    assert ops.convert_to_numpy(network.data_weights).tolist() == [1, 1, 1]
    given = [priors.unet(filters=[2, 3]), priors.unet(filters=[4, 5])]
    assert list(VarNet(CartesianMRI(), given).priors.values()) == given


def test_with_priors_and_with_iterations():
    network, inputs = make(iterations=3), make_inputs()
    shorter = network.with_iterations(2)
    assert list(shorter.priors) == ["cascade_0", "cascade_1"]
    assert ops.convert_to_numpy(shorter.data_weights).tolist() == [0.5, 1.0]
    same = shorter.with_priors(dict(list(network.priors.items())[:2]))
    np.testing.assert_array_equal(run(same, inputs), run(shorter, inputs))


@pytest.mark.once
def test_every_prior_is_called_once_on_padded_images():
    network = make(filters=(3, 4, 5), iterations=2)
    shape = [(2, 8, 12, 2)]
    assert network.prior_input_shapes(make_inputs()) == {"cascade_0": shape, "cascade_1": shape}


@pytest.mark.once
def test_wrong_arguments():
    prior = priors.unet(filters=[2, 3])
    for iterations in (None, 0, True, 2.0):
        with pytest.raises(ValueError, match=f"iterations={iterations}"):
            VarNet(CartesianMRI(), prior, iterations=iterations)
    for wrong in ([], [prior, prior]):
        with pytest.raises(ValueError, match="`prior` must hold a model of its own"):
            VarNet(CartesianMRI(), wrong)
    with pytest.raises(ValueError, match=r"number of priors, 1.*iterations=2"):
        VarNet(CartesianMRI(), [prior], iterations=2)
    with pytest.raises(ValueError, match="output='phase'"):
        VarNet(CartesianMRI(), prior, 1, output="phase")
    for operator in (CartesianMRI(fft="calgary"), None):
        with pytest.raises(ValueError, match="`operator` must be a CartesianMRI with a unitary"):
            VarNet(operator, prior, 1)
