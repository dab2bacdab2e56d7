"""Jobs in Python processes of their own, and a comparison of two saved models by one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.backend.batches import fill_batch
from spade_keras.errors import ChildFailedError, DeviceBusyError, FreshProcessError, SpadeError
from spade_keras.latency.measurement import compare
from spade_keras.latency.results import Comparison

_CODE = "import sys; from spade_keras.latency import fresh_process; fresh_process.answer(sys.argv)"


def run_job(
    program: Sequence[str | Path],
    folder: Path,
    job: Mapping[str, Any],
    arrays: Mapping[str, Any],
    *,
    purpose: str,
    environment: Mapping[str, str | None],
    timeout_s: float = 1800.0,
    raises: type[SpadeError] = ChildFailedError,
) -> None:
    """Writes `job.json` and `arrays.npz` into a folder and has a new process work on them.

    `program` are the words after `python` on the command line; the folder, for results too, comes
    last. Neither the working folder nor the program's own one is on the process's path. Variables
    of `environment` that are None are unset. `purpose` says in errors what the process does.

    Raises:
        ChildFailedError: Or `raises`: if it fails or takes longer; holds all that it wrote.
    """
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "job.json").write_text(json.dumps(job))
    variables = {**os.environ, **environment}
    try:
        done = subprocess.run(
            # Without -P, a folder could hide modules by its own files.
            [sys.executable, "-P", *map(str, program), str(folder)],
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        raise raises(
            f"The process that {purpose} did not end within {timeout_s:g} s. It wrote:\n{text}"
        ) from None
    if done.returncode != 0:
        raise raises(
            f"The process that {purpose} failed with exit code {done.returncode}. "
            f"It wrote:\n{done.stdout}"
        )


def import_path() -> str:
    """Returns this process's path as a PYTHONPATH that holds in any working folder."""
    return os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))


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

    `a`, the reference, and `b` are `.keras` files. `imports` are modules to import before they are
    loaded, so that their classes are known: for instance "spade_keras.networks". The inputs are
    repeated or cut to `batch_size` samples. Other options are those of `compare`.

    Raises:
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
    arrays = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten(inputs)]
    job = {
        **{name: str(path) for name, path in paths.items()},
        "inputs": keras.tree.pack_sequence_as(inputs, [f"arr_{i}" for i in range(len(arrays))]),
        "options": {"pairs": pairs, "mode": mode, "single_calls": single_calls},
        "imports": list(imports),
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
        "dtype_policy": keras.config.dtype_policy().name,
    }
    with tempfile.TemporaryDirectory(prefix="spade-keras-") as folder:
        run_job(
            ["-c", _CODE],
            Path(folder),
            job,
            {f"arr_{i}": array for i, array in enumerate(arrays)},
            purpose=f"compares {paths['a'].name} with {paths['b'].name}",
            environment={
                "KERAS_BACKEND": keras.backend.backend(),
                "PYTHONPATH": import_path(),
                # On a GPU this process may hold most of the memory: the new one takes what it
                # needs.
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            },
            timeout_s=timeout_s,
            raises=FreshProcessError,
        )
        found = json.loads(Path(folder, "answer.json").read_text())
    if "comparison" in found:
        return Comparison.from_dict(found["comparison"])
    if found["type"] == DeviceBusyError.__name__:
        raise DeviceBusyError(found["message"])
    raise FreshProcessError(
        f"Comparing {paths['a']} with {paths['b']} in a fresh process failed: "
        f"{found['type']}: {found['message']}\n{found['traceback']}"
    )


def answer(arguments: Sequence[str]) -> None:
    """Makes the comparison that a folder, the last argument, describes; the new process's part."""
    folder = Path(arguments[-1])
    job = json.loads((folder / "job.json").read_text())
    found: dict[str, Any]
    try:
        found = {"comparison": _compare(job, folder).as_dict()}
    except Exception as error:
        found = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_tb(error.__traceback__)[-3:]),
        }
    (folder / "answer.json").write_text(json.dumps(found))


def _compare(job: dict[str, Any], folder: Path) -> Comparison:
    keras.config.set_floatx(job["floatx"])
    keras.config.set_image_data_format(job["image_data_format"])
    keras.config.set_dtype_policy(job["dtype_policy"])
    for module in job["imports"]:
        importlib.import_module(module)
    a, b = (keras.saving.load_model(job[name], compile=False) for name in ("a", "b"))
    with np.load(folder / "arrays.npz") as stored:
        inputs = keras.tree.map_structure(lambda name: stored[name], job["inputs"])
    return compare(a, b, inputs, **job["options"])
