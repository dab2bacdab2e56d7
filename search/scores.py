"""Objectives computed on held-out data, each of what one fine-tuning strategy may see."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import keras
import numpy as np
from scipy.special import log_softmax

from spade_keras.backend.batches import batches, count_samples, predict
from spade_keras.finetuning import STRATEGIES, SelfSupervised, judged_as
from spade_keras.metrics import psnr_per_image
from spade_keras.search.objective import Objective, Report


class HeldOutScore(Objective):
    """Scores a network on held-out inputs: arrays, or a structure of them, samples first."""

    def __init__(self, inputs: Any, *, batch_size: int = 4) -> None:
        self.inputs = keras.tree.map_structure(np.asarray, inputs)
        self.batch_size = batch_size

    def least(self, full: keras.Model) -> float:
        """Returns the least acceptable value of a slim network, made from `full`.

        3 dB below that of `full`: twice its error.
        """
        return self(full) - _TWICE_DB

    def _outputs(self, network: keras.Model) -> np.ndarray:
        return predict(network, self.inputs, batch_size=self.batch_size)

    def _all_outputs(self, model: keras.Model) -> list[np.ndarray]:
        """Each output for all samples, computed without compiling the model."""
        parts = [
            [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(model(b, training=False))]
            for b in batches(self.inputs, self.batch_size)
        ]
        joined = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return [x.astype("complex128" if np.iscomplexobj(x) else "float64") for x in joined]

    def _mean_psnr(self, targets: np.ndarray, network: keras.Model) -> float:
        values = psnr_per_image(targets, self._outputs(network))
        return float(np.mean(keras.ops.convert_to_numpy(values)))


class ValidationPSNR(HeldOutScore):
    """Mean PSNR against the ground truth, for images scaled to [0, 1]; samples first."""

    name = "validation PSNR (dB)"

    def __init__(self, inputs: Any, targets: np.ndarray, *, batch_size: int = 4) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self.targets = np.asarray(targets)

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the mean PSNR in dB."""
        return self._mean_psnr(self.targets, candidate)


class TeacherAgreement(HeldOutScore):
    """Mean PSNR of a candidate's output against that of the unpruned network, which runs once."""

    name = "agreement with the full network (PSNR, dB)"

    def __init__(self, inputs: Any, teacher: keras.Model, *, batch_size: int = 4) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self._answers = self._outputs(teacher)

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the mean PSNR in dB."""
        return self._mean_psnr(self._answers, candidate)

    def least(self, full: keras.Model) -> float:
        """Returns 20 dB above the PSNR of a constant answer, the mean.

        So the error has 1 % of the energy of what the teacher says, as for `OutputAgreement`.
        """
        constant = np.full_like(self._answers, self._answers.mean())
        values = psnr_per_image(self._answers, constant)
        return min(float(np.mean(keras.ops.convert_to_numpy(values))) + _LEAST_DB, _MOST_DB)


class SelfSupervisedScore(HeldOutScore):
    """-10 log10 of the held-out self-supervised loss."""

    name = "held-out self-supervised loss (-10 log10)"

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the score in dB."""
        tuner = SelfSupervised(candidate)
        losses, sizes = [], []
        for batch in batches(self.inputs, self.batch_size):
            prediction = candidate(batch, training=False)
            loss = tuner.strategy_loss(batch, None, prediction, training=False)
            losses.append(float(keras.ops.convert_to_numpy(loss)))
            sizes.append(count_samples(batch))
        return float(-10 * np.log10(np.average(losses, weights=sizes)))


class Accuracy(HeldOutScore):
    """Share of samples whose largest output, or whose output above one half, is the right class.

    Labels are class numbers `(samples,)` or one-hot rows `(samples, classes)`. The class of a
    single output per sample is 1 above one half; above 0 for logits, see `LogitAgreement`.
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

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the accuracy between 0 and 1; NaN if an output or a label is."""
        outputs = self._outputs(candidate)
        known = np.isfinite(outputs).all() and np.isfinite(self.labels).all()
        classes = _argmax(_log_probabilities(outputs, self.from_logits))
        return float(np.mean(classes == self.labels)) if known else float("nan")

    def least(self, full: keras.Model) -> float:
        """Returns chance + 0.9 (full - chance), chance being the share of the commonest label.

        A tenth of what the full network has learned may be lost. One below chance allows nothing.
        """
        _, counts = np.unique(self.labels, return_counts=True)
        chance = counts.max() / counts.sum()
        return float(chance + _KEPT * max(0.0, self(full) - chance))


class LogitAgreement(HeldOutScore):
    """-10 log10 of the mean KL(teacher || candidate) over held-out inputs, in dB, at most 120.

    The divergence falls by orders of magnitude as a candidate approaches its teacher; on the
    logarithmic scale equal factors are equal steps, as for the other scores. Unlike the share of
    equal decisions it distinguishes candidates that decide alike. The teacher runs once.

    With `from_logits=None` outputs are taken for logits, unless the teacher's lie between 0 and 1
    and, with several per sample, sum to 1.
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
        outputs = self._outputs(teacher)
        self.from_logits = not _are_probabilities(outputs) if from_logits is None else from_logits
        self._answers = _log_probabilities(outputs, self.from_logits)

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the agreement in dB."""
        return self._agreement(_log_probabilities(self._outputs(candidate), self.from_logits))

    def least(self, full: keras.Model) -> float:
        """Returns 10 dB above the agreement of the mean class frequencies, which look at no input.

        A tenth of what the teacher tells beyond them may be lost.
        """
        chance = self._agreement(np.log(np.exp(self._answers).mean(axis=0, keepdims=True)))
        return min(chance + 10.0, _MOST_DB)

    def _agreement(self, logits: np.ndarray) -> float:
        divergence = np.sum(np.exp(self._answers) * (self._answers - logits), axis=-1).mean()
        return float(-10 * np.log10(np.maximum(divergence, _LEAST_DIVERGENCE)))


class OutputAgreement(HeldOutScore):
    """How closely a candidate's outputs follow the full model's, in dB; for any model.

        -10 log10( sum |f_slim(x) - f(x)|^2 / sum |f(x) - mean f(x)|^2 ),  mean over the outputs

    0 dB is as good as answering with the mean; the full model itself, which runs once, gives
    120 dB. Inputs come in the structure that the model takes, samples first.
    """

    name = "agreement with the full model (signal to error, dB)"

    def __init__(self, full: keras.Model, inputs: Any, *, batch_size: int = 16) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self._answers = self._all_outputs(full)

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the agreement in dB."""
        pairs = zip(self._all_outputs(candidate), self._answers, strict=True)
        return float(np.mean([_signal_to_error(output, full) for output, full in pairs]))

    def least(self, full: keras.Model) -> float:
        """Returns 20 dB: an error of 1 % of the energy, below what most uses of a model notice."""
        return _LEAST_DB


class OutputError(HeldOutScore):
    """The squared error of a candidate's outputs, relative to the full model's, with a minus sign.

        - sum |f_slim(x) - f(x)|^2 / sum |f(x)|^2,  mean over the outputs

    Unlike a value in dB it adds up over small causes. The full model runs once, at the first call.
    """

    name = "error of the outputs, relative (negative)"

    def __init__(self, full: keras.Model, inputs: Any, *, batch_size: int = 8) -> None:
        super().__init__(inputs, batch_size=batch_size)
        self._full = full

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        """Returns the negative error, at most 0; NaN if an output is."""
        pairs = zip(self._all_outputs(candidate), self._answers, strict=True)
        return -float(np.mean([_energy(x - full) / (_energy(full) or 1.0) for x, full in pairs]))

    @cached_property
    def _answers(self) -> list[np.ndarray]:
        return self._all_outputs(self._full)


TASKS = ("reconstruction", "classification")
"""Strategies for which `strategy_objective` has scores."""

_LEAST_DB, _MOST_DB, _TWICE_DB = 20.0, 120.0, 3.0
_KEPT = 0.9
_LEAST_DIVERGENCE = 1e-12
_LEAST_PROBABILITY = 1e-7


def strategy_objective(
    strategy: str,
    inputs: Any,
    *,
    targets: Any = None,
    teacher: keras.Model | None = None,
    task: str = "reconstruction",
) -> Objective:
    """Returns the score that a fine-tuning strategy may be judged by.

    It is "supervised" (by targets: images or labels), "school" (by the unpruned network) or, for
    reconstruction, "self_supervised". A registered one is judged as its attribute `judged_as` says,
    by default as "school". The task is one of `TASKS`.
    """
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {TASKS}. Received: task={task!r}")
    classifies = task == "classification"
    judged = judged_as(strategy) if strategy in STRATEGIES else None
    if judged == "supervised" and targets is not None:
        return Accuracy(inputs, targets) if classifies else ValidationPSNR(inputs, targets)
    if judged == "school" and teacher is not None:
        return LogitAgreement(inputs, teacher) if classifies else TeacherAgreement(inputs, teacher)
    if judged == "self_supervised" and not classifies:
        return SelfSupervisedScore(inputs)
    last = "" if classifies else " or 'self_supervised'"
    given = ["missing" if data is None else "given" for data in (targets, teacher)]
    raise ValueError(
        f"`strategy` must be 'supervised' (with `targets`), 'school' (with `teacher`){last} for "
        f"{task}. Received: strategy={strategy!r}, targets {given[0]}, teacher {given[1]}"
    )


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
    if outputs.shape[-1] == 1:
        first = np.zeros_like(outputs) if logits else 1 - outputs
        outputs = np.concatenate([first, outputs], axis=-1)
    if logits:
        return np.asarray(log_softmax(outputs, axis=-1))
    return np.log(np.maximum(outputs, _LEAST_PROBABILITY))


def _energy(values: np.ndarray) -> float:
    return float(np.sum(np.abs(values) ** 2))


def _signal_to_error(output: np.ndarray, full: np.ndarray) -> float:
    signal, error = _energy(full - full.mean()), _energy(output - full)
    # A floor of 120 dB, for outputs that are equal, and for constant ones.
    return float(-10 * np.log10(max(error, 1e-12 * signal, 1e-300) / max(signal, 1e-300)))
