"""How good a candidate is, judged only by what its fine-tuning strategy may see.

Every quality is in dB, higher is better, and is computed on held-out measurements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spade_keras.finetuning import SelfSupervised
from spade_keras.metrics import psnr_per_image
from spade_keras.prediction import batches, predict


class Quality(ABC):
    """Scores a network on held-out inputs.

    Args:
        inputs: Dict of arrays with the samples on the first axis.
        batch_size: Samples per forward pass.
    """

    name: str
    """What the score is, for reports."""

    def __init__(self, inputs: Mapping[str, np.ndarray], *, batch_size: int = 4) -> None:
        self.inputs = {key: np.asarray(value) for key, value in inputs.items()}
        self.batch_size = batch_size

    @abstractmethod
    def __call__(self, network: keras.Model) -> float:
        """Returns the score in dB."""


class ValidationPSNR(Quality):
    """Mean PSNR against the ground truth, for images scaled to [0, 1].

    Args:
        inputs: See `Quality`.
        targets: The ground truth.
        batch_size: See `Quality`.
    """

    name = "validation PSNR (dB)"

    def __init__(
        self, inputs: Mapping[str, np.ndarray], targets: np.ndarray, *, batch_size: int = 4
    ) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self.targets = np.asarray(targets)

    def __call__(self, network: keras.Model) -> float:
        """Returns the mean PSNR in dB."""
        return _mean_psnr(self.targets, predict(network, self.inputs, batch_size=self.batch_size))


class TeacherAgreement(Quality):
    """Mean PSNR of a candidate's output against the unpruned network's.

    Args:
        inputs: See `Quality`.
        teacher: The unpruned network; it runs once.
        batch_size: See `Quality`.
    """

    name = "agreement with the full network (PSNR, dB)"

    def __init__(
        self, inputs: Mapping[str, np.ndarray], teacher: keras.Model, *, batch_size: int = 4
    ) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self.lessons = predict(teacher, self.inputs, batch_size=self.batch_size)

    def __call__(self, network: keras.Model) -> float:
        """Returns the mean PSNR in dB."""
        return _mean_psnr(self.lessons, predict(network, self.inputs, batch_size=self.batch_size))


class SelfSupervisedScore(Quality):
    """-10 log10 of the held-out self-supervised loss."""

    name = "held-out self-supervised loss (-10 log10)"

    def __call__(self, network: keras.Model) -> float:
        """Returns the score in dB."""
        tuner = SelfSupervised(network)
        losses, sizes = [], []
        for batch in batches(self.inputs, self.batch_size):
            prediction = network(batch, training=False)
            loss = tuner.strategy_loss(batch, None, prediction, training=False)
            losses.append(float(keras.ops.convert_to_numpy(loss)))
            sizes.append(len(next(iter(batch.values()))))
        return float(-10 * np.log10(np.average(losses, weights=sizes)))


def strategy_quality(
    strategy: str,
    inputs: Mapping[str, np.ndarray],
    *,
    targets: Any = None,
    teacher: keras.Model | None = None,
) -> Quality:
    """Returns the quality that a fine-tuning strategy may be judged by.

    Args:
        strategy: "supervised", "school" or "self_supervised".
        inputs: Held-out inputs.
        targets: Ground truth; used by "supervised" alone.
        teacher: The unpruned network; used by "school" alone.

    Raises:
        ValueError: If the strategy is unknown, or lacks what it is judged by.
    """
    if strategy == "supervised" and targets is not None:
        return ValidationPSNR(inputs, targets)
    if strategy == "school" and teacher is not None:
        return TeacherAgreement(inputs, teacher)
    if strategy == "self_supervised":
        return SelfSupervisedScore(inputs)
    raise ValueError(
        "`strategy` must be 'supervised' (with `targets`), 'school' (with `teacher`) or "
        f"'self_supervised'. Received: strategy={strategy!r}, targets "
        f"{'given' if targets is not None else 'missing'}, teacher "
        f"{'given' if teacher is not None else 'missing'}"
    )


def _mean_psnr(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(np.mean(keras.ops.convert_to_numpy(psnr_per_image(target, prediction))))
