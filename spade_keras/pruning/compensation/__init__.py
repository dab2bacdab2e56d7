"""Compensation: the readers of removed channels are refitted, so that a slim model starts good."""

from spade_keras.pruning.compensation.calibration import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
