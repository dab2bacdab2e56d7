"""Channel pruning without labels: removes the channels that the others can interpolate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.partition import read_from
from spade_keras.pruning.graph.trace import Call, channel_axis
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, Slot, find_groups
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.proof.reference import Replay
from spade_keras.pruning.rebuild import apply_step
from spade_keras.pruning.selection import is_wildcard, match_groups

_LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
)


@dataclass(frozen=True)
class Interpolation:
    """The result of interpolative pruning.

    Args:
        model: The slim model, whose next layers make up for the removed channels.
        plan: Its plan; `rebuild(original, plan)` is the same without the correction.
        errors: By narrowed group, `||Z - Z[:, I] T|| / ||Z||` on the data.
        refused: By group that could not be treated, the reason; it keeps its width.
    """

    model: Any
    plan: PruningPlan
    errors: dict[str, float]
    refused: dict[str, str]


@dataclass(frozen=True)
class _Reader:
    """The one layer that reads a group's channels."""

    slot: Slot
    layer: Any
    tensor: int


class _Calls:
    """The calls of a model, nested models opened.

    Args:
        analysis: The labels of the model.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.by_operation: dict[int, list[Call]] = {}
        self.mixed: set[int] = set()
        self._outside: dict[int, Any] = {}
        for _, call, nested in analysis.graph.open():
            self.by_operation.setdefault(id(call.operation), []).append(call)
            rule = analysis.rules[id(call.operation)]
            labels = [analysis.labels[id(x)] for x in call.inputs]
            if nested is not None:
                pairs = zip(nested.inputs, call.inputs, strict=False)
                self._outside |= {id(inside): outside for inside, outside in pairs}
            elif rule is not None and labels and rule.mixes(labels, call):
                self.mixed |= {x for tensor in call.inputs for x in self.labels(tensor)}

    def source(self, tensor: Any) -> int:
        """Id of a tensor; for the input of a nested model, of what is handed in."""
        while id(tensor) in self._outside:
            tensor = self._outside[id(tensor)]
        return id(tensor)

    def labels(self, tensor: Any) -> set[int]:
        """Labels of the channels of a tensor."""
        return {int(x) for x in np.unique(self.analysis.labels[id(tensor)]) if x}


def prune_interpolative(model: Any, inputs: Any, **settings: Any) -> Interpolation:
    """Removes channels by an interpolative decomposition of their values on some data.

        Z P = Q R,    I = the first pivots,    Z ~ Z[:, I] T,    W <- T W

    `Z` holds the inputs of the layer that reads a group of channels, one column per channel and
    one row per sample and position; `R` comes from a QR decomposition with column pivoting. The
    reader, a convolution or dense layer, is linear in the channels, so a corrected kernel
    restores everything that the kept channels can express, without labels or training. A group
    can be treated if one such layer reads it in one call and no layer before it mixes its
    channels; all activations are those of the original.

    The diagonal of `R` measures the contribution of each pivot, by which groups compete for a
    `target`.

    Args:
        model: A built Keras model; it stays as it is.
        inputs: Inputs of the model, in the structure it takes; a few hundred samples.
        **settings: Settings of `make_plan` except `importance`: `ratio`, `widths`, `target`, ...

    Returns:
        The slim model, its plan, errors, and the groups that could not be treated.

    Raises:
        ValueError: No group can be treated, or one that cannot be is asked for by name.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="a"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> x = np.random.default_rng(0).normal(size=(64, 3)) @ np.ones((3, 8))
        >>> made = prune_interpolative(model, x.astype("float32"), widths={"a": 1})
        >>> made.model.get_layer("a").units, round(made.errors["a"], 3)
        (1, 0.0)

    Reference:
        Chee et al., Model Preserving Compression for Neural Networks, arXiv 2108.00065.
    """
    if "importance" in settings:
        raise ValueError(
            "`importance` is what the decomposition finds itself. "
            f"Received: importance={settings['importance']!r}. Leave it out."
        )
    if is_network(model):
        raise ValueError(
            "`model` must be a Keras model, for the data of a network's priors are not its inputs. "
            "Received: a network with priors. Pass a prior and what goes into it."
        )
    analysis = analyze(model)
    readers, refused = _find_readers(model, analysis)
    _refuse_named(model, refused, settings)
    carried = _activations(analysis, readers, inputs)
    pivots = {name: _pivoted(matrix, name) for name, matrix in carried.items()}

    def order(group: Group, weights: WeightTable) -> np.ndarray:
        if group.name not in pivots:
            return np.zeros((0, group.width))
        triangle, columns = pivots[group.name]
        scores = np.zeros(group.width)
        added = np.abs(np.diagonal(triangle))
        scores[columns[: len(added)]] = added
        return scores[None]

    plan = make_plan(model, importance=order, **settings)
    kernels: dict[int, np.ndarray] = {}
    errors = {}
    for entry in plan.groups:
        if len(entry.kept) < entry.width and entry.name in pivots:
            kept, matrix = np.asarray(entry.kept), carried[entry.name]
            transfer = _transfer(*pivots[entry.name], kept)
            lost = np.linalg.norm(matrix - matrix[:, kept] @ transfer)
            errors[entry.name] = float(lost) / max(float(np.linalg.norm(matrix)), 1e-30)
            _correct(readers[entry.name], kept, transfer, kernels)
    slim = apply_step(model, plan.steps[0], read_from(kernels))
    return Interpolation(slim, plan, errors, refused)


def _find_readers(model: Any, analysis: Analysis) -> tuple[dict[str, _Reader], dict[str, str]]:
    """The reader of every free group that can be treated, and why others cannot be."""
    calls = _Calls(analysis)
    layers = {path: key for key, path in analysis.paths.items()}
    readers: dict[str, _Reader] = {}
    refused: dict[str, str] = {}
    for group in find_groups(model):
        if group.fixed is not None:
            continue
        slots = [slot for slot in group.slots if slot.role == "consumer"]
        uses = [call for slot in slots for call in calls.by_operation[layers[slot.layer]]]
        if len(uses) != 1:
            refused[group.name] = f"{len(uses)} calls read its channels, not one"
            continue
        call, slot = uses[0], slots[0]
        linear = type(call.operation) in _LINEAR and getattr(call.operation, "groups", 1) == 1
        if not linear or slot.weight != "kernel":
            refused[group.name] = f"its reader {slot.layer!r} is no plain convolution or dense one"
        elif calls.mixed & calls.labels(call.inputs[0]):
            refused[group.name] = f"a layer before {slot.layer!r} mixes its channels"
        else:
            tensor = calls.source(call.inputs[0])
            readers[group.name] = _Reader(slot, call.operation, tensor)
    return readers, refused


def _refuse_named(model: Any, refused: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Raises if a group that cannot be treated is asked for, or none can be treated."""
    groups = find_groups(model)
    free = [group.name for group in groups if group.fixed is None]
    if all(name in refused for name in free):
        raise ValueError(
            "`model` must have channels that one convolution or dense layer reads. Received: "
            f"model={model.name!r}, whose groups cannot be treated: {dict(refused)}."
        )
    for key in ("ratio", "widths"):
        given = settings.get(key)
        if isinstance(given, Mapping):
            for name, (pattern, _) in match_groups(given, groups, key).items():
                if name in refused and not is_wildcard(pattern):
                    raise ValueError(
                        f"`{key}` names group {name!r}, which cannot be treated: {refused[name]}. "
                        f"Received: {key}={dict(given)!r}. Leave it out, or use `make_plan`."
                    )


def _activations(
    analysis: Analysis, readers: Mapping[str, _Reader], inputs: Any
) -> dict[str, np.ndarray]:
    """The inputs of each reader, one column per channel of its group."""
    wanted = {reader.tensor for reader in readers.values()}
    found: dict[int, np.ndarray] = {}

    def watch(call: Call, results: list[Any]) -> None:
        for tensor, value in zip(call.outputs, results, strict=True):
            if id(tensor) in wanted:
                found[id(tensor)] = np.asarray(keras.ops.convert_to_numpy(value), np.float64)

    tensors = [
        keras.ops.convert_to_tensor(array, dtype=x.dtype)
        for array, x in zip(keras.tree.flatten(inputs), analysis.graph.inputs, strict=True)
    ]
    Replay(None, watch).run(analysis.graph, tensors, [])
    matrices = {}
    for name, reader in readers.items():
        value = found[reader.tensor]
        axis = channel_axis(reader.layer, value.ndim)
        features = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        # A channel that was flattened owns several features: each is a position of its own.
        rows = features[:, reader.slot.positions].transpose(0, 2, 1)
        matrices[name] = rows.reshape(-1, len(reader.slot.positions))
    return matrices


def _pivoted(matrix: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Triangle and pivots of the QR decomposition with column pivoting."""
    from scipy.linalg import qr

    if not np.isfinite(matrix).all():
        raise ValueError(
            "`inputs` must give finite activations. Received: NaN or infinite values in the "
            f"channels of group {name!r}."
        )
    triangle, pivots = qr(matrix, mode="r", pivoting=True)
    return triangle[: matrix.shape[1]], pivots


def _transfer(triangle: np.ndarray, pivots: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`T` of `Z ~ Z[:, kept] T`, rows in the order of `kept`: least squares on the triangle."""
    columns = np.empty_like(triangle)
    columns[:, pivots] = triangle
    transfer = np.linalg.lstsq(columns[:, kept], columns, rcond=None)[0]
    transfer[:, kept] = np.eye(len(kept))
    return transfer


def _correct(
    reader: _Reader, kept: np.ndarray, transfer: np.ndarray, kernels: dict[int, np.ndarray]
) -> None:
    """Stores the reader's kernel with `T W` at the kept channels."""
    kernel = np.asarray(keras.ops.convert_to_numpy(reader.layer.kernel))
    front = np.moveaxis(kernel, reader.slot.axis, 0)
    made = front.astype(np.float64)
    blocks = front[reader.slot.positions].astype(np.float64)
    made[reader.slot.positions[kept]] = np.tensordot(transfer, blocks, axes=1)
    kernels[id(reader.layer.kernel)] = np.moveaxis(made, 0, reader.slot.axis).astype(kernel.dtype)
