"""Proof that a slim model is what its plan says, independent of the code that builds it.

Every step is compared with the original whose weights or tensors are changed in place:

    channels  zeroed where they are summed over
    blocks    the branch zeroed where it is added
    ranks     W = sum over kept i of s_i sigma_i u_i v_i^T, from a full SVD
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from spade_keras.errors import VerificationError
from spade_keras.pruning import proof
from spade_keras.pruning.basis.rank_groups import leaf_calls, to_kernel, to_matrix
from spade_keras.pruning.graph.analysis import Analysis, analyze
from spade_keras.pruning.graph.branches import find_branches
from spade_keras.pruning.graph.partition import partition, read_from
from spade_keras.pruning.graph.trace import Call, trace
from spade_keras.pruning.parts import own_names, parts_of, prefix_of
from spade_keras.pruning.plan import BlockStep, PruningPlan, RankStep, Step
from spade_keras.pruning.rebuild import apply_step, check_step

_SMALLEST_STD = 1e-2
_Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class VerificationReport:
    """How far the slim model is from the original changed in place.

    The tensors compared are the outputs (logits where a softmax ends the model) and, for channels,
    one tensor inside; in plans of several steps their names begin with the step. An error is the
    largest absolute difference over the spread, the standard deviation from sample to sample,
    which the input causes; `stds` are those over all elements.
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
        """Returns the report, or raises `VerificationError`, also where a tensor hardly varies."""
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

    The original is not touched. With trained or initial weights a wrong plan can pass, so
    `randomize` draws every weight, bias, scale and statistic for the check. Inputs, for a network
    a dict with one entry per prior, are drawn where none are given. `tolerance` is the largest
    difference allowed, relative to a tensor's standard deviation.

    Raises:
        VerificationError: The two differ, or the check is blind.

    Example:
        >>> from spade_keras.pruning import make_plan
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
    """Measures what `verify_plan` judges, with the slim model of another plan.

    Plans that differ in one kept channel, block or component must give a large difference: that
    tests the check itself.
    """
    whole = VerificationReport(tolerance=tolerance, parameters=_parameters(model))
    steps = list(zip(plan.steps, slim_plan.steps, strict=True))
    for number, (step, slim_step) in enumerate(steps, start=1):
        found, slim = _compare(model, step, slim_step, inputs, randomize, seed)
        start = f"step {number}: " if len(steps) > 1 else ""
        for name, (old, new) in found.items():
            whole.stds[start + name] = float(old.std())
            whole.spreads[start + name] = proof.spread(old)
            worst = np.abs(old - new).max() if old.shape == new.shape else np.inf
            whole.errors[start + name] = float(worst / max(proof.spread(old), 1e-30))
        if number < len(steps):
            model = apply_step(model, step)
    return replace(whole, slim_parameters=_parameters(slim))


def _parameters(model: Any) -> int:
    return sum(part.count_params() for part in parts_of(model).values())


def _compare(
    model: Any, step: Step, slim_step: Step, inputs: Any, randomize: bool, seed: int
) -> tuple[_Pairs, Any]:
    """The tensors of the masked original and of the slim model, by name; and the slim model."""
    kept = check_step(model, step)
    compare: dict[str, Callable[[keras.Model], _Pairs]] = {}
    values: proof.Values = {}
    for key, part in parts_of(model).items():
        given = inputs[key] if key and inputs is not None else inputs
        weights, compare[key] = _mask(part, step, key, kept[key], given, seed, randomize)
        values |= weights
    slim = apply_step(model, slim_step, read_from(values))
    found: _Pairs = {}
    for key, part in parts_of(slim).items():
        found |= {prefix_of(key) + name: pair for name, pair in compare[key](part).items()}
    return found, slim


def _mask(
    part: keras.Model,
    step: Step,
    key: str,
    kept: Mapping[str, tuple[int, ...]],
    inputs: Any,
    seed: int,
    randomize: bool,
) -> tuple[proof.Values, Callable[[keras.Model], _Pairs]]:
    """Runs one part changed in place as a step says.

    Returns:
        Its weights, and the function that compares a slim model made from them.
    """
    analysis = analyze(part)
    graph, groups = analysis.graph, partition(analysis)
    read = read_from(proof.random_values(part.variables, analysis, seed) if randomize else {})
    values: proof.Values = {id(v): read(v) for v in part.variables}
    tensors = proof.to_tensors(
        graph, proof.random_inputs(graph, seed) if inputs is None else inputs
    )
    masked = proof.masked_values(analysis, groups, kept, values)
    masked |= _approximated(analysis, step, key, values)
    alive = groups.alive(kept)
    inside = _inside(analysis, alive)
    wanted: dict[str, np.ndarray] = {}
    scaling = proof.LayerwiseScaling(values) if randomize else None
    before = _zeroing(analysis, step, key)
    replay = proof.Replay(masked, _keeper(inside, wanted), analysis, alive, scaling, before)
    outputs = [proof.to_numpy(x) for x in replay.run(graph, tensors, part.variables)]
    if inside is not None:
        labels = analysis.labels[id(inside.outputs[0])]
        wanted = {name: replay.cut(x, labels) for name, x in wanted.items()}

    def compare(slim: keras.Model) -> _Pairs:
        found: dict[str, np.ndarray] = {}
        results = proof.Replay(None, _keeper(inside, found)).run(trace(slim), tensors, [])
        pairs = {name: (x, found[name]) for name, x in wanted.items()}
        for x, old, new in zip(graph.outputs, outputs, results, strict=True):
            name = analysis.paths.get(id(x._keras_history.operation), x.name)
            name = name if name not in pairs else f"{name} (output {len(pairs)})"
            pairs[name] = old, proof.to_numpy(new)
        wide = np.float64
        return {name: (old.astype(wide), new.astype(wide)) for name, (old, new) in pairs.items()}

    return values, compare


def _inside(analysis: Analysis, alive: np.ndarray) -> Call | None:
    """The call in the middle of those that make channels and lose some of them."""
    makers = {id(x.layer) for x in analysis.store.slots if x.role == "producer"}
    narrowed = [
        call
        for call in analysis.graph.calls
        if len(call.outputs) == 1
        and id(call.operation) in makers
        and not alive[analysis.labels[id(call.outputs[0])]].all()
        and "float" in str(call.outputs[0].dtype)
    ]
    return narrowed[len(narrowed) // 2] if narrowed else None


def _zeroing(analysis: Analysis, step: Step, key: str) -> proof.Before:
    """Zeroes the ends of the branches that a step drops, which nothing but the addition reads."""
    ends: dict[int, Any] = {}
    if isinstance(step, BlockStep):
        branches = find_branches(analysis)
        for name in own_names(dict.fromkeys(step.dropped), key):
            addition, skip = branches[name].addition, branches[name].skip
            ends[id(addition)] = next(x for x in addition.inputs if x is not skip)

    def before(call: Call, tensors: dict[int, Any]) -> None:
        end = ends.get(id(call))
        if end is not None:
            tensors[id(end)] = keras.ops.zeros_like(tensors[id(end)])

    return before


def _approximated(analysis: Analysis, step: Step, key: str, values: proof.Values) -> proof.Values:
    """The kernels of the layers that get a lower rank, as sums over their kept components."""
    made: proof.Values = {}
    if not isinstance(step, RankStep):
        return made
    entries = own_names({layer.name: layer for layer in step.layers}, key)
    for layer in (call.operation for call in leaf_calls(analysis.graph)):
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
        name = call.operation.name
        if inside is not None and name == inside.operation.name and name not in kept:
            kept[name] = proof.to_numpy(results[0])

    return watch
