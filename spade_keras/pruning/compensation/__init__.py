"""Compensation: refits the layers that read removed channels, to restore their outputs."""

from spade_keras.pruning.compensation.calibration import Calibration, calibrate
from spade_keras.pruning.compensation.refit import refit_in_closed_form, refit_sequentially

__all__ = ["Calibration", "calibrate", "refit_in_closed_form", "refit_sequentially"]
