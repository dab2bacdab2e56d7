"""How good a candidate of any model is without targets: by its agreement with the full model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.model_search.data import outputs_of
from spade_keras.search import Quality


class OutputAgreement(Quality):
    """How closely a candidate's outputs follow the full model's, in dB.

        -10 log10( sum |f_slim(x) - f(x)|^2 / sum |f(x) - mean f(x)|^2 ),  mean over the outputs

    0 dB is as good as answering with the mean; the full model itself gives 120 dB.

    Args:
        full: The full model; it runs once.
        inputs: Held-out inputs.
        batch_size: Samples per call.
    """

    name = "agreement with the full model (signal to error, dB)"

    def __init__(self, full: keras.Model, inputs: Any, *, batch_size: int = 16) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self._answers = [_as_float(answer) for answer in outputs_of(full, inputs, batch_size)]

    def __call__(self, network: keras.Model) -> float:
        """Returns the agreement in dB."""
        outputs = outputs_of(network, self.inputs, self.batch_size)
        pairs = zip(outputs, self._answers, strict=True)
        return float(np.mean([_signal_to_error(_as_float(output), full) for output, full in pairs]))


def _as_float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, "complex128" if np.iscomplexobj(array) else "float64")


def _signal_to_error(output: np.ndarray, full: np.ndarray) -> float:
    signal = np.sum(np.abs(full - full.mean()) ** 2)
    error = np.sum(np.abs(output - full) ** 2)
    # A floor of 120 dB, for outputs that are equal, and for constant ones.
    return float(-10 * np.log10(max(error, 1e-12 * signal, 1e-300) / max(signal, 1e-300)))
