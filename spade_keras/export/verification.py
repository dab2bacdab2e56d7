"""Checking exported models in a fresh process without Keras, as they will run."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import backend
from spade_keras.errors import ExportError
from spade_keras.export.saved_model import MARKER, named_arrays, require_packages
from spade_keras.latency import Latency, Ratio, device_lock, ratio_interval, summarize, windows
from spade_keras.latency.fresh_process import run_job
from spade_keras.typing import Record

_SCRIPT = Path(__file__).with_name("check_script.py")


@dataclass(frozen=True)
class CheckReport(Record):
    """Errors and times, by name, of exported models in a process with TensorFlow alone.

    Relative errors are divided by the range (max - min) of the expected outputs. `ratio` is the
    time of the second model / the time of the first; None if there is one alone.
    """

    max_abs_error: Mapping[str, float]
    relative_error: Mapping[str, float]
    latency: Mapping[str, Latency]
    ratio: Ratio | None


def check_saved_models(
    folders: Mapping[str, str | Path],
    inputs: Any,
    expected: Mapping[str, Any],
    *,
    pairs: int = 40,
    warmup: int = 20,
    timing_batch: int | None = None,
    single_calls: bool = False,
    lock: bool = True,
) -> CheckReport:
    """Compares SavedModels with their expected outputs, and times them interleaved.

    Both happen in a process that imports TensorFlow and NumPy but can import neither Keras nor
    spade-keras, as in deployment.

    Args:
        folders: One or two SavedModels by name; with two, the first is the reference of the ratio.
        inputs: Real inputs of all of them: a dict of arrays, or one array.
        expected: Per name the outputs of the model before it was exported: an array, or a dict of
            arrays by output name.
        pairs: Windows of each model, timed A-B-B-A.
        warmup: Most windows to warm up each model for.
        timing_batch: Number of inputs to time, from the first on; None for all.
        single_calls: Whether a window is one call, however short: averaging hides the tail.
        lock: Whether to wait until no other process is timing on this device.

    Raises:
        MissingExtraError: If TensorFlow is not installed.
        ExportError: If the process fails; holds all that it wrote.
    """
    paths = {name: Path(folder).absolute() for name, folder in folders.items()}
    outputs = _checked_outputs(paths, expected)
    arrays = named_arrays(inputs)
    batch = next(iter(arrays.values())).shape[0]
    if timing_batch is not None and not 1 <= timing_batch <= batch:
        raise ValueError(
            f"`timing_batch` must be in 1 .. {batch}, the batch of `inputs`. "
            f"Received: timing_batch={timing_batch}"
        )
    if pairs < 2 or warmup < 1:
        raise ValueError(
            "`pairs` must be at least 2 and `warmup` at least 1. "
            f"Received: pairs={pairs}, warmup={warmup}"
        )
    require_packages("tensorflow", "tensorflow")
    job = {
        "models": {name: str(path) for name, path in paths.items()},
        "windows": windows.__file__,
        "pairs": pairs,
        "warmup": warmup,
        "timing_batch": timing_batch or batch,
        "single_calls": single_calls,
    }
    stored = {f"input/{name}": array for name, array in arrays.items()}
    for model, named in outputs.items():
        stored |= {f"expected/{model}/{name}": array for name, array in named.items()}
    holding = device_lock() if lock else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as folder, holding:
        run_job(
            [_SCRIPT],
            Path(folder),
            job,
            stored,
            purpose="checks the exported models",
            environment={
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "TF_USE_LEGACY_KERAS": None,
                # The calling process may hold part of the GPU's memory.
                "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            },
            raises=ExportError,
        )
        return _report(json.loads(Path(folder, "answer.json").read_text()))


def _report(answer: dict[str, Any]) -> CheckReport:
    device = backend.host_cpu().as_dict()
    if answer["device"] != "cpu":
        device = {**device, "kind": "gpu", "name": answer["device"], "memory_bytes": None}
    fingerprint = {
        "device": device,
        "backend": "tensorflow",
        "mode": "saved_model",
        "versions": answer["versions"],
        "dtype": keras.config.dtype_policy().name,
        "inputs": answer["inputs"],
    }
    models = answer["models"]
    latency = {
        # Without the peak memory: both models live in one process.
        name: summarize(**model["latency"], fingerprint=fingerprint)
        for name, model in models.items()
    }
    samples = [each.samples for each in latency.values()]
    return CheckReport(
        max_abs_error={name: model["error"]["absolute"] for name, model in models.items()},
        relative_error={name: model["error"]["relative"] for name, model in models.items()},
        latency=latency,
        ratio=ratio_interval(*samples) if len(samples) == 2 else None,
    )


def _checked_outputs(
    paths: dict[str, Path], expected: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the expected outputs of every model by name, if they fit the folders."""
    if len(paths) not in (1, 2):
        raise ValueError(f"`folders` must name one or two SavedModels. Received: folders={paths}")
    for name, path in paths.items():
        if not (path / MARKER).exists():
            raise ValueError(
                f"`folders` must name SavedModels. Received: {name}={path}, which holds no "
                f"{MARKER}. Make it with `export_model(network, folder, inputs)`."
            )
    if set(expected) != set(paths):
        raise ValueError(
            "`expected` must have the names of `folders`. "
            f"Received: expected of {sorted(expected)}, folders of {sorted(paths)}"
        )
    outputs = {}
    for model, value in expected.items():
        named = value if isinstance(value, Mapping) else {"": value}
        outputs[model] = {name: keras.ops.convert_to_numpy(array) for name, array in named.items()}
        for name, array in outputs[model].items():
            if not np.all(np.isfinite(array)):
                where = f"{model} {name}".strip()
                raise ValueError(f"`expected` must be finite. Received: NaN or infinity in {where}")
    return outputs
