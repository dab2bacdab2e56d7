"""Building the slim model of a plan, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from spade_keras.errors import PlanMismatchError
from spade_keras.pruning.basis.merging import build_ranks
from spade_keras.pruning.basis.rank_groups import check_ranks
from spade_keras.pruning.blocks import check_blocks, leave_out_blocks
from spade_keras.pruning.compensation import Calibration, refit_in_closed_form, refit_sequentially
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.partition import Read, partition, read_from
from spade_keras.pruning.groups import Group
from spade_keras.pruning.parts import map_parts, own_names, parts_of, prefix_of
from spade_keras.pruning.plan import (
    BlockStep,
    ChannelStep,
    GroupPlan,
    PruningPlan,
    RankStep,
    ReaderError,
    Step,
)
from spade_keras.pruning.replay import replay


def rebuild(
    model: Any,
    plan: PruningPlan,
    *,
    calibration: Calibration | None = None,
    sequential: bool = True,
) -> Any:
    """Builds the slim model of a plan; the original stays as it is.

    A Functional or Sequential model gives one of the same kind, a network one with slim priors. A
    subclassed model gives a Functional one: its class and `train_step` are not carried over.

    With a calibration, layers that read removed channels are refitted by least squares, without
    labels or training: one after the other on the slim model's own activations, which is better,
    or with `sequential=False` in closed form, which is faster.

    Raises:
        PlanMismatchError: The plan was made for another model.
        RebuildError: A layer cannot be made again from its configuration.

    Example:
        >>> from spade_keras.pruning import make_plan
        >>> layers = [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)]
        >>> model = keras.Sequential(layers)
        >>> slim = rebuild(model, make_plan(model, ratio=0.5))
        >>> slim.layers[0].units, model.layers[0].units
        (4, 8)
    """
    slim = model
    for step in plan.steps:
        slim = _apply(slim, step, calibration)
    if calibration is not None and sequential:
        refit(model, slim, plan, calibration)
    return slim


def refit(model: Any, slim: Any, plan: PruningPlan, calibration: Calibration) -> None:
    """Refits the readers of the slim model of a plan in place, one after the other."""
    for key, part in parts_of(slim).items():
        if key in calibration.parts:
            kept = _kept_of_original(plan, key)
            refit_sequentially(parts_of(model)[key], part, kept, calibration.parts[key])


def _apply(model: Any, step: Step, calibration: Calibration | None) -> Any:
    """Applies a step, and corrects the readers of removed channels that were calibrated."""
    if calibration is None or not isinstance(step, ChannelStep):
        return apply_step(model, step)
    return apply_step(model, step, read_from(correct(model, step, calibration)[0]))


def correct(
    model: Any, step: ChannelStep, calibration: Calibration
) -> tuple[dict[int, np.ndarray], tuple[ReaderError, ...]]:
    """Refits the readers of a step in closed form: values by variable, and what error is left."""
    values: dict[int, np.ndarray] = {}
    errors: list[ReaderError] = []
    for key, kept in check_step(model, step).items():
        if key in calibration.parts:
            part, measured = parts_of(model)[key], calibration.parts[key]
            made, found = refit_in_closed_form(part, kept, measured)
            values |= made
            errors += [replace(x, name=prefix_of(key) + x.name) for x in found]
    return values, tuple(errors)


def _kept_of_original(plan: PruningPlan, key: str) -> dict[str, tuple[int, ...]]:
    """The channels of one part of the original that a plan keeps, by group."""
    kept: dict[str, tuple[int, ...]] = {}
    for step in plan.steps:
        groups = step.groups if isinstance(step, ChannelStep) else ()
        for name, entry in own_names({entry.name: entry for entry in groups}, key).items():
            before = kept.get(name, tuple(range(entry.width)))
            kept[name] = tuple(before[channel] for channel in entry.kept)
    return kept


def apply_step(model: Any, step: Step, read: Read = keras.ops.convert_to_numpy) -> Any:
    """Builds the result of one step of a plan, with the weights' values from `read`."""
    kept = check_step(model, step)
    if isinstance(step, BlockStep):
        return leave_out_blocks(model, step.dropped, read)
    if isinstance(step, RankStep):
        return build_ranks(model, step, read)
    return map_parts(model, lambda key, part: replay(part, analyze(part), kept[key], read=read))


def check_step(model: Any, step: Step) -> dict[str, dict[str, tuple[int, ...]]]:
    """The channels that a step keeps, by part and group; raises `PlanMismatchError`."""
    if isinstance(step, BlockStep):
        check_blocks(model, step.dropped)
    if isinstance(step, RankStep):
        check_ranks(model, step)
    planned = {x.name: x for x in step.groups} if isinstance(step, ChannelStep) else {}
    kept: dict[str, dict[str, tuple[int, ...]]] = {}
    known: list[str] = []
    for key, part in parts_of(model).items():
        kept[key] = {}
        for group in partition(analyze(part)).groups:
            name = prefix_of(key) + group.name
            known.append(name)
            entry = planned.pop(name, None)
            if entry is not None:
                _check_group(group, entry)
                kept[key][group.name] = tuple(entry.kept)
    if planned:
        raise PlanMismatchError(
            "`plan` was made for another model: this one has no group "
            f"{next(iter(planned))!r}. Its groups begin with: {known[:5]}."
        )
    return kept


def _check_group(group: Group, entry: GroupPlan) -> None:
    if entry.width != group.width:
        raise PlanMismatchError(
            f"`plan` was made for another model: group {entry.name!r} is {group.width} wide here. "
            f"Received: width={entry.width}. Make the plan again with `make_plan`."
        )
    if len(entry.kept) == group.width:
        return
    if group.fixed is not None:
        raise PlanMismatchError(
            f"`plan` removes channels of group {entry.name!r}, which is fixed: {group.fixed}. "
            f"Received: {len(entry.kept)} of {group.width} kept."
        )
    if group.blocks is not None:
        counts = np.bincount(group.blocks[list(entry.kept)], minlength=group.divisor)
        if (counts != counts[0]).any():
            raise PlanMismatchError(
                f"Group {entry.name!r} stands in {group.divisor} blocks, each of which must keep "
                f"equally many channels. Received: {counts[:8].tolist()} kept per block."
            )
