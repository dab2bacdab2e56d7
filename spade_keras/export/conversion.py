"""Writing a SavedModel, where Keras runs on TensorFlow.

When Keras runs on another backend, `export.archive` leaves the model in a folder and calls
`convert` in a process with KERAS_BACKEND=tensorflow.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np


def write_archive(network: keras.Model, folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the SavedModel of `network`; Keras must run on TensorFlow.

    Args:
        network: The model.
        folder: Where to write.
        arrays: Example inputs by name; a lone input has the name "".
    """
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


def convert(folder: Path) -> None:
    """Writes the SavedModel that a folder describes.

    Args:
        folder: Holds the model in `network.keras`, example inputs in `inputs.npz`, and in
            `job.json` the modules to import, the default dtype and where to write.
    """
    job = json.loads((folder / "job.json").read_text())
    for module in job["modules"]:
        importlib.import_module(module)
    keras.config.set_floatx(job["dtype"])
    # The file was written a moment ago from a model that lives in the calling process: its
    # functions have run already, so there is nothing to be safe from.
    network = keras.saving.load_model(folder / "network.keras", compile=False, safe_mode=False)
    with np.load(folder / "inputs.npz") as stored:
        arrays = {name.removeprefix("input/"): stored[name] for name in stored.files}
    write_archive(network, Path(job["archive"]), arrays)


def _structured(named: dict[str, Any]) -> Any:
    return named[""] if set(named) == {""} else named
