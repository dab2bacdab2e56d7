"""Second moments of the inputs of a model's kernels: the statistics that compensation needs."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterator, Mapping
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
    """Ends a run as soon as the wanted tensor was seen."""


@dataclass
class Statistics:
    """Second moments of the inputs of one reader, a kernel that contracts channels.

    `gram` is `[X 1]^T [X 1] / rows` of every block, float64, `(blocks, n + 1, n + 1)` with
    n = channels x taps.
    """

    gram: np.ndarray
    rows: int = 0

    def add(self, patches: np.ndarray) -> None:
        """Adds rows `(rows, blocks, channels, taps)`."""
        total = self.gram * self.rows + second_moment(patches, patches)
        self.rows += len(patches)
        self.gram = total / max(1, self.rows)


@dataclass(frozen=True)
class PartCalibration:
    """The inputs of a model, or of one prior of a network, and the statistics measured on them.

    Statistics are found by the path of a layer and the kernel's position in its weights; the other
    fields are the settings of `calibrate`.
    """

    inputs: Any
    statistics: Mapping[tuple[str, int], Statistics]
    batch_size: int
    rows: int
    seed: int


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` measured, by the key of a prior; "" for a model."""

    parts: Mapping[str, PartCalibration]

    def statistics(self, path: str, weight_index: int = 0) -> Statistics | None:
        """Returns the statistics of a layer's kernel by the path that groups use, if any."""
        for key, part in self.parts.items():
            prefix = prefix_of(key)
            found = part.statistics.get((path[len(prefix) :], weight_index))
            if path.startswith(prefix) and found is not None:
                return found
        return None


def calibrate(
    model: Any,
    inputs: Any,
    *,
    batch_size: int = 8,
    rows: int = 4096,
    samples: int = 128,
    most_inputs: int = 4608,
    seed: int = 0,
) -> Calibration:
    """Measures the inputs of a model's kernels; needs neither labels nor targets.

    The priors of a network are measured on the images that the network passes to them, over all
    iterations. A kernel of n inputs (channels x window) needs n x n numbers of 8 bytes.

    Args:
        model: A built Keras model, or a network with `priors`.
        inputs: Inputs of the model, a few dozen images or some hundred samples.
        batch_size: Samples per forward pass.
        rows: Most rows (samples x positions) that a layer contributes per batch, drawn at random.
        samples: Most samples of a model, or of all calls of a prior, drawn at random.
        most_inputs: Kernels of more inputs are left out: they stay as they are cut.
        seed: Seed of both draws.

    Returns:
        The statistics, for `make_plan(..., importance="obs")` and `rebuild(..., calibration=)`.

    Example:
        >>> import keras, numpy as np
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(6, name="a"), dense(2, name="b")])
        >>> calibrate(model, np.ones((8, 4), "float32")).statistics("b").gram.shape
        (1, 7, 7)
    """
    if not count_samples(inputs):
        raise ValueError("`inputs` must hold at least one sample. Received: inputs of length 0")
    if is_network(model):
        given = _trajectory(model, inputs, batch_size, samples, seed)
    else:
        choose = row_chooser(samples, seed)(count_samples(inputs))
        given = {"": keras.tree.map_structure(lambda array: np.asarray(array)[choose], inputs)}
    measured = {
        key: _measure(part, given[key], batch_size, rows, most_inputs, seed)
        for key, part in parts_of(model).items()
        if key in given
    }
    return Calibration(measured)


def watch_calls(
    analysis: Analysis, inputs: Any, see: Callable[[str, Call, Mapping[int, Any]], None]
) -> None:
    """Runs a model on one batch, eagerly, and shows every call before it is made.

    `see` gets the path of the operation, the call and the tensors so far, by the id of their
    symbols; it raises `Seen` to end the run.
    """

    def before(call: Call, tensors: Mapping[int, Any]) -> None:
        see(analysis.paths.get(id(call.operation), ""), call, tensors)

    with contextlib.suppress(Seen):
        graph = analysis.graph
        Replay(None, before=before).run(graph, to_tensors(graph, inputs), [])


def argument_of(call: Call, reader: Reader, tensors: Mapping[int, Any]) -> np.ndarray:
    """The input of a reader in a call."""
    return to_numpy(tensors[id(call.inputs[min(reader.argument, len(call.inputs) - 1)])])


def second_moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[A 1]^T [B 1]` of every block of two sets of patches, in float64."""
    left, right = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (a, b))
    left, right = (np.concatenate([x, np.ones((*x.shape[:2], 1))], -1) for x in (left, right))
    return left.transpose(1, 2, 0) @ right.transpose(1, 0, 2)


def _measure(
    model: keras.Model, inputs: Any, batch_size: int, rows: int, most_inputs: int, seed: int
) -> PartCalibration:
    analysis = analyze(model)
    statistics: dict[tuple[str, int], Statistics] = {}
    choose = row_chooser(rows, seed)

    def see(path: str, call: Call, tensors: Mapping[int, Any]) -> None:
        for reader in readers_of(call.operation):
            if reader.inputs > most_inputs:
                continue
            patches = reader.patches(argument_of(call, reader, tensors), choose)
            if not np.isfinite(patches).all():
                raise ValueError(
                    "`inputs` must lead to finite activations. Received: NaN or infinity before "
                    f"layer {path!r}"
                )
            key = (path, reader.index)
            if key not in statistics:
                size = patches.shape[2] * patches.shape[3] + 1
                statistics[key] = Statistics(np.zeros((reader.blocks, size, size)))
            statistics[key].add(patches)

    for batch in batches(inputs, batch_size):
        watch_calls(analysis, batch, see)
    return PartCalibration(inputs, statistics, batch_size, rows, seed)


def _trajectory(network: Any, inputs: Any, batch_size: int, most: int, seed: int) -> dict[str, Any]:
    """The inputs that a network passes to each prior, a random choice over all calls."""
    rng = np.random.default_rng(seed)
    # The samples with the smallest of random numbers are a uniform choice at any time.
    kept: dict[str, list[tuple[float, Any]]] = {key: [] for key in network.priors}

    def record(key: str, batch: Any) -> None:
        drawn = rng.random(count_samples(batch))
        samples = [(x, first_samples(batch, 1, i)) for i, x in enumerate(drawn)]
        kept[key] = heapq.nsmallest(most, [*kept[key], *samples], key=itemgetter(0))

    with contextlib.ExitStack() as stack:
        for key, prior in network.priors.items():
            stack.enter_context(_recording(prior, partial(record, key)))
        for batch in batches(inputs, batch_size):
            backend.synchronize(network(batch, training=False))
    return {
        key: keras.tree.map_structure(
            lambda *parts: np.concatenate(parts), *(x for _, x in samples)
        )
        for key, samples in kept.items()
        if samples
    }


@contextlib.contextmanager
def _recording(prior: keras.Model, record: Callable[[Any], None]) -> Iterator[None]:
    """Shows every input of a prior while the block runs."""
    call = prior.call

    def recorded(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        backend.show(inputs, record)
        return call(inputs, *args, **kwargs)

    prior.call = recorded
    try:
        yield
    finally:
        del prior.call
