"""Exporting to TensorFlow's SavedModel, from any backend."""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.errors import ExportError, MissingExtraError
from spade_keras.files import complete_folder, read_npz
from spade_keras.latency.fresh_process import import_path, run_job
from spade_keras.typing import Record

MARKER = "saved_model.pb"

_CONVERT = (
    "import pathlib, sys; from spade_keras.export import saved_model;"
    "saved_model.convert(pathlib.Path(sys.argv[1]))"
)


@dataclass(frozen=True)
class ExportReport(Record):
    """An exported model; `inputs` hold the shape and dtype of each input of the signature."""

    folder: Path
    backend: str
    inputs: Mapping[str, Mapping[str, Any]]
    size_bytes: int
    seconds: float


def export_model(network: keras.Model, folder: str | Path, inputs: Any) -> ExportReport:
    """Exports a model as a TensorFlow SavedModel, which needs neither Keras nor spade-keras.

    The batch axis of the signature is free, the other axes are those of `inputs`. Under JAX and
    PyTorch the model travels as a .keras file to a process that runs Keras on TensorFlow, so its
    own classes must be serializable and importable there. The folder appears when it is complete.

    Args:
        network: A Keras model of any kind; it is left as it was.
        folder: The folder to make; an earlier export in it is replaced.
        inputs: Example inputs with a batch axis: a dict of arrays, whose keys name the inputs of
            the signature, or one array.

    Raises:
        ValueError: If `folder` holds something else than an export.
        MissingExtraError: If TensorFlow is not installed.
        ExportError: If the process that converts fails; holds all that it wrote.
    """
    start = time.perf_counter()
    target = Path(folder).absolute()
    require_packages("tensorflow", "tensorflow")
    arrays = named_arrays(inputs)
    with complete_folder(target, MARKER) as fresh:
        if keras.backend.backend() == "tensorflow":
            _write_archive(network, fresh, arrays)
        else:
            _write_archive_in_child(network, fresh, arrays)
        if not (fresh / MARKER).exists():
            raise ExportError(f"Exporting ended without an error, but wrote no {MARKER}.")
    return ExportReport(
        folder=target,
        backend=keras.backend.backend(),
        inputs={
            name: {"shape": [None, *array.shape[1:]], "dtype": str(array.dtype)}
            for name, array in arrays.items()
        },
        size_bytes=sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
        seconds=time.perf_counter() - start,
    )


def named_arrays(inputs: Any) -> dict[str, np.ndarray]:
    """Names the arrays of model inputs; a lone array gets the name "".

    float64 arrays become `keras.config.floatx()`, which is what Keras feeds to models.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    for name, value in named.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise TypeError(
                "`inputs` must be a dict of arrays or one array. "
                f"Received: {'inputs' if name == '' else name}={value!r}"
            )
        if len(value.shape) == 0:
            raise ValueError(
                f"`inputs` must have a batch axis. Received: {name or 'inputs'} of shape ()"
            )
        if isinstance(inputs, Mapping) and not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(
                f"The keys of `inputs` name the inputs of the exported signature and must be "
                f"words of letters, digits and '_'. Received: {name!r}"
            )
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in named.items()}
    floatx = keras.config.floatx()
    return {
        name: array.astype(floatx) if array.dtype == np.float64 else array
        for name, array in arrays.items()
    }


def _write_archive_in_child(
    network: keras.Model, fresh: Path, arrays: dict[str, np.ndarray]
) -> None:
    modules = custom_modules(keras.saving.serialize_keras_object(network))
    if "__main__" in modules:
        raise ExportError(
            f"Under the {keras.backend.backend()} backend the model is converted in another "
            "process, which cannot import classes or functions that the running script defines. "
            "Move them to a module of their own, or run the script with KERAS_BACKEND=tensorflow."
        )
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as name:
        folder = Path(name)
        network.save(folder / "network.keras")
        run_job(
            ["-c", _CONVERT],
            folder,
            {"modules": modules, "archive": str(fresh), "dtype": keras.config.floatx()},
            {f"input/{key}": array for key, array in arrays.items()},
            purpose="converts the model to a SavedModel",
            environment={
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": import_path(),
                # Converting needs no GPU, and this process may hold all of its memory.
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "2",
            },
            raises=ExportError,
        )


def convert(folder: Path) -> None:
    """Does the job in a folder, in a process whose Keras runs on TensorFlow."""
    job = json.loads((folder / "job.json").read_text())
    for module in job["modules"]:
        importlib.import_module(module)
    keras.config.set_floatx(job["dtype"])
    # The calling process wrote the file a moment ago from a living model, whose functions have
    # run already: there is nothing to be safe from.
    network = keras.saving.load_model(folder / "network.keras", compile=False, safe_mode=False)
    stored = read_npz(folder / "arrays.npz")
    arrays = {name.removeprefix("input/"): array for name, array in stored.items()}
    _write_archive(network, Path(job["archive"]), arrays)


def require_packages(extra: str, *packages: str) -> None:
    """Checks that a child process can import packages, without importing them here.

    Raises:
        MissingExtraError: For the first that it cannot import.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)


def _write_archive(network: keras.Model, folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the SavedModel; Keras must run on TensorFlow. A lone input has the name ""."""
    specs = {
        name: keras.InputSpec(
            shape=(None, *array.shape[1:]), dtype=str(array.dtype), name=name or None
        )
        for name, array in arrays.items()
    }
    network(_structured(arrays))  # builds it, if it is not
    network.export(
        str(folder), format="tf_saved_model", input_signature=[_structured(specs)], verbose=False
    )


def _structured(named: dict[str, Any]) -> Any:
    return named[""] if set(named) == {""} else named


def custom_modules(config: Any) -> list[str]:
    """Returns the modules to import before a serialized Keras object can be loaded, sorted."""
    # Keras records the module of its own classes, but only the registered name of others.
    written = repr(config)
    known = keras.saving.get_custom_objects()
    return sorted({found.__module__ for name, found in known.items() if repr(name) in written})
