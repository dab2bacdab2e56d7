"""The calls of a network that change with its widths, and the time of each run alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import keras
import numpy as np

from spade_keras import backend, latency
from spade_keras.errors import SpadeError
from spade_keras.latency.windows import time_interleaved, warm_up
from spade_keras.pruning import make_plan, rebuild
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
# Number of cached times that are checked, and the share by which they may be off.
_CHECKED = 3
_DISTURBED = 0.2


@dataclass(frozen=True)
class LayerCall:
    """A call that can be timed without the model around it.

    Args:
        path: Path of the layer in its model.
        kind: Class of the layer or operation.
        config: Configuration from which the layer can be made again.
        arguments: Positional and keyword arguments, tensors being symbolic and of known shape.
        operation: The operation itself where it has no weights and no configuration.
        weights: Shapes of the layer's weights.
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

        These have equal class, weights, input shapes, dtypes, other arguments, and configuration
        (apart from names, initializers and other settings of training).
        """
        described = keras.tree.map_structure(_describe, self.arguments)
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
        """Makes a model of the layer alone, with new weights.

        Raises:
            SpadeError: If the layer cannot be made from its configuration.
        """
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


def make_floor() -> LayerCall:
    """A call that computes nothing: its time is that of starting any function."""
    layer = keras.layers.Identity(name="floor")
    tensor = keras.KerasTensor((1, 1), keras.config.floatx())
    return LayerCall.of(ShapedCall("floor", layer, ((tensor,), {}), (tensor,)))


class LayerTimer:
    """Times layers that were not timed under these conditions before.

    Args:
        cache: Cache of times; None: the one in the user's cache folder. Times taken on a busy
            machine are detected and dropped.
        repeats: Windows per layer, and the same number again, at most twice, while three of them
            do not agree on the fastest. The fastest is the layer's time: other work only ever
            adds to it.
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

        Args:
            calls: Calls to time. Neighbors are timed interleaved, which makes the order of their
                speeds most reliable.
        """
        circumstances = latency.fingerprint(mode=self.mode)
        distinct = {call.signature: call for call in calls}
        found = {signature: self._cache.get(signature, circumstances) for signature in distinct}
        times = {signature: ms for signature, ms in found.items() if ms is not None}
        if self._were_disturbed(times, distinct):
            times = {}
        missing = [call for signature, call in distinct.items() if signature not in times]
        done = 0
        for some in _chunks(missing, _TOGETHER):
            measured = self._time(some)
            # If other work disturbed all windows, a later run measures again.
            settled = {signature: min(ms) for signature, ms in measured.items() if _agree(ms)}
            self._cache.put(settled, circumstances)
            times |= {signature: min(ms) for signature, ms in measured.items()}
            done += len(some)
            if self._on_layer is not None:
                self._on_layer(done, len(missing))
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
            call.signature: backend.inference_function(
                call.model(), _random_inputs(call), self.mode
            )
            for call in calls
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
        # Numbers below 2 are valid indices, flags and labels.
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        array = (
            rng.standard_normal(tensor.shape, dtype="float32")
            if is_float
            else rng.integers(0, 2, tensor.shape)
        )
        return keras.ops.cast(array, tensor.dtype)

    return [draw(tensor) for tensor in call.tensors]


def _describe(value: Any) -> Any:
    if isinstance(value, keras.KerasTensor):
        return [list(value.shape), value.dtype]
    return value


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


def _chunks(calls: Sequence[LayerCall], size: int) -> Iterator[Sequence[LayerCall]]:
    for start in range(0, len(calls), size):
        yield calls[start : start + size]


# The path of a layer, which of the input shapes of its model, and which of its calls.
Place = tuple[str, int, int]


@dataclass
class Sweep:
    """The calls of a network at full width, and those that differ at other widths.

    Args:
        full: The calls at full width.
        counts: How often each of them is made in one forward pass.
        changed: Group -> width -> the calls that differ when this group alone has this width.
    """

    full: dict[Place, LayerCall]
    counts: dict[Place, int]
    changed: dict[str, dict[int, dict[Place, LayerCall]]] = field(default_factory=dict)

    def places(self, group: str) -> set[Place]:
        """The places at which the width of a group matters."""
        return {place for calls in self.changed[group].values() for place in calls}

    def calls(self) -> list[LayerCall]:
        """Every call there is; those that differ in the width of one group follow each other."""
        changes = [calls for widths in self.changed.values() for calls in widths.values()]
        return [
            call
            for place, full in self.full.items()
            for call in (full, *(calls[place] for calls in changes if place in calls))
        ]


def sweep_widths(network: keras.Model, inputs: Any, widths: Mapping[str, Sequence[int]]) -> Sweep:
    """Narrows one group at a time to each of its widths and lists the calls that change.

    Groups that share no layer are narrowed together, which saves most of the rebuilding.

    Args:
        network: A Keras model, or a network with `priors`; it is left as it is.
        inputs: Arrays or shapes of one forward pass.
        widths: Group -> widths below the full one, ascending.

    Returns:
        The calls.

    Raises:
        ValueError: If a group is unknown or cannot have a width.
    """
    full, counts = _list_calls(network, inputs)
    sweep = Sweep(full, counts, {group: {} for group in widths})
    for group, sizes in widths.items():
        if sizes:
            # The narrowest differs wherever the group matters.
            differing = _differing(network, inputs, {group: sizes[0]}, full)
            sweep.changed[group][sizes[0]] = differing
    reach = {group: sweep.places(group) for group in widths}
    for together in _independent(reach):
        for step in range(1, max(len(widths[group]) for group in together)):
            chosen = {g: widths[g][step] for g in together if step < len(widths[g])}
            differing = _differing(network, inputs, chosen, full)
            for group, width in chosen.items():
                sweep.changed[group][width] = {
                    place: call for place, call in differing.items() if place in reach[group]
                }
    return sweep


def _differing(
    network: keras.Model, inputs: Any, widths: dict[str, int], full: Mapping[Place, LayerCall]
) -> dict[Place, LayerCall]:
    slim = rebuild(network, make_plan(network, widths=widths, importance="group_l1"))
    calls, _ = _list_calls(slim, inputs)
    if calls.keys() != full.keys():
        raise SpadeError(
            f"The layers of {network.name!r} at the widths {widths} cannot be matched with those "
            f"at full width: {sorted(p for p, *_ in calls.keys() ^ full.keys())[:5]}. Give every "
            "layer a name of its own, or search without a layer table."
        )
    return {p: call for p, call in calls.items() if call.signature != full[p].signature}


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
