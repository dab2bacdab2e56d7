"""Gradual pruning: a few steps with training in between, instead of one cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spade_keras.pruning.cost import count_macs, count_parameters
from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.selection import allowed_widths

Between = Callable[[Any, PruningPlan, int], Any]


@dataclass(frozen=True)
class GradualPruning:
    """What gradual pruning made.

    Args:
        model: The slim model after the last step.
        plans: The plan of each step, for the model that the step before it left.
    """

    model: Any
    plans: tuple[PruningPlan, ...]


def prune_gradually(
    model: Any, *, steps: int, between: Between | None = None, **settings: Any
) -> GradualPruning:
    """Prunes in equal steps towards a final size, scoring the channels anew at each.

    With `ratio` or `widths` the final widths are decided at the start and each group goes
    there in a straight line; with a `target` the amount left goes down in a straight line and
    the groups compete again at every step.

    Args:
        model: A Keras model, or a network with `priors`; it is not changed.
        steps: How many times to prune.
        between: Called as `between(slim, plan, step)` after each step, 1 to `steps`, to train
            the slim model; returns None, or the model to go on with.
        **settings: Those of `make_plan`.

    Returns:
        The slim model and the plan of each step.

    Raises:
        ValueError: If `steps` is not positive, or a setting is wrong.

    Example:
        >>> import keras
        >>> layers = [keras.Input((8,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2)]
        >>> made = prune_gradually(keras.Sequential(layers), steps=2, ratio=0.5)
        >>> [plan.widths["a"] for plan in made.plans]
        [6, 4]
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps` must be an integer of at least 1. Received: steps={steps!r}.")
    amounts = _amounts(model, steps, settings)
    rest = {
        key: value for key, value in settings.items() if key not in ("ratio", "widths", "scope")
    }
    plans = []
    for step, amount in enumerate(amounts, start=1):
        plan = make_plan(model, **{**rest, **amount})
        model = rebuild(model, plan)
        plans.append(plan)
        if between is not None:
            changed = between(model, plan, step)
            model = model if changed is None else changed
    return GradualPruning(model, tuple(plans))


def _amounts(model: Any, steps: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `widths` or `target` of each step."""
    plan = make_plan(model, **settings)
    if settings.get("target") is None:
        return _width_steps(model, steps, settings, plan.widths)
    ((quantity, amount),) = settings["target"].items()
    if quantity == "width":
        whole = sum(group.width for group in plan.groups if group.fixed is None)
    elif quantity == "parameters":
        whole = count_parameters(model)
    else:
        whole = count_macs(model, settings.get("inputs")).total
    last = amount * whole if amount < 1 else amount
    return [{"target": {quantity: whole - (whole - last) * i / steps}} for i in _counting(steps)]


def _width_steps(
    model: Any, steps: int, settings: Mapping[str, Any], last: Mapping[str, int]
) -> list[dict[str, Any]]:
    limits = [settings.get(name, 1) for name in ("round_to", "minimum_width")]
    groups = [group for group in find_groups(model) if last[group.name] < group.width]
    amounts = []
    for i in _counting(steps):
        widths = {}
        for group in groups:
            wanted = group.width - (group.width - last[group.name]) * i / steps
            choices = (*allowed_widths(group, *limits), last[group.name])
            above = [width for width in choices if width >= last[group.name]]
            widths[group.name] = min(above, key=lambda width: (abs(width - wanted), -width))
        amounts.append({"widths": widths})
    return amounts


def _counting(steps: int) -> range:
    return range(1, steps + 1)
