"""A new, smaller model from a plan: the graph replayed with narrower layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spade_keras.errors import PlanMismatchError, RebuildError
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.narrowing import Narrowing, Read
from spade_keras.pruning.graph.partition import partition
from spade_keras.pruning.graph.trace import Call, Chain, Graph, takes_inputs_and_outputs
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.rules import Change
from spade_keras.pruning.rules.rule import restore_initializers


def rebuild(model: Any, plan: Any) -> Any:
    """Builds the slim model of a plan; the original stays as it is.

    A Functional or Sequential model gives one of the same kind. A subclassed model gives a
    Functional one: its class and its `train_step` are not carried over.

    Args:
        model: The model the plan was made for, or a network with `priors`.
        plan: The plan; of its groups only `name`, `width` and `kept` are read.

    Returns:
        The slim model with the kept weights, or the network with slim priors.

    Raises:
        PlanMismatchError: The plan was made for another model.
        RebuildError: A layer cannot be made again from its configuration.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import make_plan
        >>> from spade_keras.pruning.rebuild import rebuild
        >>> inputs = keras.Input((None, None, 3))
        >>> x = keras.layers.Conv2D(8, 3, name="wide")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="last")(x))
        >>> slim = rebuild(model, make_plan(model, ratio=0.5))
        >>> slim.get_layer("wide").filters, model.get_layer("wide").filters
        (4, 8)
    """
    return rebuild_with(model, plan, keras.ops.convert_to_numpy)


def rebuild_with(model: Any, plan: Any, read: Read) -> Any:
    """`rebuild` with the weights' values taken from elsewhere.

    Args:
        model: The original model.
        plan: The plan.
        read: Gives the value of one of the original's variables.
    """
    if is_network(model):
        by_prior = split_plan(model, plan)
        return model.with_priors(
            {
                key: _Rebuild(analyze(prior), by_prior[key], read).model(prior)
                for key, prior in model.priors.items()
            }
        )
    analysis = analyze(model)
    return _Rebuild(analysis, check_plan(analysis, plan), read).model(model)


def copy_model(model: Any, *, open_layers: bool = False) -> Any:
    """A copy of a model with its weights, in which no variable is shared with the original.

    Unlike `keras.models.clone_model` it takes subclassed models and networks with `priors`.

    Args:
        model: A built Keras model, or a network with `priors`.
        open_layers: Composite layers become models of the layers inside them, each of which
            is then saved with a configuration of its own.

    Returns:
        A model of the kind that `rebuild` makes, or the network with copied priors.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import copy_model
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> copy = copy_model(model)
        >>> copy.count_params(), copy.layers[0] is model.layers[0]
        (8, False)
    """
    if is_network(model):
        return model.with_priors(
            {key: copy_model(prior, open_layers=open_layers) for key, prior in model.priors.items()}
        )
    return replay(model, analyze(model), open_layers=open_layers)


def replay(
    model: Any,
    analysis: Analysis,
    *,
    open_layers: bool = False,
    swaps: Mapping[int, Chain] | None = None,
) -> keras.Model:
    """Makes a model again at full width, call by call, from a graph that may lack calls.

    Args:
        model: The original model.
        analysis: Its analysis; of the graph, calls may have been left out.
        open_layers: See `copy_model`.
        swaps: What stands in place of a layer, by the id of the layer; whoever asks for it
            sets the weights and `trainable` of the new layers.
    """
    again = _Rebuild(analysis, {}, keras.ops.convert_to_numpy)
    again.open_layers = open_layers
    again.swaps = swaps or {}
    return again.model(model)


def check_plan(analysis: Analysis, plan: Any, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Kept channels per group, after the plan was compared with the model.

    Args:
        analysis: The labels of the model.
        plan: The plan.
        prefix: Only groups whose names start with it are read.

    Raises:
        PlanMismatchError: Names the first group that differs.
    """
    entries = [group for group in plan.groups if group.name.startswith(prefix)]
    planned = {group.name[len(prefix) :]: group for group in entries}
    for group in partition(analysis).groups:
        entry = planned.pop(group.name, None)
        if entry is None:
            continue
        name = prefix + group.name
        kept = np.asarray(entry.kept)
        if entry.width != group.width:
            raise PlanMismatchError(
                f"`plan` was made for another model: group {name!r} is {group.width} wide here. "
                f"Received: width={entry.width}. Make the plan again with `make_plan`."
            )
        if len(kept) == group.width:
            continue
        if group.fixed is not None:
            raise PlanMismatchError(
                f"`plan` removes channels of group {name!r}, which is fixed: {group.fixed}. "
                f"Received: {len(kept)} of {group.width} kept."
            )
        _check_kept(group, name, kept)
    if planned:
        raise PlanMismatchError(
            "`plan` was made for another model: this one has no group "
            f"{prefix + next(iter(planned))!r}. Its groups begin with: "
            f"{[prefix + group.name for group in partition(analysis).groups[:5]]}."
        )
    return {group.name[len(prefix) :]: tuple(group.kept) for group in entries}


def _check_kept(group: Any, name: str, kept: np.ndarray) -> None:
    if len(kept) == 0 or kept.min() < 0 or kept.max() >= group.width or (np.diff(kept) <= 0).any():
        raise PlanMismatchError(
            f"The kept channels of group {name!r} must be ascending and lie in "
            f"[0, {group.width}). Received: kept={tuple(kept[:8])}."
        )
    if group.blocks is not None:
        counts = np.bincount(group.blocks[kept], minlength=group.divisor)
        if (counts != counts[0]).any():
            raise PlanMismatchError(
                f"Group {name!r} stands in {group.divisor} blocks, each of which must keep "
                f"equally many channels. Received: {counts[:8].tolist()} kept per block."
            )


def split_plan(network: Any, plan: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """Kept channels per prior of a network and group.

    Args:
        network: A network with `priors`.
        plan: A plan whose group names start with the prior's key.
    """
    for group in plan.groups:
        if group.name.split("/", 1)[0] not in network.priors:
            raise PlanMismatchError(
                f"`plan` was made for another model: {group.name!r} belongs to none of the "
                f"priors {list(network.priors)}."
            )
    return {
        key: check_plan(analyze(prior), plan, prefix=f"{key}/")
        for key, prior in network.priors.items()
    }


class _Rebuild:
    """One rebuild: the new layers made so far."""

    def __init__(self, analysis: Analysis, kept: dict[str, tuple[int, ...]], read: Read) -> None:
        self.analysis = analysis
        self.narrowing = Narrowing(analysis, kept, read)
        self.made: dict[int, tuple[Any, Any]] = {}
        self.whole: set[int] = set()
        self.open_layers = False
        self.swaps: Mapping[int, Chain] = {}

    def model(self, model: Any) -> Any:
        """The slim version of a whole model."""
        graph = self.analysis.graph
        slim = self._nested(model, graph)
        self._copy_flags(model, slim, graph)
        for original, made in self.made.values():
            if isinstance(original, keras.layers.Layer) and self._is_leaf(original):
                copy_state(original, made, self.narrowing.value)
        return slim

    def _is_leaf(self, operation: Any) -> bool:
        if id(operation) in self.swaps:
            return False
        return self.analysis.rules.get(id(operation)) is not None or id(operation) in self.whole

    def _nested(self, operation: Any, graph: Graph) -> Any:
        """The new model of a graph."""
        inputs = [self._input(tensor) for tensor in graph.inputs]
        if isinstance(operation, keras.Sequential):
            calls = {id(call.operation): call for call in graph.calls}
            layers: list[Any] = []
            for x in operation.layers:
                if id(x) in calls:
                    made = self._operation(graph, calls[id(x)])
                    layers += made.layers if isinstance(made, Chain) else [made]
            return keras.Sequential([inputs[0], *layers], name=operation.name)
        tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            self._replay(graph, call, tensors)
        given = keras.tree.map_structure(lambda x: tensors[id(x)], graph.input_struct)
        answer = keras.tree.map_structure(lambda x: tensors[id(x)], graph.output_struct)
        kind = type(operation) if takes_inputs_and_outputs(operation) else keras.Model
        return kind(given, answer, name=operation.name)

    def _input(self, tensor: Any) -> Any:
        source = tensor._keras_history.operation
        return keras.Input(
            batch_shape=self.narrowing.shape(tensor),
            dtype=tensor.dtype,
            name=source.name,
            sparse=tensor.sparse,
            optional=getattr(source, "optional", False),
        )

    def _replay(self, graph: Graph, call: Call, tensors: dict[int, Any]) -> None:
        """Calls the new operation as the old one was called."""
        operation = self._operation(graph, call)
        nested = graph.nested.get(id(call.operation))
        if nested is not None and nested.traced and id(call.operation) not in self.whole:
            flat = [tensors[id(tensor)] for tensor in call.inputs]
            results = operation(keras.tree.pack_sequence_as(nested.input_struct, flat))
        else:
            args, kwargs = call.args, call.kwargs
            rule = self.analysis.rules[id(call.operation)]
            if rule is not None:
                args, kwargs = rule.arguments(args, kwargs, self._change(call))
            results = operation(*_fill(args, tensors), **_fill(kwargs, tensors))
        for old, new in zip(call.outputs, keras.tree.flatten(results), strict=True):
            tensors[id(old)] = new

    def _operation(self, graph: Graph, call: Call) -> Any:
        """The new operation, made at its first call."""
        original = call.operation
        known = self.made.get(id(original))
        if known is not None:
            return known[1]
        nested = graph.nested.get(id(original))
        if id(original) in self.swaps:
            made = self.swaps[id(original)]
        elif nested is not None:
            made = self._again(original, nested) or self._nested(original, nested)
        else:
            made = self._resize(call)
        self.made[id(original)] = (original, made)
        return made

    def _again(self, original: Any, graph: Graph) -> Any:
        """A composite layer made again as it is, or None where the plan reaches into it."""
        if not graph.traced or graph.opened or self.open_layers:
            return None
        if any(id(layer) in self.swaps for layer in original._flatten_layers()):
            return None
        if not self.narrowing.spares(graph, original.variables):
            return None
        try:
            made = type(original).from_config(original.get_config())
        except (NotImplementedError, TypeError, ValueError):
            return None
        self.whole.add(id(original))
        return made

    def _resize(self, call: Call) -> Any:
        rule = self.analysis.rules[id(call.operation)]
        assert rule is not None
        try:
            return rule.resize(self._change(call))
        except Exception as error:
            path = self.analysis.paths[id(call.operation)]
            raise RebuildError(
                f"Layer {path!r} ({type(call.operation).__name__}) cannot be made again from its "
                f"configuration: {error} Give it a `get_config`, or teach the pruner with "
                "`spade_keras.pruning.register_channel_rule`."
            ) from error

    def _change(self, call: Call) -> Change:
        narrowing = self.narrowing
        tensors = {"inputs": call.inputs, "outputs": call.outputs}
        return Change(
            operation=call.operation,
            inputs=[(tuple(x.shape), narrowing.shape(x)) for x in call.inputs],
            outputs=[(tuple(x.shape), narrowing.shape(x)) for x in call.outputs],
            new_shape=narrowing.new_shape,
            kept=lambda index, axis, side="inputs": narrowing.kept(tensors[side][index], axis),
        )

    def _copy_flags(self, original: Any, made: Any, graph: Graph) -> None:
        """Sets `trainable` from the outside in, for it spreads to inner layers when set."""
        if made.trainable != original.trainable:
            made.trainable = original.trainable
        for call in graph.calls:
            inner = call.operation
            if isinstance(inner, keras.layers.Layer) and id(inner) not in self.swaps:
                nested = graph.nested.get(id(inner))
                slim = self.made[id(inner)][1]
                if id(inner) in self.whole:
                    for old, new in zip(
                        inner._flatten_layers(), slim._flatten_layers(), strict=True
                    ):
                        if new.trainable != old.trainable:
                            new.trainable = old.trainable
                elif nested is not None:
                    self._copy_flags(inner, slim, nested)
                elif slim.trainable != inner.trainable:
                    slim.trainable = inner.trainable


def copy_state(original: Any, made: Any, value: Read) -> None:
    """Gives a new layer the kept weights, random states and initializers of the original.

    Args:
        original: The original layer.
        made: The new layer, built.
        value: The kept part of a variable of the original.

    Raises:
        RebuildError: The new layer has other weights than the original.
    """
    old, new = _variables(original), _variables(made)
    if len(old) != len(new):
        raise RebuildError(
            f"Layer {original.name!r} ({type(original).__name__}) has {len(old)} variables, but "
            f"made again from its configuration it has {len(new)}."
        )
    for source, target in zip(old, new, strict=True):
        array = value(source)
        if tuple(target.shape) != array.shape:
            raise RebuildError(
                f"{source.path} should become {array.shape}, but layer {original.name!r} made "
                f"again from its configuration has {tuple(target.shape)}."
            )
        if array.dtype.kind == "f" and np.isnan(array.sum()):
            raise RebuildError(
                f"`model` must not have NaN among its weights. Received: NaN in {source.path}."
            )
        target.assign(array)
        if target.trainable != source.trainable:
            target.trainable = source.trainable
    restore_initializers(original, made)


def _variables(layer: Any) -> list[Any]:
    """Variables of a layer and the states of stateful recurrent ones, which Keras leaves out."""
    states = [
        state
        for inner in layer._flatten_layers()
        for state in keras.tree.flatten(getattr(inner, "states", None) or [])
        if isinstance(state, keras.Variable)
    ]
    return [*layer.variables, *states]


def _fill(arguments: Any, tensors: dict[int, Any]) -> Any:
    if isinstance(arguments, tuple) and len(arguments) == 1:
        single = tensors.get(id(arguments[0]))
        if single is not None:
            return (single,)
    if not arguments:
        return arguments
    return keras.tree.map_structure(
        lambda x: tensors[id(x)] if isinstance(x, keras.KerasTensor) else x, arguments
    )
