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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.backend.batches import batches
from spade_keras.pruning.compensation.calibration import (
    BATCH_SIZE,
    PartCalibration,
    choose_rows,
    design,
)
from spade_keras.pruning.compensation.passes import Pass, Step, steps_of
from spade_keras.pruning.compensation.readers import Reader, readers_of
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.labels import along_axis
from spade_keras.pruning.graph.partition import Narrowing, Read, read_from
from spade_keras.pruning.plan import ReaderError
from spade_keras.pruning.proof import calls_of, to_numpy
from spade_keras.pruning.rules.rule import axes_of

_RIDGE = 1e-6  # relative to the diagonal of G
_MOST_BYTES = 2**30  # of tensors held between layers
Kept = Mapping[str, Sequence[int]]
"""Kept channels by group of the original; groups that are not named keep all."""


def refit_in_closed_form(
    model: keras.Model, kept: Kept, calibration: PartCalibration
) -> tuple[dict[int, np.ndarray], list[ReaderError]]:
    """Corrects the kernels of a model for the removal of channels.

    Returns:
        Values of the original's size by the id of the variable, the rows of removed channels being
        zero; and the relative errors of the corrected readers.
    """
    analysis = analyze(model)
    narrowing = Narrowing(analysis, kept, to_numpy)
    values: dict[int, np.ndarray] = {}
    errors: list[ReaderError] = []
    for call in calls_of(analysis.graph):
        for reader in readers_of(call.operation):
            key = analysis.paths[id(call.operation)], reader.index
            gram = calibration.grams.get(key)
            rows, outputs = _kept_parts(narrowing, reader)
            if gram is None or rows.all() or id(reader.variable) in values:
                continue
            weights = reader.weights()
            if gram.shape[-1] != weights.shape[1]:
                continue  # measured before an earlier step of the plan narrowed the layer
            keep = _flags(reader, rows)
            start = np.where(keep[:, None], weights, 0)
            fitted = _fit(start, keep, gram, gram @ (weights - start))
            values |= {id(v): x for v, x in _split(reader, fitted, read_from(values))}
            whole, cut, left = (
                np.einsum("bnm,bnm->bm", x, gram @ x)[outputs].sum()
                for x in (weights, weights - start, weights - fitted)
            )
            before, after = np.sqrt(np.maximum([cut, left], 0) / max(whole, 1e-30))
            name = f"{key[0]}/{reader.variable.name}"
            sizes = calibration.rows[key], reader.inputs
            errors.append(ReaderError(name, float(before), float(after), *sizes))
    return values, errors


def refit_sequentially(
    model: keras.Model, slim: keras.Model, kept: Kept, calibration: PartCalibration
) -> None:
    """Refits the readers of a slim model in place, in the order in which they run.

    Both models run once, from layer to layer, on all samples; a layer that is called several times
    makes the calls between run again. What later layers read is held, up to 1 GiB in all; batches
    beyond it run from the start for every layer. Moving statistics of batch normalizations are
    shifted as their inputs shifted.
    """
    original = analyze(model)
    runs = _Runs((original, analyze(slim)), calibration.inputs)
    refit = _SequentialRefit(runs, Narrowing(original, kept, to_numpy))
    layers = {step.path: step.call.operation for step in runs.steps[1]}
    seen: set[str] = set()
    for step in runs.steps[0]:
        path, full_layer, layer = step.path, step.call.operation, layers.get(step.path)
        if path in seen or type(layer) is not type(full_layer):
            continue
        seen.add(path)
        if isinstance(layer, keras.layers.BatchNormalization):
            refit.shift_statistics(path, full_layer, layer)
        readers = {reader.index: reader for reader in readers_of(layer)}
        for reader in readers_of(full_layer):
            if (path, reader.index) in calibration.grams and reader.index in readers:
                refit.fit(path, reader, readers[reader.index])


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


class _Runs:
    """The full and the slim model side by side, batch by batch, at the layer that is refitted."""

    def __init__(self, models: tuple[Analysis, Analysis], inputs: Any) -> None:
        self.models = models
        self.steps = [steps_of(model) for model in models]
        self._batches = list(batches(inputs, BATCH_SIZE))
        self._held: dict[tuple[int, int], Pass] = {}

    def calls(self, side: int, path: str) -> list[Step]:
        """The calls of a layer of one model."""
        return [step for step in self.steps[side] if step.path == path]

    def at(self, path: str, others: Sequence[int | None] = (None, None)) -> Iterator[list[Pass]]:
        """Runs of both models, per batch, that hold all inputs of a layer and the other tensor."""
        for number, batch in enumerate(self._batches):
            found = []
            for side, other in enumerate(others):
                wanted = [x for step in self.calls(side, path) for x in step.inputs]
                run = self._before(side, number, batch, path)
                found.append(run.ahead(wanted if other is None else [*wanted, other]))
            yield found

    def _before(self, side: int, number: int, batch: Any, path: str) -> Pass:
        """The run of one model on one batch, before the first call of a layer."""
        steps = self.steps[side]
        position = next(i for i, step in enumerate(steps) if step.path == path)
        run = self._held.pop((side, number), None)
        if run is None or run.position > position:
            run = Pass(self.models[side], steps, batch)
        run.advance(position)
        if run.bytes + sum(x.bytes for x in self._held.values()) <= _MOST_BYTES:
            self._held[side, number] = run
        return run


@dataclass(frozen=True)
class _SequentialRefit:
    """What refits a slim model: the runs of both models, and the channels that stay."""

    runs: _Runs
    narrowing: Narrowing

    def fit(self, path: str, original: Reader, reader: Reader) -> None:
        """Refits one reader of the slim model.

        If its output goes straight into a sum, it also makes up for the error of the other summand:
        `target = X W + (other of the full model - other of the slim one)`.
        """
        outputs = _kept_parts(self.narrowing, original)[1]
        start, weights = reader.weights(), original.weights()
        wanted = np.stack([block[:, kept] for block, kept in zip(weights, outputs, strict=True)])
        sums = [_other_summand(self.runs, side, path) for side in (0, 1)]
        own = missing = np.zeros(())
        rows = 0
        for full, slim in self.runs.at(path, sums):
            for a, b in zip(self.runs.calls(0, path), self.runs.calls(1, path), strict=True):
                x = design(slim.patches(b, reader, choose_rows))
                error = design(full.patches(a, original, choose_rows)) @ wanted - x @ start
                if None not in sums and len(outputs) == 1:
                    beside, slim_beside = _rows_of(full, sums[0]), _rows_of(slim, sums[1])
                    error += beside[:, outputs[0]] - slim_beside
                own = own + x.swapaxes(1, 2) @ x
                missing = missing + x.swapaxes(1, 2) @ error
                rows += x.shape[1]
        if not np.isfinite(own).all() or not np.isfinite(missing).all():
            raise ValueError(
                "`calibration` must lead to finite activations of both models. Received: NaN or "
                f"infinity at layer {path!r} of the slim one. Remove fewer channels before it."
            )
        keep = _flags(reader, np.ones(reader.variable.shape[reader.axis], bool))
        fitted = _fit(start, keep, own / max(rows, 1), missing / max(rows, 1))
        for variable, value in _split(reader, fitted, to_numpy):
            variable.assign(value)

    def shift_statistics(self, path: str, original: Any, layer: Any) -> None:
        """Shifts a batch normalization's statistics as those of its inputs shifted."""
        before, after = _input_moments(self.runs, path)
        alive = np.ones(original.moving_mean.shape, bool)
        for _, flags in self.narrowing.slots.get(id(original.moving_mean), ()):
            alive = flags
        mean, variance = map(self.narrowing.value, (original.moving_mean, original.moving_variance))
        layer.moving_mean.assign(mean + after[0] - before[0][alive])
        layer.moving_variance.assign(variance * (after[1] + 1e-12) / (before[1][alive] + 1e-12))


def _rows_of(run: Pass, number: int | None) -> np.ndarray:
    """The chosen rows of a tensor, by its number."""
    value = run.array(number or 0).astype(np.float64)
    flat = value.reshape(-1, value.shape[-1])
    return flat[choose_rows(len(flat))]


def _other_summand(runs: _Runs, side: int, path: str) -> int | None:
    """The other tensor of the sum that a layer's output goes straight into; None if none.

    Only of convolutions and dense layers without activation, called once, channels last: then the
    rows of the layer's output are those of the sum.
    """
    own = runs.calls(side, path)
    layer = own[0].call.operation
    plain = getattr(layer, "activation", None) in (None, keras.activations.linear)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    gathers = isinstance(layer, keras.layers.Dense) or hasattr(layer, "groups")
    if len(own) != 1 or not (plain and last and gathers):
        return None
    (output,) = own[0].outputs
    users = [step for step in runs.steps[side] if output in step.inputs]
    if len(users) != 1 or type(users[0].call.operation).__name__ != "Add":
        return None
    others = [x for x in users[0].inputs if x != output]
    shapes = {x.shape for x in users[0].call.inputs}
    return others[0] if len(users[0].inputs) == 2 and others and len(shapes) == 1 else None


def _input_moments(runs: _Runs, path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of what a layer reads, of both models."""
    sums: list[Any] = [0.0, 0.0]
    rows = 0
    for pair in runs.at(path):
        for side, run in enumerate(pair):
            for step in runs.calls(side, path):
                axis = axes_of(step.call.operation, len(step.call.inputs[0].shape))[0]
                flat = along_axis(run.array(step.inputs[0]).astype(np.float64), axis)
                sums[side] = sums[side] + np.stack([flat.sum(axis=0), np.square(flat).sum(axis=0)])
                rows += len(flat) * (1 - side)
    means = [x / rows for x in sums]
    return [(mean, np.maximum(squares - np.square(mean), 0)) for mean, squares in means]


def _split(reader: Reader, fitted: np.ndarray, read: Read) -> list[tuple[Any, np.ndarray]]:
    """The kernel and the bias, if any, of a matrix as `Reader.weights` makes it.

    Another reader may own other rows of the bias: those are read.
    """
    blocks, rows, outputs = fitted.shape
    shape = reader.variable.shape
    channels = shape[reader.axis]
    matrix = fitted[:, :-1].reshape(blocks, channels, (rows - 1) // channels, outputs)
    kernel = reader.kernel(matrix, shape).astype(to_numpy(reader.variable).dtype)
    if reader.bias is None:
        return [(reader.variable, kernel)]
    bias = np.array(read(reader.bias), np.float32)
    bias.reshape(-1, blocks * outputs)[reader.bias_row] = fitted[:, -1].ravel()
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

    The ridge makes any G invertible, also of fewer rows than inputs or of inputs that depend on
    each other. Inputs that are always zero cannot be fitted and keep their weights.
    """
    from scipy.linalg import cho_factor, cho_solve

    scale = np.sqrt(np.diagonal(gram))[:, None]
    unit = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = unit * gram * unit.T + _RIDGE * np.eye(len(gram))
    return unit * cho_solve(cho_factor(scaled), unit * missing)
