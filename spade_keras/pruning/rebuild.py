"""Building the slim model of a plan, step by step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.errors import PlanMismatchError
from spade_keras.pruning.basis.merging import build_ranks
from spade_keras.pruning.basis.rank_groups import check_ranks
from spade_keras.pruning.blocks import check_blocks, leave_out_blocks
from spade_keras.pruning.compensation import (
    Calibration,
    refit_in_closed_form,
    refit_sequentially,
)
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.partition import Read, partition, read_from
from spade_keras.pruning.groups import Group
from spade_keras.pruning.parts import map_parts, parts_of, prefix_of
from spade_keras.pruning.plan import BlockStep, ChannelStep, GroupPlan, PruningPlan, RankStep, Step
from spade_keras.pruning.replay import replay


def rebuild(
    model: Any,
    plan: PruningPlan,
    *,
    calibration: Calibration | None = None,
    sequential: bool = True,
) -> Any:
    """Builds the slim model of a plan; the original stays as it is.

    A Functional or Sequential model gives one of the same kind. A subclassed model gives a
    Functional one: its class and its `train_step` are not carried over.

    Args:
        model: The model the plan was made for, or a network with `priors`.
        plan: The plan.
        calibration: Statistics from `calibrate`: layers that read removed channels are refitted by
            least squares, without labels or training. None: kept weights stay as they are.
        sequential: Whether the layers are fitted one after the other on the slim model's own
            activations, which is better; otherwise in closed form, which is faster.

    Returns:
        The slim model with the kept weights, or the network with slim priors.

    Raises:
        PlanMismatchError: The plan was made for another model.
        RebuildError: A layer cannot be made again from its configuration.

    Example:
        >>> import keras
        >>> from spade_keras.pruning import make_plan, rebuild
        >>> inputs = keras.Input((None, None, 3))
        >>> x = keras.layers.Conv2D(8, 3, name="wide")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="last")(x))
        >>> slim = rebuild(model, make_plan(model, ratio=0.5))
        >>> slim.get_layer("wide").filters, model.get_layer("wide").filters
        (4, 8)
    """
    slim = model
    for step in plan.steps:
        slim = _apply(slim, step, calibration)
    if calibration is not None and sequential:
        kept = _kept_of_original(model, plan)
        for key, part in parts_of(slim).items():
            if key in calibration.parts:
                refit_sequentially(
                    parts_of(model)[key], part, kept.get(key, {}), calibration.parts[key]
                )
    return slim


def _apply(model: Any, step: Step, calibration: Calibration | None) -> Any:
    """Applies a step, and corrects the readers of removed channels that were calibrated."""
    if calibration is None or not isinstance(step, ChannelStep):
        return apply_step(model, step)
    values: dict[int, np.ndarray] = {}
    for key, kept in check_step(model, step).items():
        if key in calibration.parts:
            found, _ = refit_in_closed_form(parts_of(model)[key], kept, calibration.parts[key])
            values |= found
    return apply_step(model, step, read_from(values))


def _kept_of_original(model: Any, plan: PruningPlan) -> dict[str, dict[str, tuple[int, ...]]]:
    """The channels of the original that a plan keeps, by part and group."""
    kept: dict[str, dict[str, tuple[int, ...]]] = {}
    for step in plan.steps:
        for entry in step.groups if isinstance(step, ChannelStep) else ():
            for key in parts_of(model):
                prefix = prefix_of(key)
                if entry.name.startswith(prefix):
                    groups = kept.setdefault(key, {})
                    name = entry.name[len(prefix) :]
                    before = groups.get(name, tuple(range(entry.width)))
                    groups[name] = tuple(before[channel] for channel in entry.kept)
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
    """Raises `PlanMismatchError` if a step was made for another model.

    Returns:
        The channels that the step keeps, by part and group.
    """
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
