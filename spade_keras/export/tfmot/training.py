"""Settings, data and results of tuning with TensorFlow Model Optimization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from spade_keras.export.tfmot.twin import weights_of
from spade_keras.latency import Latency, Ratio
from spade_keras.metrics import psnr_per_image
from spade_keras.typing import Record

Arrays = tuple[Any, Any]
"""Inputs and targets."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is tuned: by Adam, on the CPU.

    Args:
        loss: "mse" for images, judged by PSNR, or "sparse_categorical_crossentropy" for classes,
            judged by accuracy; the network's outputs are taken for logits unless a softmax gives
            them.
        epochs: Passes over the data.
        learning_rate: Learning rate of Adam.
        batch_size: Samples per step.
        seed: Seed of the order of the samples and everything random.
        data_range: The largest possible value of an image, for the PSNR.
    """

    loss: Literal["mse", "sparse_categorical_crossentropy"] = "mse"
    epochs: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 32
    seed: int = 0
    data_range: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in ("mse", "sparse_categorical_crossentropy"):
            raise ValueError(
                "`loss` must be 'mse' or 'sparse_categorical_crossentropy'. "
                f"Received: loss={self.loss!r}"
            )
        for name in ("epochs", "batch_size"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(
                    f"`{name}` must be an integer of at least 1. Received: {name}={count}"
                )
        for name in ("learning_rate", "data_range"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"`{name}` must be positive. Received: {name}={getattr(self, name)}"
                )

    @property
    def metric(self) -> str:
        """Name of the metric of the results."""
        return "psnr_db" if self.loss == "mse" else "accuracy"

    def quality(self, y_true: np.ndarray, y_pred: np.ndarray) -> float:
        """Returns the metric of a network's outputs."""
        if self.loss == "mse":
            per_image = psnr_per_image(y_true, y_pred, self.data_range)
            return float(np.mean(keras.ops.convert_to_numpy(per_image)))
        return float(np.mean(np.argmax(y_pred, axis=-1) == y_true))


@dataclasses.dataclass(frozen=True)
class KernelSummary:
    """Counts of one kernel after tuning: its weights, their distinct values, and zeros."""

    weights: int
    distinct: int
    zeros: int


@dataclasses.dataclass(frozen=True)
class TfmotReport(Record):
    """Settings of a tuning, and the quality, size and time of its file.

    The keys "float32" and "int8" stand for the LiteRT files of the tuned network; both compute
    one sample a call on one thread of the CPU, and take and give float32.

    Args:
        path: The int8 file.
        method: "quantize", "cluster" or "magnitude_prune".
        settings: Its arguments and those of the training.
        metric: "psnr_db" or "accuracy".
        quality: The metric on held-out data: "before" and "after" of the Keras network, and of
            both files as the LiteRT interpreter computes them.
        loss: Training loss of the last epoch.
        size_bytes: Size of both files.
        zipped_bytes: Their size as gzip packs them: repeated and zero weights show here alone.
        latency: Time of both files, measured interleaved.
        ratio: Time of the int8 file / time of the float32 file.
        kernels: The kernels of the tuned Keras network, as "layer/weight".
        left: Layers that the method did not treat, with the reason.
        twin_error: Largest difference of the twin's outputs from the network's before tuning,
            relative to the largest output.
        carried_error: The same of the tuned Keras network and the float32 file.
        seconds: Time that all of it took.
        fingerprint: Device, versions, threads and input of the latencies.
    """

    path: Path
    method: str
    settings: Mapping[str, Any]
    metric: str
    quality: Mapping[str, float]
    loss: float
    size_bytes: Mapping[str, int]
    zipped_bytes: Mapping[str, int]
    latency: Mapping[str, Latency]
    ratio: Ratio
    kernels: Mapping[str, KernelSummary]
    left: Mapping[str, str]
    twin_error: float
    carried_error: float
    seconds: float
    fingerprint: Mapping[str, Any]


def kernels_of(network: keras.Model) -> dict[str, KernelSummary]:
    """Counts the values of every kernel, named "layer/weight"."""
    return {
        name: KernelSummary(weight.size, np.unique(weight).size, int(np.sum(weight == 0)))
        for name, weight in weights_of(network).items()
        if weight.ndim > 1
    }


def checked_data(
    network: keras.Model, data: Arrays, held_out: Arrays, training: Training
) -> list[np.ndarray]:
    """Returns inputs, targets and those held out; raises `ValueError` unless they fit together."""
    x, y = _checked_pair("data", data, training)
    held_out_x, held_out_y = _checked_pair("held_out", held_out, training)
    if x.shape[1:] != held_out_x.shape[1:]:
        raise ValueError(
            "The inputs of `data` and `held_out` must have one shape, for the file has. "
            f"Received: {x.shape[1:]} and {held_out_x.shape[1:]}"
        )
    wanted = getattr(network, "input_shape", None)
    if isinstance(wanted, tuple) and (
        len(wanted) != x.ndim
        or any(size not in (None, given) for size, given in zip(wanted, x.shape, strict=True))
    ):
        raise ValueError(
            f"The inputs of `data` must fit the network's input shape {wanted}. Received: {x.shape}"
        )
    return [x, y, held_out_x, held_out_y]


def _checked_pair(name: str, pair: Arrays, training: Training) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(
            f"`{name}` must be a pair of arrays, inputs and targets. "
            f"Received: {name} of type {type(pair).__name__}"
        )
    x, y = (keras.ops.convert_to_numpy(array) for array in pair)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"`{name}` must hold one target per input, at least one. "
            f"Received: {len(x)} inputs and {len(y)} targets"
        )
    if training.loss != "mse" and (y.ndim != 1 or y.dtype.kind not in "iu" or y.min() < 0):
        raise ValueError(
            f"The targets of `{name}` must be integer classes of shape (samples,) for the loss "
            f"{training.loss}. Received: shape {y.shape}, dtype {y.dtype}"
        )
    for part, array in (("inputs", x), ("targets", y)):
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"The {part} of `{name}` must be finite. Received: NaN or infinity in them"
            )
    return x.astype("float32"), y.astype("float32" if training.loss == "mse" else "int32")


def check_targets(
    outputs: np.ndarray, y: np.ndarray, held_out_y: np.ndarray, training: Training
) -> None:
    """Raises `ValueError` unless the targets fit the network's outputs."""
    if training.loss == "mse":
        shapes = {outputs.shape[1:], y.shape[1:], held_out_y.shape[1:]}
        if outputs.ndim != 4 or len(shapes) != 1:
            raise ValueError(
                "For the loss mse the targets must be images of the shape that the network gives, "
                f"{outputs.shape[1:]}. Received: {y.shape[1:]} in `data`, {held_out_y.shape[1:]} "
                "in `held_out`. For a classifier pass "
                "Training(loss='sparse_categorical_crossentropy')."
            )
    elif outputs.ndim != 2 or max(y.max(), held_out_y.max()) >= outputs.shape[1]:
        raise ValueError(
            f"The network gives outputs of shape {outputs.shape[1:]}; the classes must be numbers "
            f"below that. Received: classes up to {max(y.max(), held_out_y.max())}"
        )
