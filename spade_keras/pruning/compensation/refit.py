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
    PartCalibration,
    Seen,
    argument_of,
    calls_of,
    second_moment,
    watch_calls,
)
from spade_keras.pruning.compensation.readers import Reader, readers_of, row_chooser
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.partition import partition
from spade_keras.pruning.graph.trace import Call
from spade_keras.pruning.groups import Group

RIDGE = 1e-6
"""Relative to the diagonal of G."""

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ReaderError:
    """Relative output error of a reader, before and after it is refitted.

    Args:
        layer: Path of the layer.
        cut: `||X W - X_K W_K||^2 / ||X W||^2` of the kernel that is only cut.
        refitted: The same after the closed form.
        rows: Rows of X; fewer than the reader's inputs leave the fit to the ridge.
        inputs: Inputs of the reader that were kept.
    """

    layer: str
    cut: float
    refitted: float
    rows: int
    inputs: int


def refit_in_closed_form(
    model: keras.Model, kept: Kept, calibration: PartCalibration, *, ridge: float = RIDGE
) -> tuple[dict[int, np.ndarray], list[ReaderError]]:
    """Corrects the kernels of a model for the removal of channels.

    Args:
        model: The original model.
        kept: Kept channels by group; groups that are not named keep all.
        calibration: Its statistics.
        ridge: See `RIDGE`.

    Returns:
        Values of the original's size by the id of the variable, the rows of removed channels being
        meaningless; and the error of every corrected reader.
    """
    analysis = analyze(model)
    values: dict[int, np.ndarray] = {}
    errors = []
    for path, reader in _readers(analysis):
        found = calibration.statistics.get((path, reader.index))
        rows, _ = kept_parts(analysis, path, reader, kept)
        if found is None or rows.all():
            continue
        kernel = np.asarray(keras.ops.convert_to_numpy(reader.variable))
        weights = _with_bias(reader, reader.matrix(kernel))
        fitted = np.array(weights)
        lost = cut = total = 0.0
        for block, gram in enumerate(found.gram):
            keep = _rows_kept(rows, weights, reader)
            w, g = weights[block], gram
            fitted[block][keep] += _solve(
                g[np.ix_(keep, keep)], g[keep][:, ~keep] @ w[~keep], ridge
            )
            fitted[block][~keep] = 0
            total += _energy(g, w)
            lost += _energy(g, w - fitted[block])
            cut += _energy(g, np.where(keep[:, None], 0, w))
        kernel_now, bias_now = _split(reader, fitted, kernel.shape)
        values[id(reader.variable)] = kernel_now.astype(kernel.dtype)
        if bias_now is not None:
            values[id(reader.bias)] = bias_now
        total = max(total, 1e-30)
        inputs = int(rows.sum()) * weights.shape[1] // len(rows)
        errors.append(ReaderError(path, cut / total, lost / total, found.rows, inputs))
    return values, errors


def refit_sequentially(
    model: keras.Model,
    slim: keras.Model,
    kept: Kept,
    calibration: PartCalibration,
    *,
    ridge: float = RIDGE,
) -> None:
    """Refits the readers of a slim model in place, in the order in which they run.

    Moving statistics of batch normalizations are shifted as their inputs shifted.

    Args:
        model: The original model.
        slim: Its slim model, with layers of the same paths.
        kept: Kept channels by group of the original.
        calibration: Has the inputs of both.
        ridge: See `RIDGE`.
    """
    sides = (analyze(model), analyze(slim))
    inputs, batch_size = calibration.inputs, calibration.batch_size
    choose = row_chooser(calibration.rows, calibration.seed)
    layers = {
        sides[1].paths[id(call.operation)]: call.operation for call in calls_of(sides[1].graph)
    }
    seen: set[str] = set()
    for call in calls_of(sides[0].graph):
        path = sides[0].paths[id(call.operation)]
        layer = layers.get(path)
        if path in seen or type(layer) is not type(call.operation):
            continue
        seen.add(path)
        if isinstance(layer, keras.layers.BatchNormalization):
            alive = _kept_statistics(sides[0], path, call.operation, kept)
            _shift_statistics(sides, path, call.operation, layer, alive, inputs, batch_size)
        for original, reader in zip(readers_of(call.operation), readers_of(layer), strict=True):
            if (path, original.index) not in calibration.statistics:
                continue
            outputs = kept_parts(sides[0], path, original, kept)[1]
            moments = _Moments(sides, path, reader.index, outputs)
            for batch in batches(inputs, batch_size):
                moments.add(batch, choose)
            if moments.rows:
                _refit(reader, original, moments, outputs, ridge)


def kept_parts(
    analysis: Analysis, path: str, reader: Reader, kept: Kept
) -> tuple[np.ndarray, np.ndarray]:
    """Flags of the rows `(channels,)` and outputs `(blocks, outputs)` of a matrix that stay."""
    alive = np.ones(reader.variable.shape, bool)
    rows = np.ones(reader.variable.shape[reader.axis], bool)
    for group in partition(analysis).groups:
        removed = _removed(group, kept)
        for slot in group.slots if len(removed) else ():
            if slot.layer != path or slot.weight_index != reader.index:
                continue
            gone = slot.positions[removed].ravel()
            if slot.axis == reader.axis:
                rows[gone] = False
            else:
                np.moveaxis(alive, slot.axis, 0)[gone] = False
    return rows, reader.matrix(alive)[:, 0, 0, :] > 0


class _Moments:
    """Second moments of the inputs of a slim reader, with themselves and with its targets.

    If the output goes straight into a sum, the reader also makes up for the error of the other
    summand: `target = X W + (other of the full model - other of the slim one)`.
    """

    def __init__(
        self, sides: tuple[Analysis, Analysis], path: str, index: int, outputs: np.ndarray
    ) -> None:
        self._sides = sides
        self._path = path
        self._index = index
        self._outputs = outputs
        self._sums = tuple(_sum_after(analysis, path) for analysis in sides)
        self.own: Any = 0.0
        self.cross: Any = 0.0
        self.other: Any = 0.0
        self.rows = 0

    def add(self, batch: Any, choose: Any) -> None:
        """Looks at one batch in both models."""
        (full, other_full), (slim, other_slim) = (
            self._look(analysis, summed, batch, choose)
            for analysis, summed in zip(self._sides, self._sums, strict=True)
        )
        for x, narrow in zip(full, slim, strict=True):
            self.own = self.own + second_moment(narrow, narrow)
            self.cross = self.cross + second_moment(narrow, x)
            self.rows += len(x)
        if other_full is not None and other_slim is not None and len(self._outputs) == 1:
            [narrow] = slim
            missing = other_full[:, self._outputs[0]] - other_slim
            flat = narrow.reshape(len(narrow), -1)
            ones = np.ones((len(flat), 1))
            self.other = self.other + np.concatenate([flat, ones], axis=1).T @ missing

    def _look(
        self, analysis: Analysis, summed: tuple[str, Any] | None, batch: Any, choose: Any
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        patches: list[np.ndarray] = []
        other: list[np.ndarray] = []
        calls = sum(
            analysis.paths[id(call.operation)] == self._path for call in calls_of(analysis.graph)
        )

        def see(path: str, call: Call, tensors: Mapping[int, Any]) -> None:
            if path == self._path:
                [reader] = [r for r in readers_of(call.operation) if r.index == self._index]
                patches.append(reader.patches(argument_of(call, reader, tensors), choose))
                if summed is None and len(patches) == calls:
                    raise Seen
            if summed is not None and path == summed[0] and patches:
                value = np.asarray(keras.ops.convert_to_numpy(tensors[id(summed[1])]), np.float64)
                flat = value.reshape(-1, value.shape[-1])
                other.append(flat[choose(len(flat))])
                raise Seen

        watch_calls(analysis, batch, see)
        return patches, other[0] if other else None


def _sum_after(analysis: Analysis, path: str) -> tuple[str, Any] | None:
    """The sum that a layer's output goes straight into, and the other summand; None if none.

    Only of convolutions and dense layers without activation, called once, channels last: then the
    rows of the layer's output are those of the sum.
    """
    calls = list(calls_of(analysis.graph))
    own = [call for call in calls if analysis.paths[id(call.operation)] == path]
    layer = own[0].operation
    plain = getattr(layer, "activation", None) in (None, keras.activations.linear)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    gathers = isinstance(layer, keras.layers.Dense) or hasattr(layer, "groups")
    if len(own) != 1 or not (plain and last and gathers):
        return None
    output = own[0].outputs[0]
    users = [call for call in calls if any(x is output for x in call.inputs)]
    if len(users) != 1 or type(users[0].operation).__name__ != "Add" or len(users[0].inputs) != 2:
        return None
    others = [x for x in users[0].inputs if x is not output]
    if len(others) != 1 or others[0].shape != output.shape:
        return None
    return analysis.paths[id(users[0].operation)], others[0]


def _refit(
    reader: Reader, original: Reader, moments: _Moments, outputs: np.ndarray, ridge: float
) -> None:
    kernel = np.asarray(keras.ops.convert_to_numpy(reader.variable))
    start = _with_bias(reader, reader.matrix(kernel))
    full_kernel = np.asarray(keras.ops.convert_to_numpy(original.variable))
    wanted = _with_bias(original, original.matrix(full_kernel))
    fitted = np.array(start)
    for block in range(len(start)):
        target = moments.cross[block] @ wanted[block][:, outputs[block]] + moments.other
        keep = _rows_kept(np.ones(reader.variable.shape[reader.axis], bool), start, reader)
        own = moments.own[block]
        missing = (target - own @ start[block]) / moments.rows
        fitted[block][keep] += _solve(own[np.ix_(keep, keep)] / moments.rows, missing[keep], ridge)
    kernel_now, bias_now = _split(reader, fitted, kernel.shape)
    reader.variable.assign(kernel_now.astype(kernel.dtype))
    if bias_now is not None:
        reader.bias.assign(bias_now)


def _kept_statistics(analysis: Analysis, path: str, layer: Any, kept: Kept) -> np.ndarray:
    """Flags of the channels of a batch normalization that stay."""
    alive = np.ones(layer.moving_mean.shape, bool)
    for group in partition(analysis).groups:
        for slot in group.slots:
            if slot.layer == path and slot.weight == "moving_mean":
                alive[slot.positions[_removed(group, kept)].ravel()] = False
    return alive


def _shift_statistics(
    sides: tuple[Analysis, Analysis],
    path: str,
    original: Any,
    layer: Any,
    alive: np.ndarray,
    inputs: Any,
    batch_size: int,
) -> None:
    """Shifts a batch normalization's statistics as those of its inputs shifted."""
    before, after = (_input_moments(analysis, path, inputs, batch_size) for analysis in sides)
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(v))[alive]
        for v in (original.moving_mean, original.moving_variance)
    )
    layer.moving_mean.assign(mean + after[0] - before[0][alive])
    ratio = (after[1] + 1e-12) / (before[1][alive] + 1e-12)
    layer.moving_variance.assign(variance * ratio)


def _input_moments(
    analysis: Analysis, path: str, inputs: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    sums: list[Any] = [0.0, 0.0, 0]

    def see(at: str, call: Call, tensors: Mapping[int, Any]) -> None:
        if at != path:
            return
        layer = call.operation
        tensor = np.asarray(keras.ops.convert_to_numpy(tensors[id(call.inputs[0])]), np.float64)
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        flat = np.moveaxis(tensor, axis, -1).reshape(-1, tensor.shape[axis])
        sums[0] = sums[0] + flat.sum(axis=0)
        sums[1] = sums[1] + np.square(flat).sum(axis=0)
        sums[2] += len(flat)

    for batch in batches(inputs, batch_size):
        watch_calls(analysis, batch, see)
    mean = sums[0] / sums[2]
    return mean, np.maximum(sums[1] / sums[2] - np.square(mean), 0)


def _readers(analysis: Analysis) -> list[tuple[str, Reader]]:
    found = {}
    for call in calls_of(analysis.graph):
        path = analysis.paths[id(call.operation)]
        for reader in readers_of(call.operation):
            found[path, reader.index] = (path, reader)
    return list(found.values())


def _removed(group: Group, kept: Kept) -> np.ndarray:
    return np.setdiff1d(np.arange(group.width), kept.get(group.name, range(group.width)))


def _with_bias(reader: Reader, matrix: np.ndarray) -> np.ndarray:
    """`(blocks, channels x taps + 1, outputs)`, the last row being the bias, or zeros."""
    blocks, channels, taps, outputs = matrix.shape
    bias = np.zeros((blocks, 1, outputs))
    if reader.bias is not None:
        value = np.asarray(keras.ops.convert_to_numpy(reader.bias), np.float64)
        bias = value.reshape(blocks, 1, outputs)
    return np.concatenate([matrix.reshape(blocks, channels * taps, outputs), bias], axis=1)


def _split(
    reader: Reader, fitted: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The kernel and the bias of a matrix that `_with_bias` made."""
    blocks, rows, outputs = fitted.shape
    channels = shape[reader.axis]
    matrix = fitted[:, :-1].reshape(blocks, channels, (rows - 1) // channels, outputs)
    bias = None
    if reader.bias is not None:
        bias = fitted[:, -1].reshape(reader.bias.shape).astype("float32")
    return reader.kernel(matrix, shape), bias


def _rows_kept(channels: np.ndarray, weights: np.ndarray, reader: Reader) -> np.ndarray:
    """Flags of the rows of a matrix with bias; a bias that does not exist is not fitted."""
    taps = (weights.shape[1] - 1) // len(channels)
    return np.append(np.repeat(channels, taps), reader.bias is not None)


def _solve(gram: np.ndarray, missing: np.ndarray, ridge: float) -> np.ndarray:
    """(G + eps D)^-1 B, D being the diagonal of G: a channel's scale does not matter.

    Inputs that are always zero cannot be fitted and keep their weights.
    """
    from scipy.linalg import solve

    scale = np.sqrt(np.diagonal(gram))
    seen = scale > 0
    found = np.zeros_like(missing)
    if seen.any():
        unit = 1 / scale[seen]
        scaled = unit[:, None] * gram[np.ix_(seen, seen)] * unit
        scaled[np.diag_indices_from(scaled)] += ridge
        solved = solve(scaled, unit[:, None] * missing[seen], assume_a="pos")
        found[seen] = unit[:, None] * solved
    return found


def _energy(gram: np.ndarray, weights: np.ndarray) -> float:
    return float(np.einsum("nm,nk,km->", weights, gram, weights, optimize=True))
