"""Exporting to TensorFlow's SavedModel, from any backend."""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.errors import ExportError, MissingExtraError
from spade_keras.files import complete_folder, read_npz
from spade_keras.latency.fresh_process import import_path, run_job
from spade_keras.typing import Record

FORMATS = ("tf_saved_model",)
"""Formats a model can be exported to."""

MARKER = "saved_model.pb"

_CONVERT = (
    "import pathlib, sys; from spade_keras.export import saved_model;"
    "saved_model.convert(pathlib.Path(sys.argv[1]))"
)


@dataclass(frozen=True)
class ExportReport(Record):
    """An exported model.

    Args:
        folder: Where it is.
        format: One of `FORMATS`.
        backend: The Keras backend that it came from.
        inputs: Shape, its batch axis None, and dtype of every input of the signature.
        size_bytes: Size of all its files.
        seconds: Time that exporting took.
    """

    folder: Path
    format: str
    backend: str
    inputs: Mapping[str, Mapping[str, Any]]
    size_bytes: int
    seconds: float


def export_model(
    network: keras.Model, folder: str | Path, inputs: Any, *, format: str = "tf_saved_model"
) -> ExportReport:
    """Exports a model as a TensorFlow SavedModel, which needs neither Keras nor spade-keras.

    The batch axis of the signature is free, the other axes are those of `inputs`. Under JAX and
    PyTorch the model travels as a .keras file to a process that runs Keras on TensorFlow, so its
    own classes must be serializable and importable there. The folder appears when it is complete.

    Args:
        network: A Keras model of any kind; it is left as it was.
        folder: The folder to make; an earlier export in it is replaced.
        inputs: Example inputs with a batch axis: a dict of arrays, or one array. The keys of a
            dict name the inputs of the signature.
        format: One of `FORMATS`, in the words of `keras.Model.export`.

    Raises:
        TypeError: If `inputs` is neither a dict of arrays nor an array.
        ValueError: If `folder` holds something else, or the format is unknown.
        MissingExtraError: If TensorFlow is not installed.
        ExportError: If the process that converts fails; holds all that it wrote.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    start = time.perf_counter()
    target = Path(folder).absolute()
    require_tensorflow()
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
        format=format,
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

    Raises:
        TypeError: If `inputs` is neither a dict of arrays nor an array.
        ValueError: If an array has no batch axis, or a name is not a plain word.
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


def require_tensorflow() -> None:
    """Raises `MissingExtraError` unless a child process can import TensorFlow; imports nothing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", "tensorflow")


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
    return sorted(set(_custom_modules(config)))


def _custom_modules(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        # Keras records the module of its own classes, but only the registered name of others;
        # for a function that name takes the place of its config.
        is_function = config.get("class_name") == "function"
        name = config.get("config" if is_function else "registered_name")
        if isinstance(name, str) and (found := keras.saving.get_registered_object(name)):
            yield found.__module__
        for value in config.values():
            yield from _custom_modules(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _custom_modules(value)
