"""Child processes of the export: what fails in them is an `ExportError`."""

from __future__ import annotations

import functools
import importlib.util

from spade_keras.errors import ExportError, MissingExtraError
from spade_keras.latency import child_process

run_python = functools.partial(child_process.run_python, raises=ExportError)
"""`child_process.run_python`, raising an `ExportError`."""


def require_tensorflow() -> None:
    """Checks that a child process can import TensorFlow, without importing it here.

    Raises:
        MissingExtraError: If it cannot.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", "tensorflow")
