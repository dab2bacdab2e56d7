"""Compensation: the readers of removed channels are refitted, so that a slim model starts good."""

from spade_keras.pruning.compensation.calibration import Calibration, calibrate
from spade_keras.pruning.compensation.refit import (
    ReaderError,
    refit_in_closed_form,
    refit_sequentially,
)

__all__ = [
    "Calibration",
    "ReaderError",
    "calibrate",
    "refit_in_closed_form",
    "refit_sequentially",
]
