"""The cost of the multi-coil normal operator A^H A, beside the same formula by hand.

    KERAS_BACKEND=tensorflow python benchmarks/operators.py
    KERAS_BACKEND=jax python benchmarks/operators.py
    KERAS_BACKEND=torch python benchmarks/operators.py

Each run writes its backend's part of benchmarks/results/operators.json. Every figure is a ratio of
two functions timed interleaved in one process, with its 95 % interval:

* to the same formula in the backend's complex API, coil maps given as complex numbers, with plain
  FFTs and the mask shifted: for a mask over rows and columns, and for a mask of columns, where the
  transform of one axis cancels;
* to the same for six applications in a row, as in an unrolled network: a graph makes the library's
  real coil maps complex once for all of them;
* the first two once more with the library's coil maps given as complex numbers, as those by hand
  are (`complex_maps_full`, `complex_maps_columns`);
* to two bare FFTs of the coil images, which is what any method must pay for a two-dimensional mask;
* under PyTorch, to deepinv's `MultiCoilMRI`, where it is installed.

Under TensorFlow all run as graphs, under JAX jitted, under PyTorch eagerly without gradients.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import backend, latency
from spade_keras.operators import CartesianMRI

RESULT = Path(__file__).resolve().parent / "results" / "operators.json"
GOAL = 1.1
APPLICATIONS = 6


def make_problem(side: int, coils: int) -> dict[str, np.ndarray]:
    """An image, maps, and two masks; the columns' mask is also the row of the other."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((1, side, side, 2)).astype("float32"),
        "maps": rng.standard_normal((1, coils, side, side, 2)).astype("float32"),
        "full": (rng.uniform(size=(1, side, side)) < 0.3).astype("float32"),
        "columns": (rng.uniform(size=(1, 1, side)) < 0.3).astype("float32"),
    }


def complex_functions() -> dict[str, Callable[..., Any]]:
    """The formula and the bare FFTs in the backend's own complex API."""
    name = keras.backend.backend()
    native = importlib.import_module(name)
    if name == "tensorflow":
        return _tensorflow(native)
    if name == "jax":
        return _jax(importlib.import_module("jax.numpy"))
    return _torch(native)


def _tensorflow(tf: Any) -> dict[str, Callable[..., Any]]:
    def normal(x: Any, maps: Any, mask: Any, forward: Any, back: Any) -> Any:
        images = back(mask[:, None] * forward(maps * x[:, None]))
        return tf.reduce_sum(tf.math.conj(maps) * images, axis=1)

    return {
        "full": lambda p: normal(p["x"], p["maps"], p["full"], tf.signal.fft2d, tf.signal.ifft2d),
        "columns": lambda p: normal(p["x"], p["maps"], p["columns"], tf.signal.fft, tf.signal.ifft),
        "ffts": lambda p: tf.signal.ifft2d(tf.signal.fft2d(p["maps"])),
    }


def _jax(jnp: Any) -> dict[str, Callable[..., Any]]:
    def normal(x: Any, maps: Any, mask: Any, forward: Any, back: Any) -> Any:
        images = back(mask[:, None] * forward(maps * x[:, None]))
        return jnp.sum(jnp.conj(maps) * images, axis=1)

    fft = jnp.fft
    return {
        "full": lambda p: normal(p["x"], p["maps"], p["full"], fft.fft2, fft.ifft2),
        "columns": lambda p: normal(p["x"], p["maps"], p["columns"], fft.fft, fft.ifft),
        "ffts": lambda p: fft.ifft2(fft.fft2(p["maps"])),
    }


def _torch(torch: Any) -> dict[str, Callable[..., Any]]:
    def normal(x: Any, maps: Any, mask: Any, forward: Any, back: Any) -> Any:
        images = back(mask[:, None] * forward(maps * x[:, None]))
        return torch.sum(maps.conj() * images, dim=1)

    fft = torch.fft
    return {
        "full": lambda p: normal(p["x"], p["maps"], p["full"], fft.fft2, fft.ifft2),
        "columns": lambda p: normal(p["x"], p["maps"], p["columns"], fft.fft, fft.ifft),
        "ffts": lambda p: fft.ifft2(fft.fft2(p["maps"])),
    }


class Formula(keras.layers.Layer):
    """A function of a dict of tensors, to be run as the backend's users run a layer."""

    def __init__(self, function: Callable[[Any], Any], applications: int = 1) -> None:
        super().__init__(autocast=False)  # complex tensors stay complex
        self.function = function
        self.applications = applications
        self.built = True

    def call(self, inputs: Any) -> Any:
        for _ in range(self.applications):
            inputs = {**inputs, "x": self.function(inputs)}
        return inputs["x"]


def resident(problem: dict[str, np.ndarray]) -> dict[str, Any]:
    """The problem in complex numbers, the masks in the order of a plain FFT."""
    values = {name: problem[name][..., 0] + 1j * problem[name][..., 1] for name in ("x", "maps")}
    for name in ("full", "columns"):
        shifted = np.fft.ifftshift(problem[name], axes=(-2, -1))
        # TensorFlow multiplies like by like only; the others need no more than real numbers.
        kind = "complex64" if keras.backend.backend() == "tensorflow" else "float32"
        values[name] = shifted.astype(kind)
    return {
        name: value.astype("complex64") if name in ("x", "maps") else value
        for name, value in values.items()
    }


def library_functions() -> dict[str, Callable[..., Any]]:
    """A^H A of the library, for both masks."""
    operator = CartesianMRI()

    def normal(mask: str) -> Callable[..., Any]:
        return lambda p: operator.normal(p["x"], mask=p[mask], sensitivities=p["maps"])

    return {name: normal(name) for name in ("full", "columns")}


def deepinv_normal(problem: dict[str, np.ndarray]) -> Callable[[], Any] | str:
    """deepinv's A^H A on the same problem, or why it is not compared."""
    if keras.backend.backend() != "torch":
        return "needs the PyTorch backend"
    try:
        physics = importlib.import_module("deepinv.physics")
    except Exception as error:  # any failure there is the result
        return f"cannot be imported: {type(error).__name__}: {error}"
    torch = importlib.import_module("torch")
    x = torch.tensor(problem["x"]).movedim(-1, 1).contiguous()
    maps = torch.view_as_complex(torch.tensor(problem["maps"]))
    mask = torch.tensor(problem["full"])[:, None].expand(1, 2, -1, -1).contiguous()
    operator = physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=tuple(x.shape[1:]))

    def run() -> Any:
        with torch.inference_mode():
            return operator.A_adjoint_A(x)

    return run


def agreement(found: Any, expected: Any) -> float:
    """The largest difference between two results, relative to the largest value."""
    a, b = (np.asarray(keras.ops.convert_to_numpy(value)) for value in (found, expected))
    if np.iscomplexobj(b):
        b = np.stack([b.real, b.imag], axis=-1)
    if a.shape != b.shape:
        b = np.moveaxis(b, 1, -1)
    return float(np.abs(a - b).max() / np.abs(b).max())


def ratio(a: Any, b: Any, pairs: int, described: Any) -> dict[str, Any]:
    """Times a and b interleaved; the ratio is b / a."""
    compared = latency.compare(a, b, described=described, pairs=pairs)
    return {
        "ratio": compared.ratio.value,
        "low": compared.ratio.low,
        "high": compared.ratio.high,
        "reference_ms": compared.a.median_ms,
        "ours_ms": compared.b.median_ms,
    }


def run(side: int, coils: int, pairs: int) -> dict[str, Any]:
    problem = make_problem(side, coils)
    given = resident(problem)

    def prepare(functions: Any, inputs: Any, applications: int) -> dict[str, Callable[[], Any]]:
        return {
            name: backend.inference_function(Formula(function, applications), inputs)
            for name, function in functions.items()
        }

    ours, theirs, alike = (
        prepare(library_functions(), problem, 1),
        prepare(complex_functions(), given, 1),
        prepare(library_functions(), {**problem, "maps": given["maps"]}, 1),
    )
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "side": side,
        "coils": coils,
        "pairs": pairs,
        "goal": GOAL,
    }
    for name in ("full", "columns"):
        difference = agreement(ours[name](), theirs[name]())
        if difference > 1e-4:
            raise RuntimeError(f"The formulas differ. Received: {name}, difference={difference}")
        result[f"by_hand_{name}"] = ratio(theirs[name], ours[name], pairs, problem)
        result[f"by_hand_{name}"]["difference"] = difference
        result[f"complex_maps_{name}"] = ratio(theirs[name], alike[name], pairs, problem)
        result[f"two_ffts_{name}"] = ratio(theirs["ffts"], ours[name], pairs, problem)
    many = [
        prepare(functions, inputs, APPLICATIONS)["full"]
        for functions, inputs in ((complex_functions(), given), (library_functions(), problem))
    ]
    result["by_hand_in_a_row"] = {**ratio(*many, pairs, problem), "applications": APPLICATIONS}
    result["two_ffts_by_hand"] = ratio(theirs["ffts"], theirs["full"], pairs, problem)
    peer = deepinv_normal(problem)
    if isinstance(peer, str):
        result["deepinv"] = {"skipped": peer}
    else:
        result["deepinv"] = {
            **ratio(peer, ours["full"], pairs, problem),
            "difference": agreement(ours["full"](), peer()),
            "version": importlib.import_module("deepinv").__version__,
        }
    result["goal_met"] = {
        name: row["high"] <= GOAL
        for name, row in result.items()
        if name.startswith(("by_hand_", "complex_maps_"))
    }
    result["fingerprint"] = latency.fingerprint(problem)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=320, help="rows and columns of the image")
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=15, help="windows of each function")
    options = parser.parse_args()
    result = run(options.side, options.coils, options.pairs)
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    stored[keras.backend.backend()] = result
    RESULT.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    for name, value in result.items():
        if isinstance(value, dict) and "ratio" in value:
            print(f"{name:20s} {value['ratio']:.2f} ({value['low']:.2f} to {value['high']:.2f})")


if __name__ == "__main__":
    main()
