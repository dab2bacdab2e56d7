"""From a configuration to the network that has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import keras

from spade_keras import pruning
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import Graph
from spade_keras.pruning.importance import ImportanceFunction, find_importance
from spade_keras.pruning.parts import iterations_of, map_parts, parts_of
from spade_keras.search.space import Configuration

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def plan_for(
    network: keras.Model,
    configuration: Configuration,
    *,
    importance: str | ImportanceFunction = "group_l1",
    calibration: pruning.Calibration | None = None,
) -> pruning.PruningPlan:
    """Plans the blocks, widths and ranks of a configuration, for `realize`.

    Entries for layers that are gone with a dropped block, or with an iteration that had its own
    prior, are ignored. The plan is made for the network at the iterations of the configuration;
    `importance` decides which channels are kept; with a calibration of the network the plan states
    the errors of the readers that lose some.

    Raises:
        ValueError: If a name or number does not fit the network.
    """
    builder = CandidateBuilder(network, importance=importance, calibration=calibration)
    return builder.plan(configuration)


def build(
    network: keras.Model,
    configuration: Configuration,
    *,
    importance: str | ImportanceFunction = "group_l1",
) -> keras.Model:
    """Builds the network of a configuration; see `plan_for`."""
    return CandidateBuilder(network, importance=importance)(configuration)


def realize(
    network: keras.Model,
    configuration: Configuration,
    plan: pruning.PruningPlan,
    calibration: pruning.Calibration | None = None,
    *,
    sequential: bool = True,
) -> keras.Model:
    """Builds the network of a configuration by the plan that was made for it.

    With a calibration of the network, readers are refitted (see `pruning.rebuild`), else cut.
    """
    base = _shorten(network, configuration.iterations)
    slim = pruning.rebuild(base, plan, calibration=calibration, sequential=sequential)
    return in_dtype(slim, configuration.dtype)


class CandidateBuilder:
    """Builds many candidates of one network, analyzing each depth once.

    With a calibration, readers are refitted in closed form.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        importance: str | ImportanceFunction = "group_l1",
        calibration: pruning.Calibration | None = None,
    ) -> None:
        self.network = network
        self.importance = find_importance(importance, calibration)
        self.calibration = calibration
        self._depth: tuple[Any, tuple[pruning.PruningPlan | None, keras.Model]] | None = None

    def __call__(self, configuration: Configuration) -> keras.Model:
        """Returns the network of a configuration."""
        _, base = self._at_depth(configuration)
        slim = self._narrowed(base, self._plan_widths(configuration, base))
        if ranks := _cheaper(slim, configuration.ranks):
            slim = pruning.rebuild(slim, pruning.plan_ranks(slim, ranks))
        return in_dtype(slim, configuration.dtype)

    def plan(self, configuration: Configuration) -> pruning.PruningPlan:
        """Returns the plan of a configuration; with a calibration it states the readers' errors."""
        blocks, base = self._at_depth(configuration)
        plan = self._plan_widths(configuration, base, self.calibration)
        if configuration.ranks:
            slim = self._narrowed(base, plan)
            if ranks := _cheaper(slim, configuration.ranks):
                plan = plan.then(pruning.plan_ranks(slim, ranks))
        return plan if blocks is None else blocks.then(plan)

    def _plan_widths(
        self,
        configuration: Configuration,
        base: keras.Model,
        calibration: pruning.Calibration | None = None,
    ) -> pruning.PruningPlan:
        widths = self.canonical(configuration).widths
        return pruning.make_plan(
            base, widths=widths, importance=self.importance, calibration=calibration
        )

    def _narrowed(self, base: keras.Model, plan: pruning.PruningPlan) -> keras.Model:
        return pruning.rebuild(base, plan, calibration=self.calibration, sequential=False)

    def canonical(self, configuration: Configuration) -> Configuration:
        """Leaves out the widths of groups that are gone with a dropped block or iteration.

        Configurations that differ in those alone are the same network.
        """
        shared = len(parts_of(self.network)) < 2
        if not configuration.dropped and (shared or configuration.iterations is None):
            return configuration
        _, base = self._at_depth(configuration)
        names = {group.name for group in pruning.find_groups(base)}
        widths = {g: width for g, width in configuration.widths.items() if g in names}
        return replace(configuration, widths=widths)

    def _at_depth(
        self, configuration: Configuration
    ) -> tuple[pruning.PruningPlan | None, keras.Model]:
        """The blocks of a configuration, and the network without them; the last one is kept."""
        depth = (configuration.iterations, configuration.dropped)
        if depth in ((None, ()), (iterations_of(self.network), ())):
            return None, self.network
        if self._depth is None or self._depth[0] != depth:
            plan, base = None, _shorten(self.network, configuration.iterations)
            gone = parts_of(self.network).keys() - parts_of(base).keys()
            names = [x for x in configuration.dropped if x.partition("/")[0] not in gone]
            if names:
                plan = pruning.drop_blocks(base, names)
                base = pruning.rebuild(base, plan)
            self._depth = (depth, (plan, base))
        return self._depth[1]


def with_dtype(model: Any, dtype: str) -> Any:
    """Copies a model so that it computes in another dtype; its weights and outputs are float32.

    The layers that make the outputs compute in float32, as Keras advises for mixed precision:
    a softmax keeps its precision, and the image that a global skip adds to a residual is not
    rounded. Composite layers become models of the layers inside them, each of which is saved
    with its dtype.

    Args:
        model: A built Keras model, not quantized, or a network with `priors`: then these change.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        A model of the kind that `spade_keras.pruning.rebuild` makes, with copied weights.

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
        >>> model = with_dtype(keras.Sequential(layers), "bfloat16")
        >>> [layer.compute_dtype for layer in model.layers], model.layers[0].kernel.dtype
        (['bfloat16', 'float32'], 'float32')
    """
    if dtype not in _POLICIES:
        raise ValueError(f"`dtype` must be one of {list(_POLICIES)}. Received: dtype={dtype!r}")
    return map_parts(model, lambda _, part: _with_policy(part, dtype))


def in_dtype(model: Any, dtype: str | None) -> Any:
    """Returns the model itself for None; see `with_dtype`."""
    return model if dtype is None else with_dtype(model, dtype)


def _with_policy(model: keras.Model, dtype: str) -> keras.Model:
    for layer in model._flatten_layers():
        if layer.quantization_mode is not None:
            raise ValueError(
                f"`model` must not be quantized. Received: layer {layer.path!r} with the policy "
                f"{layer.dtype_policy.name!r}. Choose its dtype before you quantize it."
            )
    copy = pruning.copy_model(model, open_layers=True)
    for layer in copy._flatten_layers():
        # The inputs of a model keep the dtype they were declared with.
        if not isinstance(layer, keras.Model | keras.layers.InputLayer):
            layer.dtype_policy = _POLICIES[dtype]
    for layer in _output_layers(analyze(copy).graph):
        for inner in layer._flatten_layers():
            inner.dtype_policy = _POLICIES["float32"]
    # The graph of the copy still has the dtypes of the original; copying traces it again.
    return pruning.copy_model(copy)


def _output_layers(graph: Graph) -> Iterator[keras.layers.Layer]:
    """The layers whose results are the outputs of a graph, looked for through operations."""
    calls = {id(x): call for call in graph.calls for x in call.outputs}
    waiting = list(graph.outputs)
    while waiting:
        call = calls.pop(id(waiting.pop()), None)
        if call is None:
            continue
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            yield from _output_layers(nested)
        elif isinstance(call.operation, keras.layers.Layer):
            yield call.operation
        else:
            waiting += call.inputs


def _shorten(network: keras.Model, iterations: int | None) -> Any:
    if iterations in (None, iterations_of(network)):
        return network
    return network.with_iterations(iterations)


def _cheaper(slim: keras.Model, ranks: Mapping[str, int]) -> dict[str, int]:
    """The ranks of layers that are there and narrow enough for a pair to be cheaper."""
    there = {group.name: group for group in pruning.find_rank_groups(slim)} if ranks else {}
    return {
        name: rank
        for name, rank in ranks.items()
        if name in there and not there[name].fixed and rank < there[name].break_even
    }
