"""Second moments of the inputs of a model's kernels: the statistics that compensation needs."""

from __future__ import annotations

import contextlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import keras
import numpy as np

from spade_keras import backend
from spade_keras.backend.batches import batches, count_samples, first_samples
from spade_keras.pruning.compensation.readers import Reader, readers_of, row_chooser
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.trace import Call
from spade_keras.pruning.parts import is_network, parts_of, prefix_of
from spade_keras.pruning.proof import Replay, to_numpy, to_tensors


class Seen(Exception):  # noqa: N818
    """Ends the run of a batch as soon as the wanted tensor was seen."""


BATCH_SIZE = 8
_MOST_INPUTS = 4608
# Samples x positions that a layer contributes per batch.
choose_rows = row_chooser(4096, seed=0)


@dataclass(frozen=True)
class PartCalibration:
    """The inputs of a model, or of one prior of a network, and the moments measured on them.

    `grams` holds `[X 1]^T [X 1] / rows` of every block of a kernel, float64, `(blocks, n + 1,
    n + 1)` with n = channels x taps, by the path of a layer and the kernel's position in its
    weights.
    """

    inputs: Any
    grams: Mapping[tuple[str, int], np.ndarray]


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
    n = 4608 kernels are left out and stay as they are cut.

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


def watch_calls(
    analysis: Analysis, inputs: Any, see: Callable[[str, Call, Mapping[int, Any]], None]
) -> None:
    """Runs a model batch by batch, eagerly, and shows every call before it is made.

    `see` gets the path of the operation, the call and the tensors so far, by the id of their
    symbols; it raises `Seen` to end the run of a batch.
    """

    def before(call: Call, tensors: Mapping[int, Any]) -> None:
        see(analysis.paths.get(id(call.operation), ""), call, tensors)

    graph = analysis.graph
    for batch in batches(inputs, BATCH_SIZE):
        with contextlib.suppress(Seen):
            Replay(None, before=before).run(graph, to_tensors(graph, batch), [])


def patches_of(call: Call, reader: Reader, tensors: Mapping[int, Any]) -> np.ndarray:
    """What a reader sees in a call, at rows that are the same in every model."""
    argument = call.inputs[min(reader.argument, len(call.inputs) - 1)]
    return reader.patches(to_numpy(tensors[id(argument)]), choose_rows)


def second_moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[A 1]^T [B 1]` of every block of two sets of patches, in float64."""
    left, right = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (a, b))
    left, right = (np.concatenate([x, np.ones((*x.shape[:2], 1))], -1) for x in (left, right))
    return left.transpose(1, 2, 0) @ right.transpose(1, 0, 2)


def _measure(model: keras.Model, inputs: Any) -> PartCalibration:
    analysis = analyze(model)
    sums: dict[tuple[str, int], Any] = defaultdict(float)
    rows: dict[tuple[str, int], int] = defaultdict(int)

    def see(path: str, call: Call, tensors: Mapping[int, Any]) -> None:
        for reader in readers_of(call.operation):
            if reader.inputs > _MOST_INPUTS:
                continue
            patches = patches_of(call, reader, tensors)
            if not np.isfinite(patches).all():
                raise ValueError(
                    "`inputs` must lead to finite activations. Received: NaN or infinity before "
                    f"layer {path!r}"
                )
            sums[path, reader.index] = sums[path, reader.index] + second_moment(patches, patches)
            rows[path, reader.index] += len(patches)

    watch_calls(analysis, inputs, see)
    return PartCalibration(inputs, {key: sums[key] / max(1, rows[key]) for key in sums})


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
