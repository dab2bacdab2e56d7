"""Exporting models, and checking each export in a process without Keras."""

from __future__ import annotations

from spade_keras.errors import ExportError
from spade_keras.export import tfmot
from spade_keras.export.saved_model import ExportReport, export_model
from spade_keras.export.verification import CheckReport, check_saved_models

__all__ = [
    "CheckReport",
    "ExportError",
    "ExportReport",
    "check_saved_models",
    "export_model",
    "tfmot",
]
