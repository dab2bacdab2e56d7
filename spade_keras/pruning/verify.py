"""Proof that a slim model is what its plan says, independent of the code that builds it.

Every step is compared with the original whose weights or tensors are changed in place:

    channels  zeroed where they are summed over
    blocks    the branch zeroed where it is added
    ranks     W = sum over kept i of s_i sigma_i u_i v_i^T, from a full SVD
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from spade_keras.errors import VerificationError
from spade_keras.pruning.basis.rank_groups import leaf_calls, to_kernel, to_matrix
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.branches import find_branches
from spade_keras.pruning.graph.partition import partition, read_from
from spade_keras.pruning.graph.trace import Call, Graph, trace
from spade_keras.pruning.parts import own_names, parts_of, prefix_of
from spade_keras.pruning.plan import BlockStep, LayerRank, PruningPlan, RankStep, Step
from spade_keras.pruning.proof.randomization import (
    LayerwiseScaling,
    Values,
    random_inputs,
    random_values,
    spread,
)
from spade_keras.pruning.proof.reference import Replay, masked_values, to_numpy
from spade_keras.pruning.rebuild import apply_step, check_step

_SMALLEST_STD = 1e-2


@dataclass(frozen=True)
class VerificationReport:
    """How far the slim model is from the original changed in place.

    Args:
        errors: Largest absolute difference over the spread, by tensor: the outputs (logits
            where a softmax ends the model) and, for channels, one tensor inside.
        stds: Standard deviation of each of these tensors over all its elements.
        spreads: Standard deviation from sample to sample, which the input causes.
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
    plan: PruningPlan,
    inputs: Any = None,
    *,
    randomize: bool = True,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> VerificationReport:
    """Checks every step of a plan on the model that the steps before it leave.

    The original is not touched: weights are replaced for the duration of a call.

    Args:
        model: The model of the plan, or a network with `priors`, each of which is checked.
        plan: The plan.
        inputs: Example inputs of the model in the structure it takes; for a network a dict
            with one entry per prior. None draws them.
        randomize: Draws every weight, bias, scale and statistic for the check. With the
            trained or initial weights a wrong plan can pass.
        tolerance: Largest difference allowed, relative to the tensor's standard deviation.
        seed: Seed of the draws.

    Returns:
        The errors by tensor; in plans of several steps the names begin with the step.

    Raises:
        VerificationError: The two differ, or the check is blind.
        PlanMismatchError: A step was made for another model.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import make_plan, verify_plan
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
    plan: PruningPlan,
    slim_plan: PruningPlan,
    inputs: Any = None,
    *,
    randomize: bool = True,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> VerificationReport:
    """Measures the differences that `verify_plan` judges, with the slim model of another plan.

    Two plans that differ in one kept channel, block or component must give a large difference:
    that tests the check itself.

    Args as in `verify_plan`; `plan` masks the original, `slim_plan` makes the slim model.
    """
    whole = VerificationReport(tolerance=tolerance, parameters=_size(model))
    steps = list(zip(plan.steps, slim_plan.steps, strict=True))
    for number, (step, slim_step) in enumerate(steps, start=1):
        found, slim = _compare(model, step, slim_step, inputs, randomize, seed)
        start = f"step {number}: " if len(steps) > 1 else ""
        for name, (old, new) in found.items():
            whole.stds[start + name] = float(old.std())
            whole.spreads[start + name] = spread(old)
            whole.errors[start + name] = _relative_error(old, new, spread(old))
        if number < len(steps):
            model = apply_step(model, step)
    return replace(whole, slim_parameters=_size(slim))


def _size(model: Any) -> int:
    return sum(part.count_params() for part in parts_of(model).values())


def _relative_error(wanted: np.ndarray, found: np.ndarray, scale: float) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    difference = np.abs(wanted - np.asarray(found, dtype=np.float64)).max()
    return float(difference / max(scale, 1e-30))


def _compare(
    model: Any, step: Step, slim_step: Step, inputs: Any, randomize: bool, seed: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], Any]:
    """The tensors of the masked original and of the slim model, by name; and the slim model."""
    kept = check_step(model, step)
    checks: dict[str, _Check] = {}
    values: Values = {}
    for key, part in parts_of(model).items():
        given = inputs[key] if key and inputs is not None else inputs
        check = checks[key] = _Check(part, step, key, kept[key])
        values |= check.mask(given, randomize, seed)
    slim = apply_step(model, slim_step, read_from(values))
    found = {}
    for key, part in parts_of(slim).items():
        for name, pair in checks[key].compare(part).items():
            found[prefix_of(key) + name] = pair
    return found, slim


class _Check:
    """One part of a model, changed in place as a step says, to compare slim ones with."""

    def __init__(
        self, part: keras.Model, step: Step, key: str, kept: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.part = part
        self.analysis: Analysis = analyze(part)
        self.groups = partition(self.analysis)
        self.kept = kept
        self.alive = self.groups.alive(kept)
        self.ranks: dict[str, LayerRank] = {}
        self.ends: dict[int, Any] = {}
        if isinstance(step, RankStep):
            self.ranks = own_names({layer.name: layer for layer in step.layers}, key)
        if isinstance(step, BlockStep):
            branches = find_branches(self.analysis)
            self.ends = _ends(branches[x] for x in own_names(dict.fromkeys(step.dropped), key))
        self.wanted: dict[str, np.ndarray] = {}

    def mask(self, inputs: Any, randomize: bool, seed: int) -> Values:
        """Runs the masked original; returns its weights."""
        graph, variables = self.analysis.graph, self.part.variables
        read = read_from(random_values(variables, self.analysis, seed) if randomize else {})
        values: Values = {id(v): read(v) for v in variables}
        arrays = random_inputs(graph, seed) if inputs is None else keras.tree.flatten(inputs)
        self.tensors = [
            keras.ops.convert_to_tensor(array, dtype=x.dtype)
            for array, x in zip(arrays, graph.inputs, strict=True)
        ]
        masked = masked_values(self.analysis, self.groups, self.kept, values)
        masked |= _approximated(self.analysis, self.ranks, values)
        self.inside = self._inside()
        replay = _WithoutBranches(
            masked,
            _keeper(self.inside, self.wanted),
            self.analysis,
            self.alive,
            LayerwiseScaling(values) if randomize else None,
        )
        replay.ends = self.ends
        outputs = replay.run(graph, self.tensors, variables)
        if self.inside is not None:
            labels = self.analysis.labels[id(self.inside.outputs[0])]
            self.wanted = {key: replay._cut(x, labels) for key, x in self.wanted.items()}
        self.outputs = [to_numpy(x) for x in outputs]
        return values

    def compare(self, slim: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The tensors of the masked original and those of a slim one, by name."""
        found: dict[str, np.ndarray] = {}
        outputs = Replay(None, _keeper(self.inside, found)).run(trace(slim), self.tensors, [])
        pairs = {name: (x, found[name]) for name, x in self.wanted.items()}
        for x, old, new in zip(self.analysis.graph.outputs, self.outputs, outputs, strict=True):
            name = self.analysis.paths.get(id(x._keras_history.operation), x.name)
            name = name if name not in pairs else f"{name} (output {len(pairs)})"
            pairs[name] = old, to_numpy(new)
        return {name: (np.asarray(old, np.float64), new) for name, (old, new) in pairs.items()}

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


class _WithoutBranches(Replay):
    """A replay in which the ends of some branches are zero, by the id of the addition."""

    ends: Mapping[int, Any]

    def _call(self, graph: Graph, call: Call, tensors: dict[int, Any]) -> list[Any]:
        end = self.ends.get(id(call))
        if end is not None:
            tensors = {**tensors, id(end): keras.ops.zeros_like(tensors[id(end)])}
        return super()._call(graph, call, tensors)


def _ends(branches: Any) -> dict[int, Any]:
    """The tensor that each branch adds, by the id of the addition."""
    return {
        id(branch.addition): next(x for x in branch.addition.inputs if x is not branch.skip)
        for branch in branches
    }


def _approximated(analysis: Analysis, entries: Mapping[str, LayerRank], values: Values) -> Values:
    """The kernels of layers as sums over their kept components."""
    made: Values = {}
    for call in leaf_calls(analysis.graph) if entries else ():
        layer = call.operation
        entry = entries.get(analysis.paths[id(layer)])
        if entry is None:
            continue
        blocks = to_matrix(layer, np.asarray(values[id(layer.kernel)], np.float64))
        scales = np.ones((len(blocks), len(entry.kept)))
        if entry.scales:
            scales = np.reshape(entry.scales, scales.shape)
        sums = np.zeros_like(blocks)
        for block, scale, target in zip(blocks, scales, sums, strict=True):
            u, sigma, v = np.linalg.svd(block, full_matrices=False)
            for s, i in zip(scale, entry.kept, strict=True):
                target += s * sigma[i] * np.outer(u[:, i], v[i])
        made[id(layer.kernel)] = to_kernel(layer, sums).astype(values[id(layer.kernel)].dtype)
    return made


def _keeper(inside: Call | None, kept: dict[str, np.ndarray]) -> Any:
    """Keeps the output of the first call of one layer, found by its name."""

    def watch(call: Call, results: list[Any]) -> None:
        if inside is None or inside.operation.name in kept:
            return
        if call.operation.name == inside.operation.name:
            kept[inside.operation.name] = to_numpy(results[0])

    return watch
