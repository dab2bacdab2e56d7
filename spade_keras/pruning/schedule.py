"""Gradual pruning: several steps with training in between, instead of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spade_keras.pruning.cost import count_macs, count_parameters
from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.selection import allowed_widths, check_count

Between = Callable[[Any, PruningPlan, int], Any]


@dataclass(frozen=True)
class GradualPruning:
    """The result of gradual pruning.

    Args:
        model: The slim model after the last step.
        plans: The plan of each step, for the model that the step before it left.
    """

    model: Any
    plans: tuple[PruningPlan, ...]


def prune_gradually(
    model: Any, *, steps: int, between: Between | None = None, **settings: Any
) -> GradualPruning:
    """Prunes in equal steps towards a final size, scoring the channels again at each.

    With `ratio` or `widths` the final widths are decided at the start and each group shrinks
    linearly; with a `target` the amount left falls linearly and the groups compete at each step.

    Args:
        model: A Keras model, or a network with `priors`; it is not changed.
        steps: Number of pruning steps.
        between: Called as `between(slim, plan, step)` after each step, 1 to `steps`, to train
            the slim model; returns None, or the model to continue with.
        **settings: Settings of `make_plan`.

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
    check_count("steps", steps)
    rest = {key: settings[key] for key in settings if key not in ("ratio", "widths", "scope")}
    plans = []
    for step, amount in enumerate(_amounts(model, steps, settings), start=1):
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
    return [{"target": {quantity: x}} for x in _line(whole, last, steps)]


def _width_steps(
    model: Any, steps: int, settings: Mapping[str, Any], last: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Allowed widths nearest to the straight line that ends at the last ones."""
    limits = [settings.get(name, 1) for name in ("round_to", "minimum_width")]
    amounts: list[dict[str, Any]] = [{"widths": {}} for _ in range(steps)]
    for group in find_groups(model):
        final = last[group.name]
        if final < group.width:
            # A final width that was given may not be a multiple of `round_to`.
            choices = [w for w in (*allowed_widths(group, *limits), final) if w >= final]
            for amount, wanted in zip(amounts, _line(group.width, final, steps), strict=True):
                _, nearest = min((abs(width - wanted), -width) for width in choices)
                amount["widths"][group.name] = -nearest
    return amounts


def _line(first: float, last: float, steps: int) -> list[float]:
    return [first - (first - last) * step / steps for step in range(1, steps + 1)]
