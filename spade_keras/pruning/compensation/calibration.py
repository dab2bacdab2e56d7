"""Second moments of the inputs of a model's kernels: the statistics that compensation needs."""

from __future__ import annotations

import contextlib
import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import keras
import numpy as np

from spade_keras import backend
from spade_keras.backend.batches import batches, count_samples, first_samples
from spade_keras.pruning.compensation.passes import Pass, steps_of
from spade_keras.pruning.compensation.readers import readers_of, row_chooser
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.parts import is_network, parts_of, prefix_of

BATCH_SIZE = 8
_MOST_INPUTS = 4608
# Samples x positions that a layer contributes per batch.
choose_rows = row_chooser(4096, seed=0)


@dataclass(frozen=True)
class PartCalibration:
    """The inputs of a model, or of one prior of a network, and the moments measured on them.

    `grams` holds `[X 1]^T [X 1] / rows` of every block of a kernel, float64, `(blocks, n + 1,
    n + 1)` with n = channels x taps, by the path of a layer and the kernel's position in its
    weights; `rows` is how many there were.
    """

    inputs: Any
    grams: Mapping[tuple[str, int], np.ndarray]
    rows: Mapping[tuple[str, int], int]


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` measured, by the key of a prior; "" for a model."""

    parts: Mapping[str, PartCalibration]

    def gram(self, path: str, weight_index: int = 0) -> np.ndarray | None:
        """Returns the second moments of a kernel's inputs by the path that groups use, if any."""
        for key, part in self.parts.items():
            found = part.grams.get((path.removeprefix(prefix_of(key)), weight_index))
            if path.startswith(prefix_of(key)) and found is not None:
                return found
        return None


def calibrate(model: Any, inputs: Any, *, samples: int = 128) -> Calibration:
    """Measures the inputs of a model's kernels; needs neither labels nor targets.

    The priors of a network are measured on the images that the network passes to them, over all
    iterations. A kernel of n inputs (channels x window) needs n x n numbers of 8 bytes; above
    n = 4608 kernels are left out and stay as they are cut. So do those of `ConvLSTM`, of `RNN`
    with other cells than its own layer has, of a `GRU` with `reset_after=False` (the recurrent
    one), of `EinsumDense` with several summed axes, of `SpectralNormalization`, of the gate of
    attention, of embeddings, and recurrent kernels and attention inside `TimeDistributed`.
    Depthwise kernels sum over no channels; the layer that reads their outputs is refitted.

    Args:
        model: A built Keras model, or a network with `priors`.
        inputs: Inputs of the model, a few dozen images or some hundred samples.
        samples: Most samples of a model, or of all calls of a prior, drawn at random.

    Example:
        >>> import keras, numpy as np
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(6, name="a"), dense(2, name="b")])
        >>> calibrate(model, np.ones((8, 4), "float32")).gram("b").shape
        (1, 7, 7)
    """
    if not count_samples(inputs):
        raise ValueError("`inputs` must hold at least one sample. Received: inputs of length 0")
    if is_network(model):
        given = _trajectory(model, inputs, samples)
    else:
        chosen = row_chooser(samples, seed=0)(count_samples(inputs))
        given = {"": keras.tree.map_structure(lambda array: np.asarray(array)[chosen], inputs)}
    parts = parts_of(model).items()
    return Calibration({key: _measure(x, given[key]) for key, x in parts if key in given})


def design(patches: np.ndarray) -> np.ndarray:
    """`[X 1]` of every block of some patches, `(blocks, rows, n + 1)`, in float64."""
    rows, blocks = patches.shape[:2]
    flat = patches.reshape(rows, blocks, -1)
    made = np.ones((blocks, rows, flat.shape[-1] + 1))
    made[..., :-1] = flat.transpose(1, 0, 2)
    return made


def _measure(model: keras.Model, inputs: Any) -> PartCalibration:
    analysis = analyze(model)
    steps = steps_of(analysis)
    sums: dict[tuple[str, int], Any] = defaultdict(float)
    rows: dict[tuple[str, int], int] = defaultdict(int)
    for batch in batches(inputs, BATCH_SIZE):
        run = Pass(analysis, steps, batch)
        for position, step in enumerate(steps):
            for reader in readers_of(step.call.operation):
                if reader.inputs > _MOST_INPUTS:
                    continue
                run.advance(position)
                patches = run.patches(step, reader, choose_rows)
                if not np.isfinite(patches).all():
                    raise ValueError(
                        "`inputs` must lead to finite activations. Received: NaN or infinity "
                        f"before layer {step.path!r}"
                    )
                x = design(patches)
                key = step.path, reader.index
                sums[key] = sums[key] + x.swapaxes(1, 2) @ x
                rows[key] += len(patches)
    return PartCalibration(inputs, {key: sums[key] / max(1, rows[key]) for key in sums}, rows)


def _trajectory(network: Any, inputs: Any, most: int) -> dict[str, Any]:
    """The inputs that a network passes to each prior, a random choice over all calls."""
    rng = np.random.default_rng(0)
    # The samples with the smallest of random numbers are a uniform choice at any time.
    kept: dict[str, list[tuple[float, Any]]] = {key: [] for key in network.priors}

    def record(key: str, batch: Any) -> None:
        drawn = rng.random(count_samples(batch))
        samples = [(x, first_samples(batch, 1, i)) for i, x in enumerate(drawn)]
        kept[key] = heapq.nsmallest(most, [*kept[key], *samples], key=itemgetter(0))

    with contextlib.ExitStack() as stack:
        for key, prior in network.priors.items():
            prior.call = partial(_recorded, prior.call, partial(record, key))
            stack.callback(delattr, prior, "call")
        for batch in batches(inputs, BATCH_SIZE):
            backend.synchronize(network(batch, training=False))
    chosen = {key: [sample for _, sample in found] for key, found in kept.items() if found}
    return {key: keras.tree.map_structure(_joined, *samples) for key, samples in chosen.items()}


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _recorded(call: Any, record: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    backend.show(inputs, record)
    return call(inputs, *args, **kwargs)
