"""Comparing two saved models in a Python process that has done nothing else."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.backend.batches import fill_batch
from spade_keras.errors import DeviceBusyError, FreshProcessError
from spade_keras.latency.child_process import run_python
from spade_keras.latency.measurement import compare
from spade_keras.latency.results import Comparison

_CODE = "import sys; from spade_keras.latency import fresh_process; fresh_process.run_job(sys.argv)"


def compare_in_fresh_process(  # noqa: PLR0913 - every setting is a keyword of its own
    a: str | Path,
    b: str | Path,
    inputs: Any,
    *,
    pairs: int = 20,
    batch_size: int | None = None,
    mode: str | None = None,
    single_calls: bool = False,
    imports: Sequence[str] = (),
    timeout_s: float = 1800.0,
) -> Comparison:
    """Times two saved models interleaved in a new process, as a deployment would run them.

    So nothing that this process compiled, cached or left in memory can favor a model. The new one
    runs the same Keras backend with the same `floatx`, image data format and dtype policy.

    Args:
        a: The reference, a `.keras` file.
        b: The other model, a `.keras` file.
        inputs: Arrays, or a dict, list or tuple of them, with the batch axis; inputs of both.
        pairs: See `compare`.
        batch_size: Samples per call, `inputs` being repeated or cut; None takes them as they are.
        mode: See `compare`.
        single_calls: See `compare`.
        imports: Modules imported before the models are loaded, so that their classes are known:
            for instance "spade_keras.networks".
        timeout_s: Seconds after which the process is ended.

    Returns:
        The comparison made there.

    Raises:
        ValueError: If `a` or `b` is no file, or `batch_size` is below 1.
        DeviceBusyError: If another process keeps timing on this device; the caller must not hold
            its lock.
        FreshProcessError: If the comparison fails; tells why.
    """
    paths = {"a": Path(a).resolve(), "b": Path(b).resolve()}
    for name, path in paths.items():
        if not path.is_file():
            raise ValueError(f"`{name}` must be a saved `.keras` model. Received: {name}={path}")
    if batch_size is not None:
        inputs = fill_batch(inputs, batch_size)
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as folder:
        job = {
            **{name: str(path) for name, path in paths.items()},
            "structure": _save_inputs(inputs, Path(folder) / "inputs.npz"),
            "options": {"pairs": pairs, "mode": mode, "single_calls": single_calls},
            "imports": list(imports),
            "floatx": keras.config.floatx(),
            "image_data_format": keras.config.image_data_format(),
            "dtype_policy": keras.config.dtype_policy().name,
        }
        Path(folder, "job.json").write_text(json.dumps(job))
        run_python(
            # Without -P, the working folder could hide modules by its own files.
            ["-P", "-c", _CODE, folder],
            purpose=f"compares {paths['a'].name} with {paths['b'].name}",
            environment=_environment(),
            folder=Path.cwd(),
            timeout_s=timeout_s,
            raises=FreshProcessError,
        )
        answer = json.loads(Path(folder, "answer.json").read_text())
    if "comparison" in answer:
        return Comparison.from_dict(answer["comparison"])
    if answer["type"] == DeviceBusyError.__name__:
        raise DeviceBusyError(answer["message"])
    raise FreshProcessError(
        f"Comparing {paths['a']} with {paths['b']} in a fresh process failed: "
        f"{answer['type']}: {answer['message']}\n{answer['traceback']}"
    )


def run_job(arguments: Sequence[str]) -> None:
    """Runs the comparison that a folder describes and writes its result there.

    Args:
        arguments: The new process's arguments; the last is the folder.
    """
    folder = Path(arguments[-1])
    job = json.loads((folder / "job.json").read_text())
    answer: dict[str, Any]
    try:
        answer = {"comparison": _do(job, folder).as_dict()}
    except Exception as error:
        answer = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_tb(error.__traceback__)[-3:]),
        }
    (folder / "answer.json").write_text(json.dumps(answer))


def _do(job: dict[str, Any], folder: Path) -> Comparison:
    keras.config.set_floatx(job["floatx"])
    keras.config.set_image_data_format(job["image_data_format"])
    keras.config.set_dtype_policy(job["dtype_policy"])
    for module in job["imports"]:
        importlib.import_module(module)
    a, b = (keras.saving.load_model(job[name], compile=False) for name in ("a", "b"))
    inputs = _load_inputs(job["structure"], folder / "inputs.npz")
    return compare(a, b, inputs, **job["options"])


def _save_inputs(inputs: Any, path: Path) -> Any:
    """Saves the arrays and returns their structure, with a number for each."""
    arrays: list[np.ndarray] = []

    def number(array: Any) -> int:
        arrays.append(keras.ops.convert_to_numpy(array))
        return len(arrays) - 1

    structure = keras.tree.map_structure(number, inputs)
    np.savez(path, *arrays)
    return structure


def _load_inputs(structure: Any, path: Path) -> Any:
    with np.load(path) as stored:
        return keras.tree.map_structure(lambda number: stored[f"arr_{number}"], structure)


def _environment() -> dict[str, str]:
    found = dict.fromkeys(os.path.abspath(entry) for entry in sys.path)
    return {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(found),
        # On a GPU this process may hold most of the memory: the new one takes what it needs.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
