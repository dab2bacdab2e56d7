"""Proof that the slim model of a plan of channels and ranks is what the plan says."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.basis.basis_plan import BasisPlan
from spade_keras.pruning.basis.factors import to_kernel, to_matrix
from spade_keras.pruning.basis.rank_groups import leaf_calls
from spade_keras.pruning.basis.rank_plan import LayerRank, RankPlan
from spade_keras.pruning.basis.rebuilding import check_rank_plan, rebuild_basis, rebuild_ranks
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import trace
from spade_keras.pruning.parts import is_network
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.proof.randomization import (
    LayerwiseScaling,
    Values,
    random_inputs,
    random_values,
    spread,
)
from spade_keras.pruning.proof.reference import Replay
from spade_keras.pruning.rebuild import copy_model
from spade_keras.pruning.verify import VerificationReport, verify_plan


def verify_basis_plan(
    model: Any, plan: BasisPlan, *, randomize: bool = True, tolerance: float = 1e-3, seed: int = 0
) -> tuple[VerificationReport, ...]:
    """Checks every step of a plan on the model that the steps before it leave.

    A step of channels is checked by `verify_plan`. For a step of ranks the slim model is
    compared with the model before it whose kernels are replaced by

        sum over kept i of s_i sigma_i u_i v_i^T

    summed up here from a full SVD, without the code that decomposes and merges.

    Args:
        model: The model of the plan; it stays as it is.
        plan: The plan.
        randomize: Draws every weight, bias and statistic anew for the check.
        tolerance: Largest difference allowed, relative to the tensor's standard deviation.
        seed: Seed of the draws.

    Returns:
        The report of each step.

    Raises:
        VerificationError: The two differ, or the check is blind.
        PlanMismatchError: A step was made for another model.
    """
    reports = []
    for step in plan.steps:
        if isinstance(step, PruningPlan):
            reports.append(
                verify_plan(model, step, randomize=randomize, tolerance=tolerance, seed=seed)
            )
        else:
            found = measure_rank_difference(model, step, step, randomize=randomize, seed=seed)
            reports.append(_within(found, tolerance).check())
        model = rebuild_basis(model, BasisPlan(plan.model, (step,)))
    return tuple(reports)


def measure_rank_difference(
    model: Any, plan: RankPlan, slim_plan: RankPlan, *, randomize: bool = True, seed: int = 0
) -> VerificationReport:
    """The differences that `verify_basis_plan` judges, with the slim model of another plan.

    Args:
        model: The model of both plans.
        plan: The plan the original is approximated by.
        slim_plan: The plan the slim model is made from.
        randomize: See `verify_basis_plan`.
        seed: See `verify_basis_plan`.
    """
    check_rank_plan(model, plan)
    copy = copy_model(model)
    if randomize:
        for part in _parts(copy).values():
            randomize_weights(part, seed)
    slim = rebuild_ranks(copy, slim_plan)
    entries = {layer.name: layer for layer in plan.layers}
    inputs = {key: example_inputs(part, seed) for key, part in _parts(copy).items()}
    for key, part in _parts(copy).items():
        _approximate(part, entries, f"{key}/" if key else "")
    errors: dict[str, float] = {}
    stds: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for key, part in _parts(copy).items():
        wanted, found = (logits(x, inputs[key]) for x in (part, _parts(slim)[key]))
        for index, (old, new) in enumerate(zip(wanted, found, strict=True)):
            name = f"{key or model.name} (output {index})"
            spreads[name], stds[name] = spread(old), float(old.std())
            errors[name] = float(np.abs(old - new).max() / max(spreads[name], 1e-30))
    return VerificationReport(
        errors, stds, spreads, parameters=_size(copy), slim_parameters=_size(slim)
    )


def _within(report: VerificationReport, tolerance: float) -> VerificationReport:
    return VerificationReport(
        report.errors,
        report.stds,
        report.spreads,
        tolerance,
        report.parameters,
        report.slim_parameters,
    )


def _parts(model: Any) -> dict[str, keras.Model]:
    return dict(model.priors) if is_network(model) else {"": model}


def _size(model: Any) -> int:
    return sum(part.count_params() for part in _parts(model).values())


def example_inputs(model: keras.Model, seed: int) -> list[Any]:
    """Random inputs of a model, flat.

    Args:
        model: The model.
        seed: Seed of the draws.
    """
    graph = analyze(model).graph
    return [
        keras.ops.convert_to_tensor(array, dtype=x.dtype)
        for array, x in zip(random_inputs(graph, seed), graph.inputs, strict=True)
    ]


def randomize_weights(model: keras.Model, seed: int) -> None:
    """Draws the weights and statistics of a model anew, so that its input is felt at its output.

    Args:
        model: The model, changed in place.
        seed: Seed of the draws.
    """
    analysis = analyze(model)
    values: Values = random_values(model.variables, analysis, seed)
    # Variables that are not drawn, such as counters, stay in the replay as they are.
    for variable in model.variables:
        values.setdefault(id(variable), keras.ops.convert_to_numpy(variable))
    replay = Replay(values, _look_away, scaling=LayerwiseScaling(values))
    replay.run(analysis.graph, example_inputs(model, seed), model.variables)
    for variable in model.variables:
        variable.assign(values[id(variable)])


def _approximate(model: keras.Model, entries: dict[str, LayerRank], prefix: str) -> None:
    """Replaces the kernels of the plan's layers by their sums over kept components."""
    analysis = analyze(model)
    for call in leaf_calls(analysis.graph):
        layer = call.operation
        entry = entries.get(prefix + analysis.paths[id(layer)])
        if entry is None:
            continue
        kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
        blocks = to_matrix(layer, kernel)
        scales = np.ones((len(blocks), len(entry.kept)))
        if entry.scales:
            scales = np.reshape(entry.scales, scales.shape)
        made = np.zeros_like(blocks)
        for block, scale, target in zip(blocks, scales, made, strict=True):
            u, sigma, v = np.linalg.svd(block, full_matrices=False)
            for s, i in zip(scale, entry.kept, strict=True):
                target += s * sigma[i] * np.outer(u[:, i], v[i])
        layer.kernel.assign(to_kernel(layer, made))


def logits(model: keras.Model, inputs: list[Any]) -> list[np.ndarray]:
    """Outputs of a model, a final softmax left out.

    Args:
        model: The model.
        inputs: Its inputs, flat.
    """
    outputs = Replay(None, _look_away).run(trace(model), inputs, [])
    return [np.asarray(keras.ops.convert_to_numpy(x), np.float64) for x in outputs]


def _look_away(call: Any, results: list[Any]) -> None:
    """A replay reports every call; here only the outputs count."""
