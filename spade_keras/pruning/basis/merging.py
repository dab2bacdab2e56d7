"""From pairs back to stock layers: two where that is cheaper, else one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import keras
import numpy as np

from spade_keras.pruning.basis.decomposition import decompose_layers
from spade_keras.pruning.basis.rank_groups import CONVOLUTIONS, to_kernel
from spade_keras.pruning.basis.scaling import BASIS_SUFFIX, Pair, check_pairs, find_pairs
from spade_keras.pruning.cost import macs_by_layer
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.forward_pass import layer_calls
from spade_keras.pruning.graph.partition import Read
from spade_keras.pruning.graph.trace import Chain
from spade_keras.pruning.parts import map_parts, own_names, part_inputs
from spade_keras.pruning.plan import FORMS, Form, LayerRank, PruningPlan, RankStep
from spade_keras.pruning.replay import replay
from spade_keras.pruning.rules.rule import unbuilt_config

Measure = Callable[[keras.Model], float]
By = Literal["macs", "latency", "none"]


def merge(
    model: Any, *, by: By = "macs", measure: Measure | None = None, inputs: Any = None
) -> Any:
    """Folds the scaling factors away and removes pruned components; only stock layers remain.

    A pair of rank `r` stays a pair where that is cheaper than the one layer it came from,
    `r < r* = n co / (n + co)`; elsewhere it becomes one layer with kernel
    `U diag(s) diag(sigma) V^T`. The result loads without this package; all its layers train.

    Args:
        model: A decomposed model, or a network with decomposed priors; it stays as it is.
        by: `"macs"` compares multiply-accumulates, `"latency"` times of both forms as measured;
            `"none"` keeps every pair: its components are then a channel group of the result,
            named after the `_basis` layer.
        measure: For `"latency"`: gives the time of a small model that holds the one form or the
            other, such as `lambda m: spade_keras.latency.measure(m, example(m)).median_ms`.
        inputs: For `"latency"`: arrays or shapes, where the model leaves input sizes open.

    Example:
        >>> import keras
        >>> from spade_keras.pruning.basis import decompose
        >>> low = decompose(keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a")]))
        >>> low.get_layer("a").keep([0, 1, 2])
        >>> [tuple(w.shape) for w in merge(low).weights]
        [(8, 3), (3, 8), (8,)]
        >>> low.get_layer("a").keep(range(5))
        >>> [tuple(w.shape) for w in merge(low).weights]
        [(8, 8), (8,)]
    """
    (step,) = rank_plan(model, by=by, measure=measure, inputs=inputs).steps
    assert isinstance(step, RankStep)
    return _merge(model, {layer.name: layer for layer in step.layers})


def rank_plan(
    model: Any,
    *,
    by: By = "macs",
    measure: Measure | None = None,
    inputs: Any = None,
    importance: str = "",
) -> PruningPlan:
    """Returns the plan by which `rebuild` makes `merge(model)` from the original.

    The scaling factors are part of the plan; other weights that were trained are not.

    The arguments are those of `merge`; `inputs` are also what multiply-accumulates are counted
    for, and `importance` names the criterion that ranked the components, for the record.
    """
    pairs = check_pairs(model)
    if by not in ("macs", "latency", "none"):
        raise ValueError(f"`by` must be 'macs', 'latency' or 'none'. Received: by={by!r}.")
    if by == "latency" and not callable(measure):
        raise ValueError(
            "`measure` must be a function from a model to its time when by='latency'. Received: "
            f"measure={measure!r}. Pass one that calls `spade_keras.latency.measure`."
        )
    shapes = _shapes(model, inputs) if by == "latency" else {}
    macs = macs_by_layer(model, inputs) or {}
    layers = []
    for pair in pairs:
        kept = pair.scaling.alive
        form: Form = "pair"
        if by == "macs":
            form = pair.group.cheaper_form(len(kept))
        elif measure is not None:
            form = _faster_form(pair, kept, shapes[pair.basis_path], measure)
        scale = np.asarray(keras.ops.convert_to_numpy(pair.scaling.scale), np.float64)
        scales = scale.reshape(pair.scaling.groups, -1)[:, kept].reshape(-1).tolist()
        # The basis layer is the whole layer except for the number of its output channels.
        part = macs.get(pair.basis_path)
        whole = None if part is None else part // pair.scaling.rank * pair.group.columns
        layers.append(pair.group.plan(kept, form, scales, whole))
    return PruningPlan(model.name, (RankStep(tuple(layers), importance),))


def build_ranks(model: Any, step: RankStep, read: Read) -> Any:
    """Decomposes the layers of a step, keeps its components and merges; for `apply_step`."""
    entries = {layer.name: layer for layer in step.layers}
    ranks = {name: layer.kept[-1] + 1 for name, layer in entries.items()}
    low = decompose_layers(model, ranks, read=read)
    for pair in find_pairs(low):
        entry = entries[pair.name]
        # Components that are zero but for rounding were not made.
        kept = [i for i in entry.kept if i < pair.scaling.rank]
        if entry.scales:
            scale = np.ones((pair.scaling.groups, pair.scaling.rank), "float32")
            scale[:, kept] = np.reshape(entry.scales, (len(scale), -1))[:, : len(kept)]
            pair.scaling.scale.assign(scale.reshape(-1))
        entries[pair.name] = replace(entry, kept=tuple(kept) or (0,), scales=())
    return _merge(low, entries)


def _merge(model: Any, entries: Mapping[str, LayerRank]) -> Any:
    """The merged model whose pairs become what the entries say."""
    return map_parts(model, lambda key, part: _merge_part(part, own_names(entries, key)))


def _merge_part(model: keras.Model, entries: Mapping[str, LayerRank]) -> keras.Model:
    swaps: dict[int, Chain] = {}
    found = []
    for pair in find_pairs(model):
        entry = entries[pair.name]
        layers, kernels = _stock_layers(pair, entry.kept, entry.form)
        swaps[id(pair.basis)] = Chain(layers[:-1])
        swaps[id(pair.scaling)] = Chain(layers[-1:])
        found.append((pair.scaling, layers, kernels))
    made = replay(model, analyze(model), swaps=swaps)
    for scaling, layers, kernels in found:
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.kernel.assign(kernel)
        if scaling.use_bias:
            layers[-1].bias.assign(keras.ops.convert_to_numpy(scaling.bias))
    for layer in made._flatten_layers():
        layer.trainable = True
    return made


def _stock_layers(
    pair: Pair, kept: Sequence[int], form: Form
) -> tuple[list[Any], list[np.ndarray]]:
    """The layers that a pair becomes, unbuilt, and their kernels."""
    scaling, kept = pair.scaling, list(kept)
    left = pair.basis_matrix()[:, :, kept]
    right = scaling.effective_directions()[:, kept]
    # The scaling layer has kept what comes after the kernel of the layer that was decomposed.
    names = ("name", "activation", "use_bias", "activity_regularizer")
    ending = {**{name: getattr(scaling, name) for name in names}, "dtype": scaling.dtype_policy}
    config = {**unbuilt_config(pair.basis.get_config()), "trainable": True}
    width = "units" if "units" in config else "filters"
    if form == "one":
        layer = type(pair.basis).from_config({**config, **ending, width: scaling.channels})
        return [layer], [to_kernel(layer, left @ right)]
    config[width] = scaling.groups * len(kept)
    first = type(pair.basis).from_config(config)
    ending["kernel_initializer"] = "zeros"
    window = len(pair.basis.kernel.shape) - 2
    if window == 0:
        second = keras.layers.Dense(scaling.channels, **ending)
    else:
        grouped = {"groups": scaling.groups, "data_format": scaling.data_format}
        second = CONVOLUTIONS[window - 1](scaling.channels, 1, **grouped, **ending)
    flat = right.transpose(1, 0, 2).reshape(*[1] * window, len(kept), scaling.channels)
    return [first, second], [to_kernel(first, left), flat]


def _shapes(model: Any, inputs: Any) -> dict[str, list[tuple[int, ...]]]:
    """Input shapes of every call of a layer, by its path."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for prefix, part, given in part_inputs(model, inputs):
        for call in layer_calls(part, given):
            if call.inputs:
                shapes.setdefault(prefix + call.path, []).append(tuple(call.inputs[0].shape))
    return shapes


def _faster_form(
    pair: Pair, kept: Sequence[int], shapes: list[tuple[int, ...]], measure: Measure
) -> Form:
    times = {
        form: sum(_time(pair, kept, form, shape, measure) for shape in shapes)
        for form in reversed(FORMS)
    }
    return "pair" if times["pair"] < times["one"] else "one"


def _time(
    pair: Pair, kept: Sequence[int], form: Form, shape: tuple[int, ...], measure: Measure
) -> float:
    if None in shape:
        raise ValueError(
            "`inputs` must give the sizes that the model leaves open. Received: layer "
            f"{pair.name!r} on inputs of shape {shape}. Pass a shape such as (1, 128, 128, 2)."
        )
    layers, kernels = _stock_layers(pair, kept, form)
    x = inputs = keras.Input(batch_shape=shape, dtype=pair.basis.compute_dtype)
    for layer in layers:
        x = layer(x)
    for layer, kernel in zip(layers, kernels, strict=True):
        layer.kernel.assign(kernel)
    time = float(measure(keras.Model(inputs, x, name=pair.scaling.name + BASIS_SUFFIX)))
    if not (np.isfinite(time) and time > 0):
        raise ValueError(
            f"`measure` must give a positive time. Received: {time!r} for layer {pair.name!r}."
        )
    return time
