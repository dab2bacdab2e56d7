"""Runs the script that tunes a network's twin, and reports the results."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import backend
from spade_keras.errors import ExportError, MissingExtraError
from spade_keras.export.saved_model import require_tensorflow
from spade_keras.export.tfmot.report import KernelSummary, TfmotReport, Training
from spade_keras.export.tfmot.twin import describe, weights_of, with_weights
from spade_keras.files import read_npz, write_bytes_atomic
from spade_keras.latency import ratio_interval, summarize, user_cache_folder, windows
from spade_keras.latency.child_process import run_python
from spade_keras.metrics import psnr_per_image

Arrays = tuple[Any, Any]
"""Inputs and targets."""

_SCRIPT = Path(__file__).with_name("script.py")
_FILES = ("float32", "int8")
_COMPARED = 8  # samples on which the twin must equal the network
_CARRIED_TOLERANCE = 1e-4  # between Keras and the kernels of LiteRT
_TIMEOUT_S = 24 * 3600.0  # the user chose how long to train


def tune(
    method: Mapping[str, Any],
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    held_out: Arrays,
    training: Training | None,
    pairs: int,
    lock: bool,
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network by a method of `spade_keras.export.tfmot`, which documents the rest.

    Args:
        method: Name and arguments of the method, as the script reads them.
        network: The network.
        path: The .tflite file to write.
        data: Inputs and targets to tune on.
        held_out: Inputs and targets to judge by.
        training: How to tune.
        pairs: Timed windows of each file.
        lock: Whether to wait for the device's timing lock.

    Returns:
        The tuned copy of the network, and the report.
    """
    start = time.perf_counter()
    training = training or Training()
    target = _checked_path(path)
    if pairs < 2:
        raise ValueError(f"`pairs` must be at least 2. Received: pairs={pairs}")
    _require_tfmot()
    x, y = _checked_arrays("data", data, training)
    held_out_x, held_out_y = _checked_arrays("held_out", held_out, training)
    _check_shapes(network, x, held_out_x)
    description = describe(network, x.shape[1:])
    before = network.predict(held_out_x, batch_size=training.batch_size, verbose=0)
    _check_targets(before, y, held_out_y, training)
    job = {
        **method,
        "description": description,
        "training": dataclasses.asdict(training),
        "logits": not _ends_in_softmax(description),
        "windows": windows.__file__,
        # The CPU's lock: the script runs there even if this process uses a GPU.
        "lock": str(user_cache_folder("locks") / "cpu.lock") if lock else None,
        "pairs": pairs,
    }
    arrays = {"x": x, "y": y, "held_out_x": held_out_x, "expected": before[:_COMPARED]}
    arrays |= {f"weight/{name}": value for name, value in weights_of(network).items()}
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as name:
        folder = Path(name)
        answer = _ask(folder, job, arrays)
        weights, outputs = (read_npz(folder / f"{name}.npz") for name in ("weights", "outputs"))
        tuned = with_weights(network, weights)
        after = tuned.predict(held_out_x, batch_size=training.batch_size, verbose=0)
        carried_error = _checked_carrying(after, outputs["float32"])
        files = {file: (folder / f"{file}.tflite").read_bytes() for file in _FILES}
        write_bytes_atomic(target, files["int8"])
    quality = {"before": before, "after": after, **outputs}
    return tuned, TfmotReport(
        path=target,
        method=method["method"],
        settings={**method, **dataclasses.asdict(training)},
        metric=training.metric,
        quality={name: _quality(output, held_out_y, training) for name, output in quality.items()},
        loss=answer["loss"],
        size_bytes={name: len(content) for name, content in files.items()},
        zipped_bytes={name: len(gzip.compress(content)) for name, content in files.items()},
        **_times(answer, held_out_x),
        kernels=_kernels(tuned),
        left=answer["left"],
        twin_error=answer["twin_error"],
        carried_error=carried_error,
        seconds=time.perf_counter() - start,
    )


def _require_tfmot() -> None:
    require_tensorflow()
    for name in ("tf_keras", "tensorflow_model_optimization"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "tfmot")


def _ask(folder: Path, job: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "job.json").write_text(json.dumps(job))
    run_python(
        # Without the script's folder on the path, which is inside the library.
        ["-P", _SCRIPT, folder],
        purpose="tunes the network with TensorFlow Model Optimization",
        environment={
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_USE_LEGACY_KERAS": "1",
            # LiteRT runs on the CPU, and the calling process may hold the GPU's memory.
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        folder=folder,
        timeout_s=_TIMEOUT_S,
        raises=ExportError,
    )
    return json.loads((folder / "answer.json").read_text())


def _times(answer: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    fingerprint = {
        "device": backend.host_cpu().as_dict(),
        "backend": "litert",
        "mode": "interpreter",
        "versions": answer["versions"],
        "settings": {"threads": 1},
        "dtype": "float32 and int8",
        "inputs": [{"name": "", "shape": [1, *x.shape[1:]], "dtype": "float32"}],
    }
    latency = {
        name: summarize(
            file["samples_ms"],
            first_ms=file["load_ms"] + file["warm"]["first_ms"],
            calls_per_window=file["warm"]["calls"],
            stable=file["warm"]["stable"],
            peak_memory_bytes=None,  # both files live in one process
            fingerprint=fingerprint,
        )
        for name, file in answer["files"].items()
    }
    ratio = ratio_interval(*(latency[name].samples for name in _FILES))
    return {"latency": latency, "ratio": ratio, "fingerprint": fingerprint}


def _quality(outputs: np.ndarray, truth: np.ndarray, training: Training) -> float:
    if training.loss == "mse":
        per_image = psnr_per_image(truth, outputs, training.data_range)
        return float(np.mean(keras.ops.convert_to_numpy(per_image)))
    return float(np.mean(np.argmax(outputs, axis=-1) == truth))


def _kernels(network: keras.Model) -> dict[str, KernelSummary]:
    return {
        name: KernelSummary(weight.size, np.unique(weight).size, int(np.sum(weight == 0)))
        for name, weight in weights_of(network).items()
        if weight.ndim > 1
    }


def _checked_carrying(keras_outputs: np.ndarray, file_outputs: np.ndarray) -> float:
    """Returns the difference between the tuned Keras network and the float32 file."""
    scale = float(np.max(np.abs(file_outputs))) or 1.0
    error = float(np.max(np.abs(keras_outputs - file_outputs))) / scale
    if not error <= _CARRIED_TOLERANCE:
        raise ExportError(
            f"The tuned Keras network differs from the file made of the same weights by "
            f"{error:.2g} of its output. Nothing was written."
        )
    return error


def _ends_in_softmax(description: dict[str, Any]) -> bool:
    [last] = [entry for entry in description["layers"] if entry["name"] == description["output"]]
    return last["class"] == "Softmax" or last["config"].get("activation") == "softmax"


def _checked_path(path: str | Path) -> Path:
    target = Path(path).absolute()
    if target.suffix != ".tflite" or not target.parent.is_dir():
        raise ValueError(
            f"`path` must name a .tflite file in an existing folder. Received: path={path}"
        )
    return target


def _checked_arrays(name: str, pair: Arrays, training: Training) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(
            f"`{name}` must be a pair of arrays, inputs and targets. "
            f"Received: {name} of type {type(pair).__name__}"
        )
    x, y = (keras.ops.convert_to_numpy(array) for array in pair)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"`{name}` must hold one target per input, at least one. "
            f"Received: {len(x)} inputs and {len(y)} targets"
        )
    if training.loss != "mse" and (y.ndim != 1 or y.dtype.kind not in "iu" or y.min() < 0):
        raise ValueError(
            f"The targets of `{name}` must be integer classes of shape (samples,) for the loss "
            f"{training.loss}. Received: shape {y.shape}, dtype {y.dtype}"
        )
    for part, array in (("inputs", x), ("targets", y)):
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"The {part} of `{name}` must be finite. Received: NaN or infinity in them"
            )
    return x.astype("float32"), y.astype("float32" if training.loss == "mse" else "int32")


def _check_shapes(network: keras.Model, x: np.ndarray, held_out_x: np.ndarray) -> None:
    if x.shape[1:] != held_out_x.shape[1:]:
        raise ValueError(
            "The inputs of `data` and `held_out` must have one shape, for the file has. "
            f"Received: {x.shape[1:]} and {held_out_x.shape[1:]}"
        )
    wanted = getattr(network, "input_shape", None)
    if isinstance(wanted, tuple) and (
        len(wanted) != x.ndim
        or any(size not in (None, given) for size, given in zip(wanted, x.shape, strict=True))
    ):
        raise ValueError(
            f"The inputs of `data` must fit the network's input shape {wanted}. Received: {x.shape}"
        )


def _check_targets(
    outputs: np.ndarray, y: np.ndarray, held_out_y: np.ndarray, training: Training
) -> None:
    if training.loss == "mse":
        shapes = {outputs.shape[1:], y.shape[1:], held_out_y.shape[1:]}
        if outputs.ndim != 4 or len(shapes) != 1:
            raise ValueError(
                "For the loss mse the targets must be images of the shape that the network gives, "
                f"{outputs.shape[1:]}. Received: {y.shape[1:]} in `data`, {held_out_y.shape[1:]} "
                "in `held_out`. For a classifier pass "
                "Training(loss='sparse_categorical_crossentropy')."
            )
    elif outputs.ndim != 2 or max(y.max(), held_out_y.max()) >= outputs.shape[1]:
        raise ValueError(
            f"The network gives outputs of shape {outputs.shape[1:]}; the classes must be numbers "
            f"below that. Received: classes up to {max(y.max(), held_out_y.max())}"
        )
