"""From the sum of a network's layers' times to the time of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spade_keras.search.space import Configuration

Measured = Sequence[tuple[Configuration, float]]
"""Configurations and the milliseconds that the whole network took."""


@dataclass(frozen=True)
class Calibration:
    """What whole networks took, as a function of their layers' times.

        ms = constant + per_iteration * iterations + factor * sum

    Args:
        constant: Milliseconds spent once, whatever the configuration.
        per_iteration: Milliseconds of every iteration outside of the layers, such as FFTs.
        factor: Time of a layer inside the network / its time alone.
    """

    constant: float = 0.0
    per_iteration: float = 0.0
    factor: float = 1.0

    @classmethod
    def fit(
        cls, sums: Sequence[float], iterations: Sequence[int], times: np.ndarray
    ) -> Calibration:
        """Minimizes the squares of the relative errors, no term being negative.

        A single network gives the factor alone; networks of equal depth leave the constant at 0.

        Args:
            sums: Sum of the layers' times of each network.
            iterations: Iterations of each.
            times: Measured time of each.
        """
        # scipy.optimize takes a moment to import, which only those who fit shall wait for.
        from scipy.optimize import nnls

        columns = {"factor": np.asarray(sums, float)}
        if np.ptp(columns["factor"]) > 0:
            columns["per_iteration"] = np.asarray(iterations, float)
        if np.ptp(iterations) > 0:
            columns["constant"] = np.ones(len(times))
        matrix = np.stack(list(columns.values()), axis=1) / times[:, None]
        solution, _ = nnls(matrix, np.ones(len(times)))
        return cls(**dict(zip(columns, map(float, solution), strict=True)))

    def ms(self, total: float, iterations: int) -> float:
        """Returns the predicted milliseconds of a network.

        Args:
            total: Sum of its layers' times.
            iterations: Its iterations; 1 if it has none.
        """
        return self.constant + self.per_iteration * iterations + self.factor * total


@dataclass(frozen=True)
class PredictionError:
    """How far predictions are from measurements, relative to these.

    Args:
        median: Median of the absolute errors.
        maximum: The largest.
        configurations: Configurations compared.
    """

    median: float
    maximum: float
    configurations: int

    @classmethod
    def of(cls, predicted: Sequence[float], times: np.ndarray) -> PredictionError:
        """Compares predicted with measured milliseconds."""
        errors = np.abs(np.asarray(predicted, float) / times - 1)
        return cls(float(np.median(errors)), float(errors.max()), len(times))

    def __str__(self) -> str:
        return (
            f"median error {self.median:.1%}, at most {self.maximum:.1%} "
            f"over {self.configurations} configurations"
        )


def measured_times(measured: Measured) -> np.ndarray:
    """Returns the times alone.

    Raises:
        ValueError: If there are none, or one is not above 0.
    """
    times = np.array([ms for _, ms in measured], float)
    if not (times.size and np.isfinite(times).all() and times.min() > 0):
        raise ValueError(
            "`measured` must hold at least one configuration, with a finite time above 0. "
            f"Received: times={times.tolist()}"
        )
    return times
