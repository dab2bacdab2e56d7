"""Loads, compares and times SavedModels in a process without Keras and spade-keras.

    python -P check_script.py FOLDER

reads `job.json` and `arrays.npz` of FOLDER and writes `answer.json` there. A script: of the library
it runs the one file that times windows, which is of the standard library alone.
"""

from __future__ import annotations

import functools
import json
import platform
import runpy
import sys
import time
from pathlib import Path
from typing import Any

_FORBIDDEN = ("keras", "tf_keras", "spade_keras")


def _forbid_keras() -> None:
    """Makes importing Keras fail: TensorFlow imports it, but a SavedModel does not need it."""
    loaded = _loaded_forbidden()
    if loaded:
        raise RuntimeError(f"Already imported when the check began: {', '.join(loaded)}")
    for name in _FORBIDDEN:
        sys.modules[name] = None  # type: ignore[assignment]


def _loaded_forbidden() -> list[str]:
    return sorted(
        name
        for name, module in list(sys.modules.items())
        if module is not None and name.split(".")[0] in _FORBIDDEN
    )


def _named(arrays: Any, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
    }


class _Served:
    """The serving signature of a SavedModel as a function of our named inputs."""

    def __init__(self, tf: Any, folder: str, names: set[str]) -> None:
        start = time.perf_counter()
        self._loaded = tf.saved_model.load(folder)  # owns the weights
        self._signature = self._loaded.signatures["serving_default"]
        known = set(self._signature.structured_input_signature[1])
        if names == {""} and len(known) == 1:
            self._names = {"": next(iter(known))}
        elif names == known:
            self._names = {name: name for name in names}
        else:
            raise ValueError(
                f"The SavedModel {folder} takes the inputs {sorted(known)}. "
                f"Received: {sorted(names)}"
            )
        self.load_ms = (time.perf_counter() - start) * 1e3

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self._signature(**{self._names[name]: value for name, value in inputs.items()})


def _error(np: Any, outputs: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Returns the largest error over all outputs, absolute and relative to the expected range."""
    if set(expected) == {""} and len(outputs) == 1:
        expected = {next(iter(outputs)): expected[""]}
    if set(expected) != set(outputs):
        raise ValueError(
            f"The SavedModel gives the outputs {sorted(outputs)}. Expected: {sorted(expected)}"
        )
    absolute = relative = 0.0
    for name, wanted in expected.items():
        given = outputs[name].numpy()
        if given.shape != wanted.shape:
            raise ValueError(f"Output {name} has shape {given.shape}. Expected: {wanted.shape}")
        if not np.all(np.isfinite(given)):
            raise ValueError(f"Output {name} of the SavedModel holds NaN or infinity")
        error = float(np.max(np.abs(given.astype("float64") - wanted.astype("float64"))))
        extent = float(np.max(wanted) - np.min(wanted))
        absolute = max(absolute, error)
        relative = max(relative, error / extent if extent else (float("inf") if error else 0.0))
    return {"absolute": absolute, "relative": relative}


def _device_name(tf: Any) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)


def check(folder: Path) -> None:
    """Answers the job in `folder`."""
    _forbid_keras()
    import numpy as np
    import tensorflow as tf

    job = json.loads((folder / "job.json").read_text())
    timing = runpy.run_path(job["windows"])
    stopwatch = timing["Stopwatch"](lambda outputs: tf.test.experimental.sync_devices())
    with np.load(folder / "arrays.npz") as stored:
        inputs = _named(stored, "input/")
        expected = {name: _named(stored, f"expected/{name}/") for name in job["models"]}
    resident = {name: tf.constant(array) for name, array in inputs.items()}
    timed = {name: tf.constant(array[: job["timing_batch"]]) for name, array in inputs.items()}

    serves = [_Served(tf, path, set(inputs)) for path in job["models"].values()]
    measured = timing["time_loaded"](
        stopwatch,
        [functools.partial(serve, timed) for serve in serves],
        [serve.load_ms for serve in serves],
        job["pairs"],
        job["warmup"],
        single_calls=job["single_calls"],
    )
    answer = {
        "models": {
            name: {"error": _error(np, serve(resident), expected[name]), "latency": latency}
            for name, serve, latency in zip(job["models"], serves, measured, strict=True)
        },
        "inputs": [
            {"name": name, "shape": array.shape.as_list(), "dtype": array.dtype.name}
            for name, array in timed.items()
        ],
        "device": _device_name(tf),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "tensorflow": tf.__version__,
        },
    }
    if _loaded_forbidden():
        raise RuntimeError(f"Imported during the check: {', '.join(_loaded_forbidden())}")
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    check(Path(sys.argv[1]))
