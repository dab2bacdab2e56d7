"""A network saved under TensorFlow gives equal outputs under JAX and PyTorch."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.networks import NETWORKS, priors
from spade_keras.operators import CartesianMRI, Downsampling

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="starts the other backends itself"
)

# Loads every network of a folder, and writes what it answers to its inputs.
OTHER_BACKEND = """
import sys
from pathlib import Path
import keras
import numpy as np
import spade_keras.networks

folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.keras")):
    with np.load(folder / f"{file.stem}.npz") as arrays:
        inputs = dict(arrays)
    network = keras.saving.load_model(file, compile=False)
    answer = keras.ops.convert_to_numpy(network(inputs, training=False))
    np.save(folder / f"{file.stem}.{keras.backend.backend()}.npy", answer)
"""


def mri_inputs(rng):
    maps = rng.standard_normal((1, 2, 8, 12, 2)).astype("float32")
    maps /= np.sqrt((maps**2).sum((1, 4), keepdims=True))
    mask = np.zeros((1, 1, 12), "float32")
    mask[..., ::3] = mask[..., 4:8] = 1
    measurements = rng.standard_normal((1, 2, 8, 12, 2)).astype("float32")
    measurements *= mask[:, None, ..., None]
    return {"measurements": measurements, "mask": mask, "sensitivities": maps}


def sr_inputs(rng):
    return {
        "measurements": rng.random((1, 6, 4, 3), "float32"),
        "kernel": rng.random((1, 5, 5), "float32") / 12,
        "noise_level": np.float32([[[[0.02]]]]),
    }


def mri(name, prior, **options):
    return NETWORKS[name](CartesianMRI(), prior, **options)


def contracting_prior():
    """An equilibrium is as exact as its solution, which is one where steps shrink errors."""
    prior = priors.edsr(filters=[4])
    prior.set_weights([0.5 * weight for weight in prior.get_weights()])
    return prior


MAKE = {
    "deep_equilibrium": lambda: mri(
        "deep_equilibrium",
        contracting_prior(),
        iterations=3,
        tolerance=1e-5,
        initial_mixing=0.8,
    ),
    "e2e_varnet": lambda: mri(
        "e2e_varnet",
        priors.unet(filters=[4, 6]),
        iterations=2,
        sensitivity=priors.unet(filters=[3, 4]),
    ),
    "unrolled_pgd": lambda: mri("unrolled_pgd", priors.dncnn(filters=[4]), iterations=2),
    "usrnet": lambda: NETWORKS["usrnet"](
        Downsampling(2), priors.res_unet(filters=[4, 6], condition_channels=1), 2, hidden=6
    ),
    "varnet": lambda: mri("varnet", priors.unet(filters=[4, 6]), iterations=2),
}


def test_a_saved_network_gives_equal_outputs_under_all_backends(tmp_path):
    assert set(MAKE) == set(NETWORKS)
    rng = np.random.default_rng(0)
    wanted = {}
    for name, make in MAKE.items():
        keras.utils.set_random_seed(1)
        network = make()
        for weight in network.weights:  # no weight is zero, and a fixed point still attracts
            noise = 0.02 * rng.standard_normal(weight.shape)
            weight.assign(ops.convert_to_numpy(weight) + noise.astype("float32"))
        inputs = sr_inputs(rng) if name == "usrnet" else mri_inputs(rng)
        network.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", **inputs)
        wanted[name] = ops.convert_to_numpy(network(inputs, training=False))
        assert wanted[name].std() > 1e-2

    processes = {
        backend: subprocess.Popen(
            [sys.executable, "-c", OTHER_BACKEND, str(tmp_path)],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for backend in ("jax", "torch")
    }
    for backend, process in processes.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        for name, answer in wanted.items():
            other = np.load(tmp_path / f"{name}.{backend}.npy")
            error = np.linalg.norm(other - answer) / np.linalg.norm(answer)
            assert error < 1e-4, (backend, name)
