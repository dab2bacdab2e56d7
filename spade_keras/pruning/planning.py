"""Making a plan: scores, widths, kept channels, and savings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from spade_keras.pruning import importance as importances
from spade_keras.pruning import selection
from spade_keras.pruning.blocks import drop_blocks
from spade_keras.pruning.compensation import Calibration
from spade_keras.pruning.cost import PlanCost, check_built
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, find_groups
from spade_keras.pruning.plan import ChannelStep, GroupPlan, PruningPlan
from spade_keras.pruning.rebuild import correct, rebuild

TARGETS = ("parameters", "macs", "width")


def make_plan(  # noqa: PLR0913 - every setting is a keyword of its own
    model: Any,
    *,
    ratio: float | Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    target: Mapping[str, float] | None = None,
    importance: str | importances.ImportanceFunction = "group_l1",
    scope: Literal["local", "global"] = "local",
    round_to: int = 1,
    minimum_width: int = 1,
    protect: Iterable[str] = (),
    blocks: Collection[str] = (),
    after: PruningPlan | None = None,
    inputs: Any = None,
    calibration: Calibration | None = None,
) -> PruningPlan:
    """Decides which channels of a model to remove; the model itself is not changed.

    Exactly one of `ratio`, `widths` and `target` must be given. A name is that of a group or of
    a layer in it, and may have wildcards, as in `"block2_*"`.

    Args:
        model: A Keras model, or a network with `priors`.
        ratio: Fraction of channels to remove, in [0, 1), from every group; or by name, and
            groups not named keep theirs. Widths are rounded to the nearest allowed one.
        widths: Widths by name, taken as they are; a wildcard passes over fixed groups.
        target: Size of the slim model, reached by ranking the channels of all groups together:
            one of `{"parameters": n}`, `{"macs": n}` and `{"width": n}`. A number below 1 is a
            fraction of the original.
        importance: A name in `IMPORTANCES`, an `Importance`, or a function of `(group, weights)`.
        scope: `"global"` ranks the channels of all groups together for a single `ratio`.
        round_to: Narrower widths are multiples of it.
        minimum_width: No group becomes narrower.
        protect: Names of groups or layers that keep their width.
        blocks: Residual blocks to leave out first; see `drop_blocks`.
        after: An earlier plan; channels, blocks and costs are then those of its result.
        inputs: Arrays or shapes to count multiply-accumulates for; see `count_macs`.
        calibration: Statistics from `calibrate`, for `importance="obs"` and for the errors of
            the layers that read removed channels, which the plan then holds.

    Returns:
        The plan, with every group of the model and why it is fixed if it is; the steps of
        `after` and `blocks` come first.

    Example:
        >>> import keras
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="a"), keras.layers.Dense(2)]
        >>> make_plan(keras.Sequential(layers), ratio=0.5).widths["a"]
        3
    """
    _check_amount(ratio, widths, target, scope)
    selection.check_count("round_to", round_to)
    selection.check_count("minimum_width", minimum_width)
    check_built(model)
    if after is not None:
        model = rebuild(model, after)
    if blocks:
        dropped = drop_blocks(model, blocks, inputs=inputs)
        model = rebuild(model, dropped)
        after = dropped if after is None else after.then(dropped)
    protect = [protect] if isinstance(protect, str) else list(protect)
    criterion = importances.find_importance(importance, calibration)
    named = importance if isinstance(importance, str) else type(importance).__name__
    planner = _Planner(model, criterion, named, inputs)
    planner.limit(round_to, minimum_width, protect)
    if widths is not None:
        chosen = planner.given_widths(selection.match_groups(widths, planner.groups, "widths"))
    elif target is not None:
        ((quantity, amount),) = target.items()
        chosen = planner.target_widths(quantity, amount)
    elif isinstance(ratio, Mapping):
        chosen = planner.ratio_widths(selection.match_groups(ratio, planner.groups, "ratio"))
    elif scope == "global":
        chosen = planner.target_widths("width", 1 - float(ratio or 0))
    else:
        chosen = planner.ratio_widths({group.name: ("*", ratio) for group in planner.groups})
    amounts = {"ratio": ratio, "widths": widths, "target": target}
    settings = {key: _plain(value) for key, value in amounts.items() if value is not None}
    settings |= {"scope": scope, "round_to": round_to, "minimum_width": minimum_width}
    plan = planner.plan(chosen, settings | {"protect": protect}, calibration)
    return plan if after is None else after.then(plan)


class _Planner:
    """One planning: the groups of a model with their scores, limits and costs."""

    def __init__(self, model: Any, importance: Any, named: str, inputs: Any) -> None:
        self.model = model
        self.groups = find_groups(model)
        self._importance = importance
        self._named = named
        self._inputs = inputs
        self._weights = WeightTable(model)
        self._scores: dict[str, np.ndarray | None] = {}

    def limit(self, round_to: int, minimum_width: int, protect: Sequence[str]) -> None:
        """Finds the widths each group may take, and the reason if there is only one."""
        self._allowed = {
            x.name: selection.allowed_widths(x, round_to, minimum_width) for x in self.groups
        }
        self._protected = selection.match_groups(protect, self.groups, "protect")
        self._fixed = {group.name: self._reason(group) for group in self.groups}

    @cached_property
    def _cost(self) -> PlanCost:
        return PlanCost(self.model, self.groups, self._weights, self._inputs)

    def _reason(self, group: Group) -> str | None:
        if group.fixed:
            return group.fixed
        if group.name in self._protected:
            return f"protected by {self._protected[group.name][0]!r}"
        if len(self._allowed[group.name]) == 1:
            return "no narrower width is allowed by its structure, `round_to` and `minimum_width`"
        return None

    def scores(self, group: Group) -> np.ndarray | None:
        if group.name not in self._scores:
            scores = importances.group_scores(self._importance, group, self._weights)
            self._scores[group.name] = scores
        return self._scores[group.name]

    def _is_free(self, group: Group) -> bool:
        if self._fixed[group.name] is None and self.scores(group) is None:
            self._fixed[group.name] = f"{self._named} has no score for it"
        return self._fixed[group.name] is None

    def _may_change(self, group: Group) -> bool:
        """Whether an explicit width applies: rounding and minimum width do not bind it."""
        if len(self._allowed[group.name]) == 1 and not group.fixed:
            return group.name not in self._protected and self.scores(group) is not None
        return self._is_free(group)

    def given_widths(self, matched: Mapping[str, tuple[str, Any]]) -> dict[str, int]:
        chosen = {}
        for group in (group for group in self.groups if group.name in matched):
            pattern, width = matched[group.name]
            selection.check_count(f"widths[{pattern!r}]", width)
            reason = None if self._may_change(group) else self._fixed[group.name]
            if reason and selection.is_wildcard(pattern):
                continue
            step = selection.width_step(group)
            start = f"`widths[{pattern!r}]` must be {group.width}"
            if width > group.width or (width < group.width and width % step):
                raise ValueError(
                    f"{start} or a smaller multiple of {step} for group {group.name!r}. "
                    f"Received: {width}."
                )
            if width < group.width and reason:
                raise ValueError(
                    f"{start}, because group {group.name!r} is fixed: {reason}. Received: {width}."
                )
            chosen[group.name] = width
        return chosen

    def ratio_widths(self, matched: Mapping[str, tuple[str, Any]]) -> dict[str, int]:
        chosen = {}
        for group in self.groups:
            pattern, ratio = matched.get(group.name, ("*", 0))
            _check_ratio("ratio" if pattern == "*" else f"ratio[{pattern!r}]", ratio)
            if ratio == 0:
                continue
            if self._is_free(group):
                chosen[group.name] = selection.nearest_width(self._allowed[group.name], ratio)
            elif not selection.is_wildcard(pattern):
                raise ValueError(
                    f"`ratio[{pattern!r}]` must be 0, because group {group.name!r} is fixed: "
                    f"{self._fixed[group.name]}. Received: {ratio}."
                )
        return chosen

    def target_widths(self, quantity: str, amount: float) -> dict[str, int]:
        """Widths that leave at most the given amount of the model."""
        free = [group for group in self.groups if self._is_free(group)]
        scores = {group.name: s for group in free if (s := self.scores(group)) is not None}

        def remaining(widths: Mapping[str, int]) -> int | None:
            if quantity == "width":
                return sum(widths.values())
            return self._cost.total(widths)[("parameters", "macs").index(quantity)]

        whole = remaining({group.name: group.width for group in free})
        if whole is None:
            raise ValueError(
                "`inputs` must be given for a MAC target, since the input sizes of "
                f"{self.model.name!r} are open. Received: inputs=None. "
                "Pass a shape such as (1, 128, 128, 2)."
            )
        limit = amount * whole if amount < 1 else amount
        return selection.rank_globally(free, scores, self._allowed, remaining, limit)

    def plan(
        self,
        widths: Mapping[str, int],
        settings: dict[str, Any],
        calibration: Calibration | None,
    ) -> PruningPlan:
        entries = []
        cost = self._cost
        for group, saved in zip(self.groups, cost.savings(widths), strict=True):
            width = widths.get(group.name, group.width)
            scores = self.scores(group) if width < group.width else None
            everything = tuple(range(group.width))
            kept = everything if scores is None else selection.kept_channels(group, scores, width)
            fixed = self._fixed[group.name] if width == group.width else None
            entries.append(GroupPlan(group.name, group.width, kept, group.members, fixed, *saved))
        step = ChannelStep(tuple(entries), self._named, settings, cost.parameters, cost.macs)
        if calibration is not None:
            step = replace(step, readers=correct(self.model, step, calibration)[1])
        return PruningPlan(self.model.name, (step,))


def _check_amount(ratio: Any, widths: Any, target: Any, scope: str) -> None:
    amounts = {"ratio": ratio, "widths": widths, "target": target}
    given = {name: value for name, value in amounts.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of `ratio`, `widths` and `target` must be given. Received: {list(given)}."
        )
    ((name, value),) = given.items()
    if scope not in ("local", "global"):
        raise ValueError(f"`scope` must be 'local' or 'global'. Received: scope={scope!r}.")
    single = name == "ratio" and not isinstance(value, Mapping)
    if scope == "global" and not single:
        raise ValueError(
            "`scope='global'` must come with a single `ratio`. "
            f"Received: {name}={value!r}. A `target` is always ranked globally."
        )
    if single:
        _check_ratio("ratio", value)
    elif not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be a dict. Received: {name}={value!r}.")
    if name == "target" and (len(value) != 1 or not set(value) <= set(TARGETS)):
        raise ValueError(
            f"`target` must have exactly one of the keys {TARGETS}. Received: target={value!r}."
        )
    for quantity, amount in value.items() if name == "target" else ():
        if not _is_number(amount) or not amount > 0:
            raise ValueError(
                f"`target[{quantity!r}]` must be positive: a count, or below 1 a fraction of the "
                f"original. Received: {amount!r}."
            )


def _check_ratio(name: str, ratio: Any) -> None:
    if not _is_number(ratio) or not 0 <= ratio < 1:
        percent = _is_number(ratio) and 1 < ratio < 100
        hint = f" For {ratio} % pass {ratio / 100}." if percent else ""
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={ratio!r}.{hint}")


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value
