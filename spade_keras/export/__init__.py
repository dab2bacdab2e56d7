"""Exporting models, and checking what was exported where it will run."""

from __future__ import annotations

from spade_keras.errors import ExportError
from spade_keras.export import tfmot
from spade_keras.export.archive import saved_model
from spade_keras.export.reports import CheckReport, ExportReport
from spade_keras.export.verification import check_saved_models

__all__ = [
    "CheckReport",
    "ExportError",
    "ExportReport",
    "check_saved_models",
    "saved_model",
    "tfmot",
]
