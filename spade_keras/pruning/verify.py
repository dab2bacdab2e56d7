"""Proof that a plan's slim model computes what the masked original computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from spade_keras.errors import VerificationError
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.narrowing import Read
from spade_keras.pruning.graph.partition import partition
from spade_keras.pruning.graph.trace import Call, trace
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.proof.randomization import (
    LayerwiseScaling,
    Values,
    random_inputs,
    random_values,
    spread,
)
from spade_keras.pruning.proof.reference import Replay, masked_values
from spade_keras.pruning.rebuild import check_plan, rebuild_with

_SMALLEST_STD = 1e-2


@dataclass(frozen=True)
class VerificationReport:
    """How far the slim model is from the masked original.

    Args:
        errors: Largest absolute difference over the spread, by tensor: the outputs (logits
            where a softmax ends the model) and one tensor inside.
        stds: Standard deviation of each of these tensors over all its elements.
        spreads: Standard deviation from sample to sample, which is what the input causes.
        tolerance: The largest error that passes.
        parameters: Parameters of the model (of a network: of its priors).
        slim_parameters: Parameters of the slim model.
    """

    errors: dict[str, float] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    tolerance: float = 1e-3
    parameters: int = 0
    slim_parameters: int = 0

    @property
    def largest_error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())

    def check(self) -> VerificationReport:
        """Returns the report itself.

        Raises:
            VerificationError: An error is above the tolerance or not a number, or a tensor
                hardly varies, so that the comparison proves nothing.
        """
        for name, error in self.errors.items():
            std, spread = self.stds[name], self.spreads[name]
            if not (std > _SMALLEST_STD and spread > _SMALLEST_STD * std):
                raise VerificationError(
                    f"The check of {name!r} proves nothing: its standard deviation is {std:.2g}, "
                    f"{spread:.2g} of it from sample to sample. Above {_SMALLEST_STD}, and that "
                    "share of it, are needed. Pass other `inputs` or `randomize=True`."
                )
            if not error <= self.tolerance:
                raise VerificationError(
                    f"The slim model differs from the masked original at {name!r}: relative "
                    f"error {error:.3g}, allowed {self.tolerance:.3g}. Received: "
                    f"errors={self.errors}."
                )
        return self


def verify_plan(
    model: Any,
    plan: Any,
    inputs: Any = None,
    *,
    randomize: bool = True,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> VerificationReport:
    """Compares the slim model of a plan with the original whose removed channels are masked.

    The original is not touched: weights are replaced for the duration of a call.

    Args:
        model: The model of the plan, or a network with `priors`, each of which is checked.
        plan: The plan.
        inputs: Example inputs of the model in the structure it takes; for a network a dict
            with one entry per prior. None draws them.
        randomize: Draws every weight, bias, scale and statistic anew for the check. With the
            trained or initial weights a wrong plan can pass.
        tolerance: Largest difference allowed, relative to the tensor's standard deviation.
        seed: Seed of the draws.

    Returns:
        The errors by tensor.

    Raises:
        VerificationError: The two differ, or the check is blind.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import make_plan
        >>> from spade_keras.pruning.verify import verify_plan
        >>> layers = [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)]
        >>> model = keras.Sequential(layers)
        >>> verify_plan(model, make_plan(model, ratio=0.5)).largest_error < 1e-3
        True
    """
    report = measure_difference(
        model, plan, plan, inputs, randomize=randomize, tolerance=tolerance, seed=seed
    )
    return report.check()


def measure_difference(
    model: Any,
    plan: Any,
    slim_plan: Any,
    inputs: Any = None,
    *,
    randomize: bool = True,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> VerificationReport:
    """The differences that `verify_plan` judges, with the slim model of another plan.

    Two plans that differ in one kept channel must give a large difference: this is how the
    check itself is checked.

    Args:
        model: The model of both plans.
        plan: The plan the original is masked by.
        slim_plan: The plan the slim model is made from.
        inputs: See `verify_plan`.
        randomize: See `verify_plan`.
        tolerance: See `verify_plan`.
        seed: See `verify_plan`.
    """
    if not is_network(model):
        checked = _Check(model, check_plan(analyze(model), plan), randomize, seed)
        return checked.report(slim_plan, inputs, tolerance)
    errors: dict[str, float] = {}
    stds: dict[str, float] = {}
    spreads: dict[str, float] = {}
    counts = [0, 0]
    for key, prior in model.priors.items():
        prefix = f"{key}/"
        kept = check_plan(analyze(prior), plan, prefix)
        given = None if inputs is None else inputs[key]
        part = _PriorPlan.of(slim_plan, prefix)
        report = _Check(prior, kept, randomize, seed).report(part, given, tolerance)
        errors |= {prefix + name: error for name, error in report.errors.items()}
        stds |= {prefix + name: std for name, std in report.stds.items()}
        spreads |= {prefix + name: value for name, value in report.spreads.items()}
        counts = [counts[0] + report.parameters, counts[1] + report.slim_parameters]
    return VerificationReport(errors, stds, spreads, tolerance, *counts)


@dataclass(frozen=True)
class _PriorPlan:
    """The groups of one prior in a plan over a network."""

    groups: tuple[Any, ...]

    @classmethod
    def of(cls, plan: Any, prefix: str) -> _PriorPlan:
        groups = []
        for group in plan.groups:
            if group.name.startswith(prefix):
                groups.append(_PriorGroup(group.name[len(prefix) :], group.width, group.kept))
        return cls(tuple(groups))


@dataclass(frozen=True)
class _PriorGroup:
    name: str
    width: int
    kept: tuple[int, ...]


class _Check:
    """The masked original of one model, ready to be compared with slim ones."""

    def __init__(
        self, model: Any, kept: Mapping[str, tuple[int, ...]], randomize: bool, seed: int
    ) -> None:
        self.model = model
        self.analysis: Analysis = analyze(model)
        self.groups = partition(self.analysis)
        self.kept = kept
        self.alive = self.groups.alive(kept)
        self.seed = seed
        self.randomize = randomize
        drawn = random_values(model.variables, self.analysis, seed) if randomize else {}
        self.values: Values = {
            id(v): drawn[id(v)] if id(v) in drawn else keras.ops.convert_to_numpy(v)
            for v in model.variables
        }
        self.read: Read = keras.ops.convert_to_numpy

    def report(self, slim_plan: Any, inputs: Any, tolerance: float) -> VerificationReport:
        graph = self.analysis.graph
        arrays = random_inputs(graph, self.seed) if inputs is None else keras.tree.flatten(inputs)
        tensors = [
            keras.ops.convert_to_tensor(array, dtype=x.dtype)
            for array, x in zip(arrays, graph.inputs, strict=True)
        ]
        inside = self._inside()
        wanted: dict[str, np.ndarray] = {}
        found: dict[str, np.ndarray] = {}
        masked = masked_values(self.analysis, self.groups, self.kept, self.values)
        keeper = _keeper(inside, wanted)
        values = dict(self.values)
        scaling = LayerwiseScaling(values) if self.randomize else None
        replay = Replay(masked, keeper, self.analysis, self.alive, scaling)
        outputs = replay.run(graph, tensors, self.model.variables)
        slim = rebuild_with(
            self.model, slim_plan, lambda v: values[id(v)] if id(v) in values else self.read(v)
        )
        if inside is not None:
            labels = self.analysis.labels[id(inside.outputs[0])]
            wanted = {key: replay._cut(value, labels) for key, value in wanted.items()}
        slim_outputs = Replay(None, _keeper(inside, found)).run(trace(slim), tensors, [])
        for x, old, new in zip(graph.outputs, outputs, slim_outputs, strict=True):
            name = self.analysis.paths.get(id(x._keras_history.operation), x.name)
            name = name if name not in wanted else f"{name} (output {len(wanted)})"
            wanted[name] = keras.ops.convert_to_numpy(old)
            found[name] = keras.ops.convert_to_numpy(new)
        errors: dict[str, float] = {}
        stds: dict[str, float] = {}
        spreads: dict[str, float] = {}
        for name, value in wanted.items():
            value = np.asarray(value, dtype=np.float64)
            stds[name] = float(value.std())
            spreads[name] = spread(value)
            errors[name] = _relative_error(value, found[name], spreads[name])
        counts = self.model.count_params(), slim.count_params()
        return VerificationReport(errors, stds, spreads, tolerance, *counts)

    def _inside(self) -> Call | None:
        """The call in the middle of those that make channels and lose some of them."""
        slots = self.analysis.store.slots
        makers = {id(record.layer) for record in slots if record.role == "producer"}
        narrowed = [
            call
            for call in self.analysis.graph.calls
            if len(call.outputs) == 1
            and id(call.operation) in makers
            and not self.alive[self.analysis.labels[id(call.outputs[0])]].all()
            and "float" in str(call.outputs[0].dtype)
        ]
        return narrowed[len(narrowed) // 2] if narrowed else None


def _relative_error(wanted: np.ndarray, found: np.ndarray, scale: float) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    difference = np.abs(wanted - np.asarray(found, dtype=np.float64)).max()
    return float(difference / max(scale, 1e-30))


def _keeper(inside: Call | None, kept: dict[str, np.ndarray]) -> Any:
    """Keeps the output of the first call of one layer, found by its name."""

    def watch(call: Call, results: list[Any]) -> None:
        if inside is None or inside.operation.name in kept:
            return
        if call.operation.name == inside.operation.name:
            value = keras.ops.convert_to_numpy(results[0])
            kept[inside.operation.name] = np.asarray(value)

    return watch
