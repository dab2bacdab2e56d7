"""TensorFlow Model Optimization for Keras 3 networks: 8 bits, few weight values, zero weights.

The package supports Keras 2 alone, and importing it turns `tf.keras` into Keras 2. So a twin of the
network with the same weights is tuned in another process, and its weights are copied back.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import backend
from spade_keras.errors import ExportError
from spade_keras.export.saved_model import require_packages
from spade_keras.export.tfmot.training import (
    Arrays,
    KernelSummary,
    TfmotReport,
    Training,
    check_targets,
    checked_data,
    kernels_of,
)
from spade_keras.export.tfmot.twin import describe, weights_of, with_weights
from spade_keras.files import read_npz, write_bytes_atomic
from spade_keras.latency import ratio_interval, summarize, user_cache_folder, windows
from spade_keras.latency.fresh_process import run_job

__all__ = ["KernelSummary", "TfmotReport", "Training", "cluster", "magnitude_prune", "quantize"]

_SCRIPT = Path(__file__).with_name("script.py")
_FILES = ("float32", "int8")
_COMPARED = 8  # samples on which the twin must equal the network
_CARRIED_TOLERANCE = 1e-4  # between Keras and the kernels of LiteRT
_TIMEOUT_S = 24 * 3600.0  # the user chose how long to train
_LEAST_STEPS = 10


def quantize(
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    *,
    held_out: Arrays,
    training: Training | None = None,
    pairs: int = 40,
    lock: bool = True,
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network for 8-bit weights and activations, and writes the LiteRT file.

    While it is tuned, every kernel and activation is rounded as the file will round it, and
    gradients pass as if it were not. Ranges of activations are set by the first batch, then follow
    the data.

    Args:
        network: A Functional or Sequential model of one input and one output, in float32: a
            prior or a classifier. It is left as it was.
        path: The .tflite file to write, for samples of the size that `data` has.
        data: Inputs and targets to tune on: images, or integer classes.
        held_out: Inputs and targets to judge by.
        training: Loss, epochs, learning rate and the like; None for those of `Training()`.
        pairs: Windows in which each LiteRT file is timed.
        lock: Whether to wait until no other process is timing on this device.

    Returns:
        A copy of the network with the tuned weights, not rounded; and the report.

    Raises:
        ValueError: If an argument is out of its range, or the arrays do not fit the network.
        MissingExtraError: If TensorFlow Model Optimization or TensorFlow is not installed.
        ExportError: If the network cannot be translated, the twin differs, the tuning diverges, or
            the process fails; holds all that it wrote.

    Reference:
        Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2018.
    """
    return _tune(
        {"method": "quantize"},
        network,
        path,
        data,
        held_out=held_out,
        training=training,
        pairs=pairs,
        lock=lock,
    )


def cluster(
    network: keras.Model, path: str | Path, data: Arrays, *, clusters: int = 16, **options: Any
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network whose kernels hold at most `clusters` values each; else as `quantize`.

    Each kernel starts from the centroids of its weights (k-means++); they alone train. The file is
    rounded to 8 bits afterwards, by the ranges of up to 200 samples. Depthwise kernels are left as
    they are. Repeated values make a file that compresses well, not a faster kernel.

    Reference:
        Han, Mao and Dally, "Deep compression", 2016.
    """
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise ValueError(
            f"`clusters` must be an integer of at least 2. Received: clusters={clusters}"
        )
    return _tune({"method": "cluster", "clusters": clusters}, network, path, data, **options)


def magnitude_prune(
    network: keras.Model, path: str | Path, data: Arrays, *, sparsity: float = 0.5, **options: Any
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network whose smallest weights are zero; else as `quantize`.

    The share of zeros of each kernel grows to `sparsity`, in (0, 1), over the first half of the
    steps, of which there must be at least 10. No channel disappears, so the network does the same
    work as before: see `spade_keras.pruning` for networks that are faster. The file is rounded to 8
    bits afterwards, by the ranges of up to 200 samples. Depthwise kernels are left as they are.

    Reference:
        Zhu and Gupta, "To prune, or not to prune", 2017.
    """
    if not 0 < sparsity < 1:
        hint = f" For {sparsity:g} % pass {sparsity / 100:g}." if 1 < sparsity < 100 else ""
        raise ValueError(f"`sparsity` must be in (0, 1). Received: sparsity={sparsity}.{hint}")
    training = options.get("training") or Training()
    steps = training.epochs * -(-len(data[0]) // training.batch_size)
    if steps < _LEAST_STEPS:
        raise ValueError(
            f"Pruning step by step takes at least {_LEAST_STEPS} training steps. Received: "
            f"{steps}. Raise `epochs` or lower `batch_size`."
        )
    method = {"method": "magnitude_prune", "sparsity": float(sparsity)}
    return _tune(method, network, path, data, **options)


def _tune(
    method: Mapping[str, Any],
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    *,
    held_out: Arrays,
    training: Training | None = None,
    pairs: int = 40,
    lock: bool = True,
) -> tuple[keras.Model, TfmotReport]:
    start = time.perf_counter()
    training = training or Training()
    target = Path(path).absolute()
    if target.suffix != ".tflite" or not target.parent.is_dir():
        raise ValueError(
            f"`path` must name a .tflite file in an existing folder. Received: path={path}"
        )
    if pairs < 2:
        raise ValueError(f"`pairs` must be at least 2. Received: pairs={pairs}")
    require_packages("tensorflow", "tensorflow")
    require_packages("tfmot", "tf_keras", "tensorflow_model_optimization")
    x, y, held_out_x, held_out_y = checked_data(network, data, held_out, training)
    description = describe(network, x.shape[1:])
    before = network.predict(held_out_x, batch_size=training.batch_size, verbose=0)
    check_targets(before, y, held_out_y, training)
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
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as name:
        folder = Path(name)
        _run(folder, job, {**arrays, **weights_of(network)})
        answer = json.loads((folder / "answer.json").read_text())
        weights, outputs = (read_npz(folder / f"{name}.npz") for name in ("weights", "outputs"))
        files = {file: (folder / f"{file}.tflite").read_bytes() for file in _FILES}
    tuned = with_weights(network, weights)
    after = tuned.predict(held_out_x, batch_size=training.batch_size, verbose=0)
    carried_error = _checked_carrying(after, outputs["float32"])
    write_bytes_atomic(target, files["int8"])
    judged = {"before": before, "after": after, **outputs}
    return tuned, TfmotReport(
        path=target,
        method=method["method"],
        settings={**method, **dataclasses.asdict(training)},
        metric=training.metric,
        quality={name: training.quality(held_out_y, output) for name, output in judged.items()},
        loss=answer["loss"],
        size_bytes={name: len(content) for name, content in files.items()},
        zipped_bytes={name: len(gzip.compress(content)) for name, content in files.items()},
        **_times(answer, held_out_x),
        kernels=kernels_of(tuned),
        left=answer["left"],
        twin_error=answer["twin_error"],
        carried_error=carried_error,
        seconds=time.perf_counter() - start,
    )


def _run(folder: Path, job: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    run_job(
        [_SCRIPT],
        folder,
        job,
        arrays,
        purpose="tunes the network with TensorFlow Model Optimization",
        environment={
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_USE_LEGACY_KERAS": "1",
            # LiteRT runs on the CPU, and the calling process may hold the GPU's memory.
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        timeout_s=_TIMEOUT_S,
        raises=ExportError,
    )


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
        name: summarize(**measured, fingerprint=fingerprint)
        for name, measured in answer["files"].items()
    }
    ratio = ratio_interval(*(latency[name].samples for name in _FILES))
    return {"latency": latency, "ratio": ratio, "fingerprint": fingerprint}


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
