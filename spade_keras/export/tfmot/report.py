"""Settings and results of tuning with TensorFlow Model Optimization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from spade_keras.latency import Latency, Ratio
from spade_keras.typing import Record

Loss = Literal["mse", "sparse_categorical_crossentropy"]


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

    Raises:
        ValueError: If one is out of its range.
    """

    loss: Loss = "mse"
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


@dataclasses.dataclass(frozen=True)
class KernelSummary:
    """One kernel after tuning.

    Args:
        weights: How many weights it has.
        distinct: How many different values they have.
        zeros: How many of them are zero.
    """

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
