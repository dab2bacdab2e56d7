"""From pairs back to stock layers: two where that is cheaper, else one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from spade_keras.pruning.basis.factors import CONVOLUTIONS, TRANSPOSED, to_kernel
from spade_keras.pruning.basis.pairs import BASIS_SUFFIX, Pair, check_pairs, find_pairs
from spade_keras.pruning.basis.rank_groups import RankGroup
from spade_keras.pruning.basis.rank_plan import Form, LayerRank, RankPlan
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.forward_pass import layer_calls
from spade_keras.pruning.graph.trace import Chain
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.rebuild import replay
from spade_keras.pruning.rules.rule import with_zeros

Measure = Callable[[keras.Model], float]
By = Literal["macs", "latency", "none"]


@dataclass(frozen=True)
class Choice:
    """What one pair becomes.

    Args:
        kept: Components that stay.
        form: One layer or two.
    """

    kept: tuple[int, ...]
    form: Form


def merge(
    model: Any,
    *,
    by: By = "macs",
    measure: Measure | None = None,
    inputs: Any = None,
) -> Any:
    """Folds the scaling factors away and removes pruned components; only stock layers remain.

    A pair of rank `r` stays a pair where that is cheaper than the one layer it came from,
    `r < r* = n co / (n + co)`, and is merged into one layer with kernel
    `U diag(s) diag(sigma) V^T` elsewhere. The result needs nothing of this package to load.
    All its layers are trainable.

    Args:
        model: A decomposed model, or a network with decomposed priors; it stays as it is.
        by: `"macs"` compares multiply-accumulates, `"latency"` times of both forms as measured;
            `"none"` keeps every pair, so that its components are a channel group of the result,
            named after the `_basis` layer, which a plan of widths or a search can narrow.
        measure: For `"latency"`: gives the time of a small model that holds the one form or the
            other, such as `lambda m: spade_keras.latency.measure(m, example(m)).median_ms`.
        inputs: For `"latency"`: arrays or shapes, where the model leaves input sizes open.

    Returns:
        A new model of the same kind.

    Raises:
        NotDecomposedError: The model has no pairs.
        ValueError: `by` is unknown, or `measure` is missing or gives no positive number.

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
    plan = make_rank_plan(model, by=by, measure=measure, inputs=inputs)
    return merge_as(model, {layer.name: Choice(layer.kept, layer.form) for layer in plan.layers})


def make_rank_plan(
    model: Any,
    *,
    by: By = "macs",
    measure: Measure | None = None,
    inputs: Any = None,
    importance: str = "",
) -> RankPlan:
    """Writes down what `merge` would make of a decomposed model.

    The scaling factors are part of the plan, so that `rebuild_ranks` makes the merged model
    from the original, except for what else was trained.

    Args:
        model: A decomposed model, or a network with decomposed priors.
        by: See `merge`.
        measure: See `merge`.
        inputs: See `merge`.
        importance: What ranked the components, for the record.
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
    entries = []
    for pair in pairs:
        kept = tuple(int(i) for i in pair.scaling.alive)
        full = group_of(pair)
        form: Form = "pair"
        if by == "macs":
            form = cheaper_form(full, len(kept))
        elif by == "latency" and measure is not None:
            form = _faster_form(pair, kept, shapes[pair.basis_path], measure)
        scale = np.asarray(keras.ops.convert_to_numpy(pair.scaling.scale), np.float64)
        scales = scale.reshape(pair.scaling.groups, -1)[:, list(kept)].reshape(-1)
        entries.append(LayerRank(pair.name, full.rank, kept, form, tuple(map(float, scales))))
    return RankPlan(model.name, tuple(entries), importance)


def merge_as(model: Any, choices: Mapping[str, Choice]) -> Any:
    """Makes the merged model whose pairs become what the choices say.

    Args:
        model: A decomposed model, or a network with decomposed priors.
        choices: One per pair, by its name.
    """
    if is_network(model):
        merged = {}
        for key, prior in model.priors.items():
            own = {n.removeprefix(f"{key}/"): c for n, c in choices.items() if _in(n, key)}
            merged[key] = merge_as(prior, own) if own else prior
        return model.with_priors(merged)
    swaps: dict[int, Chain] = {}
    weights: list[tuple[Any, np.ndarray, np.ndarray | None]] = []
    for pair in find_pairs(model):
        choice = choices[pair.name]
        layers, arrays = _stock_layers(pair, choice)
        swaps[id(pair.basis)] = Chain(layers[:-1])
        swaps[id(pair.scaling)] = Chain(layers[-1:])
        biases = [None] * (len(layers) - 1) + [_bias(pair)]
        weights += zip(layers, arrays, biases, strict=True)
    made = replay(model, analyze(model), swaps=swaps)
    for layer, kernel, bias in weights:
        layer.kernel.assign(kernel)
        if bias is not None:
            layer.bias.assign(bias)
    for layer in made._flatten_layers():
        layer.trainable = True
    return made


def group_of(pair: Pair) -> RankGroup:
    """The rank group of the layer that a pair came from.

    Args:
        pair: The pair.
    """
    _, rows, _ = pair.basis_matrix().shape
    groups = pair.scaling.groups
    columns = pair.scaling.channels // groups
    transposed = isinstance(pair.basis, TRANSPOSED)
    expansion = int(np.prod(pair.basis.strides)) if transposed else 1
    kind = type(pair.basis).__name__
    return RankGroup(pair.name, kind, min(rows, columns), rows, columns, groups, expansion)


def cheaper_form(group: RankGroup, rank: int) -> Form:
    """The form with fewer multiply-accumulates.

    Args:
        group: The layer.
        rank: Components that stay.
    """
    return "pair" if rank < group.break_even else "one"


def _in(name: str, key: str) -> bool:
    return name.startswith(f"{key}/")


def _stock_layers(pair: Pair, choice: Choice) -> tuple[list[Any], list[np.ndarray]]:
    """The layers that a pair becomes, unbuilt, and their kernels."""
    kept = list(choice.kept)
    left = pair.basis_matrix()[:, :, kept]
    right = pair.scaling.effective_directions()[:, kept]
    if choice.form == "one":
        layer = _basis_layer(pair, pair.scaling.channels, last=True)
        return [layer], [to_kernel(layer, left @ right)]
    first = _basis_layer(pair, pair.scaling.groups * len(kept), last=False)
    second = _second_layer(pair)
    flat = right.transpose(1, 0, 2).reshape(len(kept), pair.scaling.channels)
    ones = (1,) * (len(pair.basis.kernel.shape) - 2)
    return [first, second], [to_kernel(first, left), flat.reshape(*ones, *flat.shape)]


def _ending(pair: Pair) -> dict[str, Any]:
    """What the last layer of a merged pair takes over from the scaling layer."""
    scaling = pair.scaling
    return {
        "name": scaling.name,
        "dtype": scaling.dtype_policy,
        "activation": scaling.activation,
        "use_bias": scaling.use_bias,
        "activity_regularizer": scaling.activity_regularizer,
    }


def _basis_layer(pair: Pair, channels: int, *, last: bool) -> Any:
    """The basis layer with another number of channels; as last layer with bias and activation."""
    config = with_zeros(pair.basis.get_config())
    config["units" if "units" in config else "filters"] = channels
    config["trainable"] = True
    return type(pair.basis).from_config({**config, **(_ending(pair) if last else {})})


def _second_layer(pair: Pair) -> Any:
    settings = {**_ending(pair), "kernel_initializer": "zeros"}
    rank = len(pair.basis.kernel.shape) - 2
    if rank == 0:
        return keras.layers.Dense(pair.scaling.channels, **settings)
    return CONVOLUTIONS[rank - 1](
        pair.scaling.channels,
        1,
        groups=pair.scaling.groups,
        data_format=pair.scaling.data_format,
        **settings,
    )


def _bias(pair: Pair) -> np.ndarray | None:
    bias = pair.scaling.bias
    return None if bias is None else np.asarray(keras.ops.convert_to_numpy(bias))


def _shapes(model: Any, inputs: Any) -> dict[str, list[tuple[int, ...]]]:
    """Input shapes of every call of a layer, by its path."""
    if is_network(model):
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for key, given in model.prior_input_shapes(inputs).items():
            for shape in given:
                for path, found in _shapes(model.priors[key], tuple(shape)).items():
                    shapes.setdefault(f"{key}/{path}", []).extend(found)
        return shapes
    shapes = {}
    for call in layer_calls(model, inputs):
        if call.inputs:
            shapes.setdefault(call.path, []).append(tuple(call.inputs[0].shape))
    return shapes


def _faster_form(
    pair: Pair, kept: tuple[int, ...], shapes: list[tuple[int, ...]], measure: Measure
) -> Form:
    times: dict[Form, float] = {}
    forms: tuple[Form, ...] = ("one", "pair")
    for form in forms:
        times[form] = sum(_time(pair, Choice(kept, form), shape, measure) for shape in shapes)
    return "pair" if times["pair"] < times["one"] else "one"


def _time(pair: Pair, choice: Choice, shape: tuple[int, ...], measure: Measure) -> float:
    if None in shape:
        raise ValueError(
            "`inputs` must give the sizes that the model leaves open. Received: layer "
            f"{pair.name!r} on inputs of shape {shape}. Pass a shape such as (1, 128, 128, 2)."
        )
    layers, kernels = _stock_layers(pair, choice)
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
