"""How good a candidate is, judged only by what its fine-tuning strategy may see.

Higher is better; every quality is computed on held-out data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np
from scipy.special import log_softmax

from spade_keras.backend.batches import batches, count_samples, predict
from spade_keras.finetuning import SelfSupervised
from spade_keras.metrics import psnr_per_image


class Quality(ABC):
    """Scores a network on held-out inputs.

    Args:
        inputs: An array, or a dict, list or tuple of arrays, with the samples on the first axis.
        batch_size: Samples per forward pass.
    """

    name: str
    """What the score is, for reports."""

    def __init__(self, inputs: Any, *, batch_size: int = 4) -> None:
        self.inputs = keras.tree.map_structure(np.asarray, inputs)
        self.batch_size = batch_size

    @abstractmethod
    def __call__(self, network: keras.Model) -> float:
        """Returns the score, higher is better."""


class ValidationPSNR(Quality):
    """Mean PSNR against the ground truth, for images scaled to [0, 1].

    Args:
        inputs: See `Quality`.
        targets: The ground truth.
        batch_size: See `Quality`.
    """

    name = "validation PSNR (dB)"

    def __init__(self, inputs: Any, targets: np.ndarray, *, batch_size: int = 4) -> None:
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

    def __init__(self, inputs: Any, teacher: keras.Model, *, batch_size: int = 4) -> None:
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
            sizes.append(count_samples(batch))
        return float(-10 * np.log10(np.average(losses, weights=sizes)))


class Accuracy(Quality):
    """Share of samples whose largest output, or whose output above one half, is the right class.

    Args:
        inputs: See `Quality`.
        labels: Class numbers `(samples,)`, or one-hot rows `(samples, classes)`.
        batch_size: See `Quality`.
        from_logits: Whether the network's outputs are logits; for a single output per sample its
            class is 1 above 0 then, else above one half. None: see `LogitAgreement`.

    Raises:
        ValueError: If there are not as many labels as inputs.
    """

    name = "validation accuracy"

    def __init__(
        self, inputs: Any, labels: Any, *, batch_size: int = 64, from_logits: bool | None = None
    ) -> None:
        super().__init__(inputs, batch_size=batch_size)
        labels = np.asarray(labels)
        one_hot = labels.ndim == 2 and labels.shape[1] > 1
        self.labels = _argmax(labels) if one_hot else labels.reshape(-1)
        self.from_logits = from_logits
        samples = count_samples(self.inputs)
        if len(self.labels) != samples:
            raise ValueError(
                "`labels` must have one class number or one-hot row per sample. Received: shape "
                f"{labels.shape} for {samples} samples"
            )

    def __call__(self, network: keras.Model) -> float:
        """Returns the accuracy between 0 and 1; NaN if an output or a label is."""
        outputs = predict(network, self.inputs, batch_size=self.batch_size)
        known = np.isfinite(outputs).all() and np.isfinite(self.labels).all()
        classes = _argmax(_log_probabilities(outputs, self.from_logits))
        return float(np.mean(classes == self.labels)) if known else float("nan")


class LogitAgreement(Quality):
    """-10 log10 of the mean KL(teacher || candidate) over held-out inputs, in dB.

    The divergence itself falls by orders of magnitude as a candidate nears its teacher; on the
    logarithmic scale equal factors are equal steps, as for the other qualities. Unlike the share of
    equal decisions it tells apart candidates that decide alike. It ends at 120 dB.

    Args:
        inputs: See `Quality`.
        teacher: The unpruned network; it runs once.
        batch_size: See `Quality`.
        from_logits: Whether outputs are logits. None: they are, unless the teacher's lie between 0
            and 1 and, with several per sample, sum to 1.
    """

    name = "agreement with the full network (KL divergence, dB)"

    def __init__(
        self,
        inputs: Any,
        teacher: keras.Model,
        *,
        batch_size: int = 64,
        from_logits: bool | None = None,
    ) -> None:
        super().__init__(inputs, batch_size=batch_size)
        outputs = predict(teacher, self.inputs, batch_size=batch_size)
        self.from_logits = not _are_probabilities(outputs) if from_logits is None else from_logits
        self.lessons = _log_probabilities(outputs, self.from_logits)

    def __call__(self, network: keras.Model) -> float:
        """Returns the agreement in dB."""
        outputs = predict(network, self.inputs, batch_size=self.batch_size)
        answers = _log_probabilities(outputs, self.from_logits)
        divergence = np.sum(np.exp(self.lessons) * (self.lessons - answers), axis=-1).mean()
        return float(-10 * np.log10(np.maximum(divergence, _LEAST_DIVERGENCE)))


TASKS = ("reconstruction", "classification")
"""What `strategy_quality` knows qualities for."""

_LEAST_DIVERGENCE = 1e-12
_LEAST_PROBABILITY = 1e-7


def strategy_quality(
    strategy: str,
    inputs: Any,
    *,
    targets: Any = None,
    teacher: keras.Model | None = None,
    task: str = "reconstruction",
) -> Quality:
    """Returns the quality that a fine-tuning strategy may be judged by.

    Args:
        strategy: "supervised", "school" or, for reconstruction, "self_supervised".
        inputs: Held-out inputs.
        targets: Ground truth, images or labels; used by "supervised" alone.
        teacher: The unpruned network; used by "school" alone.
        task: One of `TASKS`.

    Raises:
        ValueError: If the task or strategy is unknown, or lacks what it is judged by.
    """
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {TASKS}. Received: task={task!r}")
    classifies = task == "classification"
    if strategy == "supervised" and targets is not None:
        return Accuracy(inputs, targets) if classifies else ValidationPSNR(inputs, targets)
    if strategy == "school" and teacher is not None:
        return LogitAgreement(inputs, teacher) if classifies else TeacherAgreement(inputs, teacher)
    if strategy == "self_supervised" and not classifies:
        return SelfSupervisedScore(inputs)
    last = "" if classifies else " or 'self_supervised'"
    raise ValueError(
        f"`strategy` must be 'supervised' (with `targets`), 'school' (with `teacher`){last} for "
        f"{task}. Received: strategy={strategy!r}, targets "
        f"{'given' if targets is not None else 'missing'}, teacher "
        f"{'given' if teacher is not None else 'missing'}"
    )


def _mean_psnr(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(np.mean(keras.ops.convert_to_numpy(psnr_per_image(target, prediction))))


def _argmax(rows: np.ndarray) -> np.ndarray:
    """The largest column of every row, in float where a row has a NaN, which stays one."""
    return np.where(np.isnan(rows).any(axis=-1), np.nan, np.argmax(rows, axis=-1))


def _are_probabilities(outputs: np.ndarray) -> bool:
    within = bool(np.all((outputs >= 0) & (outputs <= 1)))
    return within and (outputs.shape[-1] == 1 or bool(np.allclose(outputs.sum(-1), 1, atol=1e-2)))


def _log_probabilities(outputs: np.ndarray, from_logits: bool | None) -> np.ndarray:
    """Log-probabilities of all classes, two for a single output per sample."""
    outputs = np.asarray(outputs, np.float64)
    logits = not _are_probabilities(outputs) if from_logits is None else from_logits
    if logits:
        if outputs.shape[-1] == 1:
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=-1)
        return np.asarray(log_softmax(outputs, axis=-1))
    if outputs.shape[-1] == 1:
        outputs = np.concatenate([1 - outputs, outputs], axis=-1)
    return np.log(np.maximum(outputs, _LEAST_PROBABILITY))
