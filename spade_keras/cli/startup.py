"""What commands share: exit codes, arguments, and the start of keras without native messages."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from spade_keras.errors import MissingExtraError, SpadeError

BACKENDS = ("tensorflow", "jax", "torch")
FAILURE, MISTAKE, BUDGET_NOT_MET, INTERRUPTED = 1, 2, 3, 130

existing_file = functools.partial(typer.Option, exists=True, dir_okay=False)
ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .keras file.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="[NAME=]N,...",
        help="Input shape, batch first: 1,256,256,2; once per input.",
    ),
]
InputsFile = Annotated[Path | None, existing_file(help="An .npz file with real inputs.")]


@contextlib.contextmanager
def refusals_are_mistakes() -> Iterator[None]:
    """Turns the ValueError of an argument the library refuses into exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def counts(option: str, text: str | None) -> tuple[int, ...]:
    """Reads whole numbers with commas between them; none if there is no text."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(
            f"`{option}` must read 2,3,4: whole numbers. Received: {text}"
        ) from None


def load_model(model: Path, shape: list[str] | None, inputs: Path | None) -> tuple[Any, Any]:
    """Loads a model and makes inputs for it, as `--shape` and `--inputs` say."""
    from spade_keras.files import load_model
    from spade_keras.tasks.model_inputs import example_inputs

    with refusals_are_mistakes():
        network = load_model(model)
        return network, example_inputs(network, shape or (), inputs)


def import_library() -> None:
    """Imports keras and the modules that register classes that a `.keras` file may name."""
    import_keras()
    importlib.import_module("spade_keras.networks")


def import_keras() -> str:
    """Imports keras without the backend's start-up messages; returns `choose_backend`'s choice."""
    backend = _set_backend()
    if "keras" not in sys.modules:
        with _native_messages_held_back():
            keras = importlib.import_module("keras")
            keras.ops.convert_to_numpy(keras.ops.zeros(1))  # opens the device, which logs too
    return backend


def prepare_backend() -> None:
    """Chooses the backend for modules that import keras themselves; without one, they fail."""
    with contextlib.suppress(SpadeError):
        _set_backend()


def _set_backend() -> str:
    backend = choose_backend()
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return backend


def choose_backend() -> str:
    """Returns the backend that `import_keras` uses, without importing it.

    The environment variable KERAS_BACKEND decides, else Keras' own configuration file if its
    backend is installed, else the first installed of TensorFlow, JAX and PyTorch.

    Raises:
        SpadeError: If KERAS_BACKEND names no backend that spade-keras runs on.
        MissingExtraError: If the backend is not installed.
    """
    asked = os.environ.get("KERAS_BACKEND")
    if asked:
        if asked not in BACKENDS:
            raise SpadeError(
                f"The environment variable KERAS_BACKEND must be one of {', '.join(BACKENDS)}. "
                f"Received: KERAS_BACKEND={asked}"
            )
        if not _is_installed(asked):
            raise MissingExtraError(asked, asked)
        return asked
    for backend in (_configured_backend(), *BACKENDS):
        if backend in BACKENDS and _is_installed(backend):
            return backend
    raise MissingExtraError("tensorflow", "tensorflow")


def _configured_backend() -> str:
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # Keras itself falls back to its default here.


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@contextlib.contextmanager
def _native_messages_held_back() -> Iterator[None]:
    """Holds back the stderr of native libraries, and shows it only if the import fails.

    TensorFlow logs before its log level is read, so the environment variable alone is not enough.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(original, kept.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
