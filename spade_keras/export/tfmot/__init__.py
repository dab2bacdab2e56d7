"""TensorFlow Model Optimization for Keras 3 networks: 8 bits, few weight values, zero weights.

The package supports Keras 2 alone, and importing it turns `tf.keras` into Keras 2. So a twin of the
network with the same weights is tuned in another process, and its weights are copied back. Zeros
and repeated values make files that compress well; they do not make a dense kernel faster.
"""

from __future__ import annotations

from pathlib import Path

import keras

from spade_keras.export.tfmot.report import KernelSummary, TfmotReport, Training
from spade_keras.export.tfmot.tuning import Arrays, tune

__all__ = ["KernelSummary", "TfmotReport", "Training", "cluster", "magnitude_prune", "quantize"]

_LEAST_STEPS = 10


def quantize(
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    *,
    held_out: Arrays,
    training: Training | None = None,
    pairs: int = 40,
    lock: bool = True,
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network for 8-bit weights and activations, and writes the LiteRT file.

    While it is tuned, every kernel and activation is rounded as the file will round it, and
    gradients pass as if it were not. Ranges of activations are set by the first batch, then follow
    the data.

    Args:
        network: A Functional or Sequential model of one input and one output, in float32: a
            prior or a classifier. It is left as it was.
        path: The .tflite file to write, for samples of the size that `data` has.
        data: Inputs and targets to tune on: images, or integer classes.
        held_out: Inputs and targets to judge by.
        training: Loss, epochs, learning rate and the like; None for those of `Training()`.
        pairs: Windows in which each LiteRT file is timed.
        lock: Whether to wait until no other process is timing on this device.

    Returns:
        A copy of the network with the tuned weights, not rounded; and the report.

    Raises:
        ValueError: If an argument is out of its range, or the arrays do not fit the network.
        MissingExtraError: If TensorFlow Model Optimization or TensorFlow is not installed.
        ExportError: If the network cannot be translated, the twin differs, the tuning diverges, or
            the process fails; holds all that it wrote.

    Reference:
        Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2018.
    """
    return tune({"method": "quantize"}, network, path, data, held_out, training, pairs, lock)


def cluster(
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    *,
    held_out: Arrays,
    clusters: int = 16,
    training: Training | None = None,
    pairs: int = 40,
    lock: bool = True,
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network whose kernels hold few different values each, and writes the LiteRT file.

    Each kernel starts from the centroids of its weights (k-means++); they alone train. The file is
    rounded to 8 bits afterwards, by the ranges of up to 200 samples. Depthwise kernels are left as
    they are.

    Args:
        network: As in `quantize`.
        path: As in `quantize`.
        data: As in `quantize`.
        held_out: As in `quantize`.
        clusters: Most different values that a kernel may hold, at least 2.
        training: As in `quantize`.
        pairs: As in `quantize`.
        lock: As in `quantize`.

    Returns:
        A copy of the network with the clustered weights, and the report.

    Raises:
        ValueError: If `clusters` is below 2; else as in `quantize`.
        MissingExtraError: As in `quantize`.
        ExportError: As in `quantize`.

    Reference:
        Han, Mao and Dally, "Deep compression", 2016.
    """
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise ValueError(
            f"`clusters` must be an integer of at least 2. Received: clusters={clusters}"
        )
    method = {"method": "cluster", "clusters": clusters}
    return tune(method, network, path, data, held_out, training, pairs, lock)


def magnitude_prune(
    network: keras.Model,
    path: str | Path,
    data: Arrays,
    *,
    held_out: Arrays,
    sparsity: float = 0.5,
    training: Training | None = None,
    pairs: int = 40,
    lock: bool = True,
) -> tuple[keras.Model, TfmotReport]:
    """Tunes a network whose smallest weights are zero, and writes the LiteRT file.

    The share of zeros of each kernel grows to `sparsity` over the first half of the steps. No
    channel disappears, so the network does the same work as before: see `spade_keras.pruning` for
    networks that are faster. The file is rounded to 8 bits afterwards, by the ranges of up to 200
    samples. Depthwise kernels are left as they are.

    Args:
        network: As in `quantize`.
        path: As in `quantize`.
        data: As in `quantize`; at least 10 steps.
        held_out: As in `quantize`.
        sparsity: Share of zeros in each kernel, in (0, 1).
        training: As in `quantize`.
        pairs: As in `quantize`.
        lock: As in `quantize`.

    Returns:
        A copy of the network with the zeros in it, and the report.

    Raises:
        ValueError: If `sparsity` is out of its range; else as in `quantize`.
        MissingExtraError: As in `quantize`.
        ExportError: As in `quantize`.

    Reference:
        Zhu and Gupta, "To prune, or not to prune", 2017.
    """
    if not 0 < sparsity < 1:
        hint = f" For {sparsity:g} % pass {sparsity / 100:g}." if 1 < sparsity < 100 else ""
        raise ValueError(f"`sparsity` must be in (0, 1). Received: sparsity={sparsity}.{hint}")
    training = training or Training()
    steps = training.epochs * -(-len(data[0]) // training.batch_size)
    if steps < _LEAST_STEPS:
        raise ValueError(
            f"Pruning step by step takes at least {_LEAST_STEPS} training steps. Received: "
            f"{steps}. Raise `epochs` or lower `batch_size`."
        )
    method = {"method": "magnitude_prune", "sparsity": float(sparsity)}
    return tune(method, network, path, data, held_out, training, pairs, lock)
