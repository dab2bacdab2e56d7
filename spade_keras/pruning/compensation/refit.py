"""Refitting the layers that read removed channels, in closed form and layer by layer.

With X the inputs of a reader, G = X^T X / N, K the kept and R the removed rows of its matrix W:

    closed form   W'_K = W_K + (G_KK + eps D)^-1 G_KR W_R
    sequential    W'   = argmin ||X' W' - X W||^2 + N eps ||W' - W_0||^2

where X' is computed by the slim model, so that a fit also corrects the errors of all layers before
it. The bias is one more row, of ones. The ridge pulls towards the current weights W_0, not towards
zero, so that nothing changes where nothing was lost.

Reference:
    He et al., "Channel pruning for accelerating very deep neural networks", 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.backend.batches import batches
from spade_keras.pruning.compensation.calibration import (
    BATCH_SIZE,
    PartCalibration,
    Seen,
    choose_rows,
    patches_of,
    second_moment,
    watch_calls,
)
from spade_keras.pruning.compensation.readers import Reader, readers_of
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.labels import along_axis
from spade_keras.pruning.graph.partition import Narrowing
from spade_keras.pruning.graph.trace import Call
from spade_keras.pruning.proof import calls_of, to_numpy
from spade_keras.pruning.rules.rule import axes_of

_RIDGE = 1e-6  # relative to the diagonal of G
Kept = Mapping[str, Sequence[int]]
"""Kept channels by group of the original; groups that are not named keep all."""


def refit_in_closed_form(
    model: keras.Model, kept: Kept, calibration: PartCalibration
) -> dict[int, np.ndarray]:
    """Corrects the kernels of a model for the removal of channels.

    Returns:
        Values of the original's size by the id of the variable; the rows of removed channels are
        zero.
    """
    analysis = analyze(model)
    narrowing = Narrowing(analysis, kept, to_numpy)
    values: dict[int, np.ndarray] = {}
    for call in calls_of(analysis.graph):
        for reader in readers_of(call.operation):
            found = calibration.grams.get((analysis.paths[id(call.operation)], reader.index))
            rows, _ = _kept_parts(narrowing, reader)
            if found is None or rows.all() or id(reader.variable) in values:
                continue
            weights = reader.weights()
            keep = _flags(reader, rows)
            start = np.where(keep[:, None], weights, 0)
            fitted = _fit(start, keep, found, found @ (weights - start))
            values |= {id(v): x for v, x in _split(reader, fitted)}
    return values


def refit_sequentially(
    model: keras.Model, slim: keras.Model, kept: Kept, calibration: PartCalibration
) -> None:
    """Refits the readers of a slim model in place, in the order in which they run.

    Moving statistics of batch normalizations are shifted as their inputs shifted.
    """
    full, small = analyze(model), analyze(slim)
    narrowing = Narrowing(full, kept, to_numpy)
    refit = _SequentialRefit(full, small, narrowing, calibration.inputs)
    layers = {small.paths[id(x.operation)]: x.operation for x in calls_of(small.graph)}
    seen: set[str] = set()
    for call in calls_of(full.graph):
        path = full.paths[id(call.operation)]
        layer = layers.get(path)
        if path in seen or type(layer) is not type(call.operation):
            continue
        seen.add(path)
        if isinstance(layer, keras.layers.BatchNormalization):
            refit.shift_statistics(path, call.operation, layer)
        for original, reader in zip(readers_of(call.operation), readers_of(layer), strict=True):
            if (path, original.index) in calibration.grams:
                refit.fit(path, original, reader)


def _kept_parts(narrowing: Narrowing, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """Flags of the rows `(channels,)` and outputs `(blocks, outputs)` of a matrix that stay."""
    alive = np.ones(reader.variable.shape, bool)
    rows = np.ones(reader.variable.shape[reader.axis], bool)
    for record, flags in narrowing.slots.get(id(reader.variable), ()):
        if record.axis == reader.axis:
            rows = flags
        else:
            np.moveaxis(alive, record.axis, 0)[~flags] = False
    return rows, reader.matrix(alive)[:, 0, 0, :] > 0


@dataclass(frozen=True)
class _SequentialRefit:
    """The models of a sequential refit, and the inputs of both."""

    full: Analysis
    slim: Analysis
    narrowing: Narrowing
    inputs: Any

    def fit(self, path: str, original: Reader, reader: Reader) -> None:
        """Refits one reader of the slim model.

        If its output goes straight into a sum, it also makes up for the error of the other summand:
        `target = X W + (other of the full model - other of the slim one)`.
        """
        outputs = _kept_parts(self.narrowing, original)[1]
        sums = [_sum_after(self.full, path), _sum_after(self.slim, path)]
        own = cross = other = np.zeros(())
        rows = 0
        for batch in batches(self.inputs, BATCH_SIZE):
            full, beside = _look(self.full, path, reader.index, sums[0], batch)
            slim, slim_beside = _look(self.slim, path, reader.index, sums[1], batch)
            for x, narrow in zip(full, slim, strict=True):
                own = own + second_moment(narrow, narrow)
                cross = cross + second_moment(narrow, x)
                rows += len(x)
            if beside is not None and slim_beside is not None and len(outputs) == 1:
                missing = beside[:, outputs[0]] - slim_beside
                other = other + second_moment(slim[0], missing[:, None, :, None])[..., :-1]
        if not rows:
            return
        start, weights = reader.weights(), original.weights()
        wanted = np.stack([block[:, kept] for block, kept in zip(weights, outputs, strict=True)])
        keep = _flags(reader, np.ones(reader.variable.shape[reader.axis], bool))
        missing = (cross @ wanted + other - own @ start) / rows
        for variable, value in _split(reader, _fit(start, keep, own / rows, missing)):
            variable.assign(value)

    def shift_statistics(self, path: str, original: Any, layer: Any) -> None:
        """Shifts a batch normalization's statistics as those of its inputs shifted."""
        before, after = (_input_moments(x, path, self.inputs) for x in (self.full, self.slim))
        alive = np.ones(original.moving_mean.shape, bool)
        for _, flags in self.narrowing.slots.get(id(original.moving_mean), ()):
            alive = flags
        mean, variance = map(self.narrowing.value, (original.moving_mean, original.moving_variance))
        layer.moving_mean.assign(mean + after[0] - before[0][alive])
        layer.moving_variance.assign(variance * (after[1] + 1e-12) / (before[1][alive] + 1e-12))


def _look(
    analysis: Analysis, path: str, index: int, summed: Any, batch: Any
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The inputs of a reader in every call of its layer, and the other summand of its output."""
    patches: list[np.ndarray] = []
    other: list[np.ndarray] = []
    calls = len(_calls_at(analysis, path))

    def see(at: str, call: Call, tensors: Mapping[int, Any]) -> None:
        if at == path:
            [reader] = [r for r in readers_of(call.operation) if r.index == index]
            patches.append(patches_of(call, reader, tensors))
            if summed is None and len(patches) == calls:
                raise Seen
        if summed is not None and at == summed[0] and patches:
            value = to_numpy(tensors[id(summed[1])]).astype(np.float64)
            flat = value.reshape(-1, value.shape[-1])
            other.append(flat[choose_rows(len(flat))])
            raise Seen

    watch_calls(analysis, batch, see)
    return patches, other[0] if other else None


def _calls_at(analysis: Analysis, path: str) -> list[Call]:
    return [call for call in calls_of(analysis.graph) if analysis.paths[id(call.operation)] == path]


def _sum_after(analysis: Analysis, path: str) -> tuple[str, Any] | None:
    """The sum that a layer's output goes straight into, and the other summand; None if none.

    Only of convolutions and dense layers without activation, called once, channels last: then the
    rows of the layer's output are those of the sum.
    """
    own = _calls_at(analysis, path)
    layer = own[0].operation
    plain = getattr(layer, "activation", None) in (None, keras.activations.linear)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    gathers = isinstance(layer, keras.layers.Dense) or hasattr(layer, "groups")
    if len(own) != 1 or not (plain and last and gathers):
        return None
    output = own[0].outputs[0]
    users = [x for x in calls_of(analysis.graph) if any(y is output for y in x.inputs)]
    if len(users) != 1 or type(users[0].operation).__name__ != "Add" or len(users[0].inputs) != 2:
        return None
    others = [x for x in users[0].inputs if x is not output]
    if len(others) != 1 or others[0].shape != output.shape:
        return None
    return analysis.paths[id(users[0].operation)], others[0]


def _input_moments(analysis: Analysis, path: str, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    sums: Any = 0.0
    rows = 0

    def see(at: str, call: Call, tensors: Mapping[int, Any]) -> None:
        nonlocal sums, rows
        if at == path:
            axis = axes_of(call.operation, len(call.inputs[0].shape))[0]
            flat = along_axis(to_numpy(tensors[id(call.inputs[0])]).astype(np.float64), axis)
            sums = sums + np.stack([flat.sum(axis=0), np.square(flat).sum(axis=0)])
            rows += len(flat)

    watch_calls(analysis, inputs, see)
    mean, squares = sums / rows
    return mean, np.maximum(squares - np.square(mean), 0)


def _split(reader: Reader, fitted: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """The kernel and the bias, if any, of a matrix as `Reader.weights` makes it."""
    blocks, rows, outputs = fitted.shape
    shape = reader.variable.shape
    channels = shape[reader.axis]
    matrix = fitted[:, :-1].reshape(blocks, channels, (rows - 1) // channels, outputs)
    kernel = reader.kernel(matrix, shape).astype(to_numpy(reader.variable).dtype)
    if reader.bias is None:
        return [(reader.variable, kernel)]
    bias = fitted[:, -1].reshape(reader.bias.shape).astype("float32")
    return [(reader.variable, kernel), (reader.bias, bias)]


def _flags(reader: Reader, channels: np.ndarray) -> np.ndarray:
    """Flags of the rows of a matrix with bias; a bias that does not exist is not fitted."""
    return np.append(np.repeat(channels, reader.inputs // len(channels)), reader.bias is not None)


def _fit(start: np.ndarray, keep: np.ndarray, gram: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """`start + (G + eps D)^-1 missing` in the kept rows of every block."""
    fitted = np.array(start)
    for block, inside, lacking in zip(fitted, gram, missing, strict=True):
        block[keep] += _solve(inside[np.ix_(keep, keep)], lacking[keep])
    return fitted


def _solve(gram: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """(G + eps D)^-1 B, D being the diagonal of G: a channel's scale does not matter.

    Inputs that are always zero cannot be fitted and keep their weights.
    """
    from scipy.linalg import solve

    scale = np.sqrt(np.diagonal(gram))[:, None]
    unit = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = unit * gram * unit.T + _RIDGE * np.eye(len(gram))
    return unit * solve(scaled, unit * missing, assume_a="pos")
