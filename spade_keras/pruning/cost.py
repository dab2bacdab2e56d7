"""Parameters and multiply-accumulates: of a model, and as functions of its groups' widths."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from spade_keras.errors import OpenSizesError
from spade_keras.pruning.graph.forward_pass import ShapedCall, input_specs, layer_calls
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group
from spade_keras.pruning.mac_rules import Term, call_terms
from spade_keras.pruning.parts import is_network, part_inputs


@dataclass(frozen=True)
class MacReport:
    """Multiply-accumulates of one forward pass.

    `layers` holds them by path, all calls of a layer summed up; `uncounted` the paths of layers
    without a rule, whose work is not in `total`; `note` says what else the count leaves out.
    """

    total: int
    layers: dict[str, int]
    uncounted: tuple[str, ...]
    note: str


_ELEMENTWISE = "Norms, activations, pooling and other elementwise work count as zero."
_NETWORK = "Only the priors are counted: FFTs and other parts of the physics are not."
_Work = list[tuple[str, list[Term] | None]]
_known_work: weakref.WeakKeyDictionary[Any, dict[Any, _Work]] = weakref.WeakKeyDictionary()


def count_parameters(model: Any) -> int:
    """Counts the numbers a model stores, moving statistics included.

    Shared weights count once. The model, or network, must be built.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> count_parameters(model)
        8
    """
    check_built(model)
    return sum(math.prod(weight.shape) for weight in model.weights)


def count_macs(model: Any, inputs: Any = None) -> MacReport:
    """Counts the multiply-accumulates of one forward pass.

    Products with kernels and between tensors are counted (convolutions, dense and recurrent
    layers, attention, `Dot`, `matmul`, `einsum`), as in published tables.

    Inputs, arrays or shapes, are needed for networks with `priors`, and where the shapes that the
    model declares leave sizes open. A batch of unknown size counts as one sample.

    Raises:
        OpenSizesError: Sizes stay unknown.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3)])
        >>> count_macs(model).total
        2592
    """
    layers: dict[str, int] = {}
    uncounted: dict[str, None] = {}
    for path, terms in _work_of(model, inputs):
        if terms is None:
            uncounted[path] = None
        else:
            layers[path] = layers.get(path, 0) + sum(term.macs() for term in terms)
    note = f"{_ELEMENTWISE} {_NETWORK}" if is_network(model) else _ELEMENTWISE
    return MacReport(sum(layers.values()), layers, tuple(uncounted), note)


def macs_by_layer(model: Any, inputs: Any = None) -> dict[str, int] | None:
    """Returns the multiply-accumulates per layer path; None where sizes are open without inputs."""
    try:
        return count_macs(model, inputs).layers
    except OpenSizesError:
        if inputs is not None:
            raise
        return None


class PlanCost:
    """Parameters and multiply-accumulates of a model as functions of its groups' widths.

    They follow from the shapes of weights alone; no model is built. `macs` is None where `inputs`
    are None and the shapes that the model declares leave sizes open.
    """

    def __init__(
        self, model: Any, groups: Sequence[Group], weights: WeightTable, inputs: Any = None
    ) -> None:
        self.parameters = count_parameters(model)
        self._groups = groups
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._cuts: dict[str, dict[tuple[int, int], int]] = {}
        for group in groups:
            cuts = self._cuts.setdefault(group.name, {})
            for slot in group.slots:
                variable = weights.variable(slot)
                self._shapes[id(variable)] = tuple(variable.shape)
                key = (id(variable), slot.axis)
                cuts[key] = cuts.get(key, 0) + slot.positions.shape[1]
        layers = macs_by_layer(model, inputs)
        self.macs = None if layers is None else sum(layers.values())
        self._terms: dict[int, list[Term]] = {}
        for _, terms in () if layers is None else _work_of(model, inputs):
            for term in terms or ():
                self._terms.setdefault(id(term.variable), []).append(term)

    def savings(self, widths: Mapping[str, int]) -> list[tuple[int, int | None]]:
        """Returns what each group saves on top of those before it; groups not named keep all."""
        shapes = dict(self._shapes)
        return [
            self._narrow(group, group.width - widths.get(group.name, group.width), shapes)
            for group in self._groups
        ]

    def total(self, widths: Mapping[str, int]) -> tuple[int, int | None]:
        """Parameters and multiply-accumulates that stay with these widths."""
        savings = self.savings(widths)
        parameters = self.parameters - sum(saved for saved, _ in savings)
        if self.macs is None:
            return parameters, None
        return parameters, self.macs - sum(saved or 0 for _, saved in savings)

    def _narrow(
        self, group: Group, removed: int, shapes: dict[int, tuple[int, ...]]
    ) -> tuple[int, int | None]:
        """The savings of a group; its weights' entries in `shapes` shrink."""
        parameters = macs = 0
        cuts = self._cuts[group.name] if removed else {}
        touched = {key for key, _ in cuts}
        before = {key: shapes[key] for key in touched}
        for (key, axis), positions in cuts.items():
            shape = list(shapes[key])
            shape[axis] -= removed * positions
            shapes[key] = tuple(shape)
        for key in touched:
            parameters += math.prod(before[key]) - math.prod(shapes[key])
            for term in self._terms.get(key, ()):
                macs += term.macs(before[key]) - term.macs(shapes[key])
        return parameters, None if self.macs is None else macs


def check_built(model: Any) -> None:
    """Raises a ValueError if a model or one of its layers has no weights yet."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"`model` must be a Keras model. Received: model={model!r} of type "
            f"{type(model).__name__}."
        )
    # Parts of a layer that are never called may stay unbuilt.
    parts = [model, *getattr(model, "layers", ())]
    unbuilt = [layer.name for layer in parts if not layer.built]
    if unbuilt:
        raise ValueError(
            f"`model` must be built. Received: model={model.name!r} with unbuilt {unbuilt[:5]}. "
            "Call it on an input once."
        )


def _work_of(model: Any, inputs: Any) -> _Work:
    """The terms of every call by layer path, None without a rule; kept per part and shapes."""
    check_built(model)
    work: _Work = []
    for prefix, part, given in list(part_inputs(model, inputs)):
        known = _known_work.setdefault(part, {})
        key = tuple(tuple(x.shape) for x in input_specs(part, given))
        if key not in known:
            known[key] = [(x.path, _terms_of(x, given)) for x in layer_calls(part, given)]
        work += [(prefix + path, terms) for path, terms in known[key]]
    return work


def _terms_of(call: ShapedCall, inputs: Any) -> list[Term] | None:
    try:
        return call_terms(call)
    except TypeError as error:
        shapes = [x.shape for x in call.inputs]
        if not any(None in shape for shape in shapes):
            raise
        raise OpenSizesError(
            "`inputs` must give the sizes that the model leaves open. Received: "
            f"inputs={inputs}, which leaves {call.path!r} with input shapes {shapes}. "
            "Pass a shape such as (1, 128, 128, 2)."
        ) from error
