"""Exporting to TensorFlow's SavedModel, from any backend."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.errors import ExportError
from spade_keras.export.child_process import require_tensorflow, run_python
from spade_keras.export.conversion import write_archive
from spade_keras.export.folders import complete_folder
from spade_keras.export.reports import ExportReport

MARKER = "saved_model.pb"

_CONVERT = """
import pathlib, sys
from spade_keras.export import conversion
conversion.convert(pathlib.Path(sys.argv[1]))
"""


def saved_model(network: keras.Model, folder: str | Path, inputs: Any) -> ExportReport:
    """Exports a model as a TensorFlow SavedModel, which needs neither Keras nor spade-keras.

    The batch axis of the signature is free, the other axes are those of `inputs`. Under JAX and
    PyTorch the model travels as a .keras file to a process that runs Keras on TensorFlow, so its
    own classes must be serializable and importable there. The folder appears when it is complete.

    Args:
        network: A Keras model of any kind; it is left as it was.
        folder: The folder to make; an earlier export in it is replaced.
        inputs: Example inputs with a batch axis: a dict of arrays, or one array. The keys of a
            dict name the inputs of the signature.

    Returns:
        What was written where.

    Raises:
        TypeError: If `inputs` is neither a dict of arrays nor an array.
        ValueError: If `folder` holds something else.
        MissingExtraError: If TensorFlow is not installed.
        ExportError: If the process that converts fails; holds all that it wrote.
    """
    start = time.perf_counter()
    target = Path(folder).absolute()
    require_tensorflow()
    arrays = named_arrays(inputs)
    with complete_folder(target, MARKER) as fresh:
        if keras.backend.backend() == "tensorflow":
            write_archive(network, fresh, arrays)
        else:
            _write_archive_in_child(network, fresh, arrays)
        if not (fresh / MARKER).exists():
            raise ExportError(f"Exporting ended without an error, but wrote no {MARKER}.")
    return ExportReport(
        folder=target,
        format="saved_model",
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

    Args:
        inputs: A dict of arrays, or one array.

    Returns:
        The arrays; float64 ones as `keras.config.floatx()`, which is what Keras feeds to models.

    Raises:
        TypeError: If `inputs` is neither.
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
        stored: dict[str, Any] = {f"input/{key}": array for key, array in arrays.items()}
        np.savez(folder / "inputs.npz", **stored)
        job = {"modules": modules, "archive": str(fresh), "dtype": keras.config.floatx()}
        (folder / "job.json").write_text(json.dumps(job))
        run_python(
            ["-c", _CONVERT, folder],
            purpose="converts the model to a SavedModel",
            environment={
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
                # Converting needs no GPU, and this process may hold all of its memory.
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "2",
            },
            folder=folder,
        )


def custom_modules(config: Any) -> list[str]:
    """Finds the modules of all registered classes and functions that a serialized object needs.

    Args:
        config: What `keras.saving.serialize_keras_object` returned.

    Returns:
        Their names, sorted. Loading the object works once these are imported.
    """
    return sorted(set(_custom_modules(config)))


def _custom_modules(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        # Keras records the module of its own classes; of others the registered name is to be had,
        # which for a function stands in the place of its config.
        is_function = config.get("class_name") == "function"
        name = config.get("config" if is_function else "registered_name")
        if isinstance(name, str) and (found := keras.saving.get_registered_object(name)):
            yield found.__module__
        for value in config.values():
            yield from _custom_modules(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _custom_modules(value)
