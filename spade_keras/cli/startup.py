"""Steps before keras is imported: chooses the backend, mutes native start-up messages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spade_keras.errors import MissingExtraError, SpadeError

BACKENDS = ("tensorflow", "jax", "torch")


def import_keras() -> str:
    """Chooses the backend and imports keras without the backend's start-up messages.

    Returns:
        The backend's name; see `choose_backend`.

    Raises:
        SpadeError: If KERAS_BACKEND names no backend that spade-keras runs on.
        MissingExtraError: If the backend is not installed.
    """
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
