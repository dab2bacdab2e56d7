"""The time of every layer of a network, run alone, at every width of the groups it depends on."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import keras
import numpy as np

from spade_keras import backend, latency
from spade_keras.errors import SpadeError
from spade_keras.latency.windows import time_interleaved, warm_up
from spade_keras.pruning import find_groups, make_plan, rebuild
from spade_keras.pruning.graph.forward_pass import ShapedCall, layer_calls
from spade_keras.pruning.graph.trace import copy_operation
from spade_keras.pruning.parts import is_network, parts_of, prefix_of

# Layers timed interleaved, so that a drift of the machine falls on all of them alike.
_TOGETHER = 8
_MOST_WARM_UP = 6
# A time is settled when so many windows exceed the fastest by no more than this.
_AGREEING = 3
_SPREAD = 0.05
_MOST_ATTEMPTS = 3
# Least share of a layer's time that is taken for its own, and not for starting it.
_LEAST_SHARE = 0.05
# Number of cached times that are checked, and the share by which they may be off.
_CHECKED = 3
_DISTURBED = 0.2


@dataclass(frozen=True)
class LayerCall:
    """A call that can be timed without the model around it.

    The tensors among its arguments are symbolic and of known shape. Operations that have no
    weights and no configuration are kept themselves.
    """

    path: str
    kind: Any
    config: Mapping[str, Any]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    operation: Any
    weights: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, call: ShapedCall, prefix: str = "") -> LayerCall:
        """Describes a call without holding on to the weights of its layer."""
        operation = call.operation
        is_layer = isinstance(operation, keras.layers.Layer)
        return cls(
            path=prefix + call.path,
            kind=type(operation),
            config=operation.get_config(),
            arguments=call.arguments,
            operation=None if is_layer else operation,
            weights=tuple(tuple(w.shape) for w in operation.weights) if is_layer else (),
        )

    @cached_property
    def signature(self) -> str:
        """A short text that is equal for calls that take the same time.

        Names, initializers and other settings of training may differ.
        """
        described = keras.tree.map_structure(
            lambda x: [list(x.shape), x.dtype] if isinstance(x, keras.KerasTensor) else x,
            self.arguments,
        )
        kind = f"{self.kind.__module__}.{self.kind.__qualname__}"
        content = [kind, _essence(self.config), described, self.weights]
        text = json.dumps(content, sort_keys=True, default=str)
        shapes = ",".join("x".join(map(str, x.shape)) for x in self.tensors)
        return f"{self.kind.__name__} {shapes} {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The symbolic tensors among the arguments, each once."""
        flat = (x for x in keras.tree.flatten(self.arguments) if isinstance(x, keras.KerasTensor))
        return tuple({id(x): x for x in flat}.values())

    def model(self) -> keras.Model:
        """Makes a model of the layer alone, with new weights."""
        inputs = {
            id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype, name=f"input_{index}")
            for index, x in enumerate(self.tensors)
        }
        args, kwargs = keras.tree.map_structure(lambda x: inputs.get(id(x), x), self.arguments)
        try:
            if self.operation is None:
                operation = self.kind.from_config(dict(self.config))
            else:
                operation = copy_operation(self.operation)
            return keras.Model(list(inputs.values()), operation(*args, **kwargs))
        except Exception as error:
            raise SpadeError(
                f"Layer {self.path!r} ({self.kind.__name__}) cannot be timed alone: "
                f"{type(error).__name__}: {error} Give it a `get_config` from which it can be made "
                "again, or search without a layer table."
            ) from error


class LayerTimer:
    """Times layers that were not timed under these conditions before.

    Args:
        cache: Cache of times; None: the one in the user's cache folder. Times taken on a busy
            machine are detected and dropped.
        repeats: Windows per layer, and the same number again, at most twice, while three do not
            agree on the fastest. That is the layer's time: other work only ever adds to it.
        mode: How the backend runs the layers, one of `backend.modes()`.
        on_layer: Called with the number of layers done and of those to be timed in all.
    """

    def __init__(
        self,
        cache: latency.LatencyCache | None = None,
        *,
        repeats: int = 7,
        mode: str | None = None,
        on_layer: Callable[[int, int], None] | None = None,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"`repeats` must be at least 1. Received: repeats={repeats}")
        self.mode = mode
        self._cache = latency.LatencyCache() if cache is None else cache
        self._repeats = repeats
        self._on_layer = on_layer

    def __call__(self, calls: Sequence[LayerCall]) -> dict[str, float]:
        """Returns milliseconds by signature; calls of one signature are timed once.

        Neighbors are timed interleaved, which makes the order of their speeds most reliable.
        """
        circumstances = latency.fingerprint(mode=self.mode)
        distinct = {call.signature: call for call in calls}
        found = {signature: self._cache.get(signature, circumstances) for signature in distinct}
        times = {signature: ms for signature, ms in found.items() if ms is not None}
        if self._were_disturbed(times, distinct):
            times = {}
        missing = [call for signature, call in distinct.items() if signature not in times]
        for start in range(0, len(missing), _TOGETHER):
            some = missing[start : start + _TOGETHER]
            measured = self._time(some)
            # If other work disturbed all windows, a later run measures again.
            settled = {signature: min(ms) for signature, ms in measured.items() if _agree(ms)}
            self._cache.put(settled, circumstances)
            times |= {signature: min(ms) for signature, ms in measured.items()}
            if self._on_layer is not None:
                self._on_layer(start + len(some), len(missing))
        return times

    def _were_disturbed(self, known: Mapping[str, float], calls: Mapping[str, LayerCall]) -> bool:
        """Whether cached times are too long, by timing the longest of them again.

        Other work only ever adds time: if layers are much faster now, all were disturbed then; if
        they are slower, something disturbs them now.
        """
        longest = sorted(known, key=lambda signature: -known[signature])[:_CHECKED]
        if not longest:
            return False
        now = self._time([calls[signature] for signature in longest])
        return median(min(now[s]) / known[s] for s in longest) < 1 - _DISTURBED

    def _time(self, calls: Sequence[LayerCall]) -> dict[str, list[float]]:
        """Milliseconds of every window by signature."""
        functions = {
            c.signature: backend.inference_function(c.model(), _random_inputs(c), self.mode)
            for c in calls
        }
        stopwatch = latency.Stopwatch(backend.synchronize)
        windows: dict[str, list[float]] = {signature: [] for signature in functions}
        with latency.device_lock():
            calls_of = {
                signature: warm_up(stopwatch, function, _MOST_WARM_UP).calls
                for signature, function in functions.items()
            }
            for _ in range(_MOST_ATTEMPTS):
                open_ones = [signature for signature, ms in windows.items() if not _agree(ms)]
                samples = time_interleaved(
                    stopwatch,
                    [functions[signature] for signature in open_ones],
                    [calls_of[signature] for signature in open_ones],
                    self._repeats,
                )
                for signature, times in zip(open_ones, samples, strict=True):
                    windows[signature] += times
        return windows


def _agree(windows: Sequence[float]) -> bool:
    fastest = sorted(windows)[:_AGREEING]
    return len(fastest) == _AGREEING and fastest[-1] <= (1 + _SPREAD) * fastest[0]


def _random_inputs(call: LayerCall) -> list[Any]:
    rng = np.random.default_rng(0)

    def draw(tensor: Any) -> Any:
        if keras.backend.is_float_dtype(tensor.dtype):
            array = rng.standard_normal(tensor.shape, dtype="float32")
        else:  # numbers below 2 are valid indices, flags and labels
            array = rng.integers(0, 2, tensor.shape)
        return keras.ops.cast(array, tensor.dtype)

    return [draw(tensor) for tensor in call.tensors]


_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")


def _essence(config: Any) -> Any:
    """A configuration without names and without what matters in training alone."""
    if isinstance(config, Mapping):
        return {
            # A dtype policy is known by its name.
            str(key): value if key == "dtype" else _essence(value)
            for key, value in config.items()
            if key not in ("name", "trainable", "seed") and not str(key).endswith(_OF_TRAINING)
        }
    if isinstance(config, list | tuple):
        return [_essence(value) for value in config]
    return config


# The path of a layer, which of the input shapes of its model, and which of its calls.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one call of a layer, which is called `calls` times in a forward pass.

    `ms` is its time at full width, `by_group` that at each width of a group, all others full.
    """

    path: str
    calls: int
    ms: float
    by_group: dict[str, tuple[float, ...]]


def time_layers(
    network: keras.Model,
    inputs: Any,
    widths: Mapping[str, Sequence[int]],
    timer: Callable[[Sequence[LayerCall]], Mapping[str, float]],
) -> tuple[LayerTime, ...]:
    """Times the layers of a network at every width, as `with_full_width` lists them.

    The other arguments are those of `LayerTable.measure`.
    """
    full, counts = _list_calls(network, inputs)
    variants = _sweep_widths(network, inputs, widths, full)
    # A call that computes nothing takes the time of starting any function.
    tensor = keras.KerasTensor((1, 1), keras.config.floatx())
    identity = keras.layers.Identity(name="floor")
    floor = LayerCall.of(ShapedCall("floor", identity, ((tensor,), {}), (tensor,)))
    calls = [floor]
    for place, whole in full.items():
        calls += [whole, *itertools.chain(*variants[place].values())]
    times = timer(calls)
    starting = times[floor.signature]
    own = {name: max(ms - starting, _LEAST_SHARE * ms) for name, ms in times.items()}
    return tuple(
        LayerTime(
            whole.path,
            counts[place],
            own[whole.signature],
            {g: tuple(own[c.signature] for c in calls) for g, calls in variants[place].items()},
        )
        for place, whole in full.items()
    )


def with_full_width(
    network: keras.Model, widths: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Ascending widths per group, the full one included."""
    known = {group.name: group.width for group in find_groups(network)}
    unknown = sorted(set(widths) - set(known))
    if unknown:
        raise ValueError(
            f"`widths` must name groups of {network.name!r}: {sorted(known)}. Received: {unknown}"
        )
    ascending = {g: tuple(sorted({*map(int, sizes), known[g]})) for g, sizes in widths.items()}
    wrong = {g: sizes for g, sizes in ascending.items() if sizes[0] < 1 or sizes[-1] > known[g]}
    if wrong:
        raise ValueError(
            f"Widths must be from 1 to the full width of their group. Received: widths={wrong}, "
            f"full widths { {group: known[group] for group in wrong} }"
        )
    return ascending


def _sweep_widths(
    network: keras.Model,
    inputs: Any,
    widths: Mapping[str, Sequence[int]],
    full: dict[Place, LayerCall],
) -> dict[Place, dict[str, list[LayerCall]]]:
    """Lists each call at every width of the groups that change it, all other groups being full.

    Groups that share no layer are narrowed together, which saves most of the rebuilding.
    """

    def narrowed(chosen: dict[str, int]) -> dict[Place, LayerCall]:
        slim = rebuild(network, make_plan(network, widths=chosen, importance="group_l1"))
        calls, _ = _list_calls(slim, inputs)
        if calls.keys() != full.keys():
            raise SpadeError(
                f"The layers of {network.name!r} at the widths {chosen} cannot be matched with "
                f"those at full width: {sorted(p for p, *_ in calls.keys() ^ full.keys())[:5]}. "
                "Give every layer a name of its own, or search without a layer table."
            )
        return calls

    below = {group: sizes[:-1] for group, sizes in widths.items()}
    reach: dict[str, set[Place]] = {}
    variants: dict[Place, dict[str, list[LayerCall]]] = {place: {} for place in full}
    for group, sizes in below.items():
        # The narrowest differs wherever the group matters.
        calls = narrowed({group: sizes[0]}) if sizes else full
        reach[group] = {p for p, call in calls.items() if call.signature != full[p].signature}
        for place in reach[group]:
            variants[place][group] = [calls[place]]
    for together in _independent(reach):
        for step in range(1, max(len(below[group]) for group in together)):
            chosen = {g: below[g][step] for g in together if step < len(below[g])}
            calls = narrowed(chosen)
            for group in chosen:
                for place in reach[group]:
                    variants[place][group].append(calls[place])
    return {
        place: {group: [*calls, full[place]] for group, calls in by_group.items()}
        for place, by_group in variants.items()
    }


def _list_calls(
    network: keras.Model, inputs: Any
) -> tuple[dict[Place, LayerCall], dict[Place, int]]:
    calls: dict[Place, LayerCall] = {}
    counts: dict[Place, int] = {}
    parts: Iterable[tuple[str, keras.Model, Any, int, int]]
    if is_network(network):
        models = parts_of(network)
        parts = [
            (prefix_of(key), models[key], shape, number, count)
            for key, shapes in network.prior_input_shapes(inputs).items()
            for number, (shape, count) in enumerate(Counter(map(tuple, shapes)).items())
        ]
    else:
        parts = [("", network, inputs, 0, 1)]
    for prefix, part, shapes, number, count in parts:
        seen: Counter[str] = Counter()
        for call in layer_calls(part, shapes):
            if call.inputs:
                path = prefix + call.path
                place = (path, number, seen[path])
                seen[path] += 1
                calls[place] = LayerCall.of(call, prefix)
                counts[place] = count
    return calls, counts


def _independent(reach: Mapping[str, Set[Place]]) -> list[list[str]]:
    """Splits groups into few classes inside which no two reach the same call."""
    classes: list[tuple[list[str], set[Place]]] = []
    for group, places in sorted(reach.items(), key=lambda item: -len(item[1])):
        for members, taken in classes:
            if not taken & places:
                members.append(group)
                taken |= places
                break
        else:
            classes.append(([group], set(places)))
    return [members for members, _ in classes]
