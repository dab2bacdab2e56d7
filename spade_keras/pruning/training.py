"""Pruning beside training: in steps, and by pushing whole channels towards zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, find_groups
from spade_keras.pruning.importance import magnitude_slots
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.selection import allowed_widths, check_count, nearest

Between = Callable[[Any, PruningPlan, int], Any]
_Slice = tuple[Any, int, np.ndarray]  # a variable, an axis, and the channel at each place along it
_Channels = tuple[int, list[_Slice]]  # a group's width and slices


@dataclass(frozen=True)
class GradualPruning:
    """The slim model, and the plan of each step for the model that the step before it left."""

    model: Any
    plans: tuple[PruningPlan, ...]


def prune_gradually(
    model: Any, *, steps: int, between: Between | None = None, **settings: Any
) -> GradualPruning:
    """Prunes in equal steps towards a final size, scoring the channels again at each.

    With `ratio` or `widths` the final widths are decided at the start and each group shrinks
    linearly; with a `target` the amount left falls linearly and the groups compete at each step.
    `between(slim, plan, step)` is called after each step, 1 to `steps`, to train the slim model; it
    returns None, or the model to continue with. The settings are those of `make_plan`.

    Example:
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
    else:
        whole = getattr(plan.steps[-1], quantity)
    last = amount * whole if amount < 1 else amount
    return [{"target": {quantity: x}} for x in np.linspace(whole, last, steps + 1)[1:]]


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
            choices = {w for w in (*allowed_widths(group, *limits), final) if w >= final}
            line = np.linspace(group.width, final, steps + 1)[1:]
            for amount, wanted in zip(amounts, line, strict=True):
                amount["widths"][group.name] = nearest(choices, wanted)
    return amounts


class GroupSparsity(keras.callbacks.Callback):
    """Shrinks the channels of every group after each batch, all members together.

    With `w_c` all kernel slices and norm scales of channel `c`, `I_c = ||w_c||_2`, eta the learning
    rate and lambda the strength:

        group_l1:  w_c <- w_c * max(0, 1 - eta * lambda / I_c)
        group_sl:  w_c <- w_c * max(0, 1 - eta * lambda * 2^(4 (I_max - I_c) / (I_max - I_min)))

    `group_l1` is the proximal step of the group lasso `lambda * sum_c I_c` and makes channels
    exactly zero; `group_sl` is a weight decay up to 16 times stronger on the least important ones.
    Both work beside any optimizer. Biases, frozen weights and fixed groups are left alone.

    `model` is the one to shrink, where a wrapper around it is trained; `every` is the number of
    batches between two steps, each of which counts for all of them.

    Example:
        >>> callback = GroupSparsity(1e-3, method="group_sl")

    Reference:
        Fang et al., DepGraph: Towards Any Structural Pruning, arXiv 2301.12900.
    """

    def __init__(
        self,
        strength: float,
        method: Literal["group_l1", "group_sl"] = "group_l1",
        model: Any = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        if not strength > 0:
            raise ValueError(f"`strength` must be positive. Received: strength={strength!r}.")
        if method not in ("group_l1", "group_sl"):
            raise ValueError(
                f"`method` must be 'group_l1' or 'group_sl'. Received: method={method!r}."
            )
        check_count("every", every)
        self.strength = strength
        self.method = method
        self.every = every
        self._target = model
        self._channels: list[_Channels] = []
        self._batches = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the groups of the model."""
        model = self.model if self._target is None else self._target
        weights = WeightTable(model)
        free = [group for group in find_groups(model) if group.fixed is None]
        self._channels = [(group.width, list(_slices_of(group, weights))) for group in free]
        self._batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Shrinks the channels once per `every` batches."""
        self._batches += 1
        if self._batches % self.every:
            return
        # JAX trains on copies of the variables: they must be written back before reading.
        synchronize = getattr(self.model, "jax_state_sync", None)
        if synchronize is not None:
            synchronize()
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        shrink_channels(self._channels, rate * self.strength * self.every, self.method)


def _slices_of(group: Group, weights: WeightTable) -> Iterator[_Slice]:
    for slot in magnitude_slots(group):
        variable = weights.variable(slot)
        if variable.trainable:
            owners = np.full(variable.shape[slot.axis], group.width, np.int32)
            owners[slot.positions] = np.arange(group.width)[:, None]
            yield variable, slot.axis, owners


def shrink_channels(channels: list[_Channels], step: float, method: str) -> None:
    """Shrinks all channels by factors computed before any of them changes."""
    ops = keras.ops
    factors = [_factors(width, slices, step, method) for width, slices in channels]
    for (_, slices), factor in zip(channels, factors, strict=True):
        # Places that belong to no channel of the group take the factor 1 at the end.
        padded = ops.concatenate([factor, ops.ones((1,), factor.dtype)])
        for variable, axis, owners in slices:
            shape = [1] * len(variable.shape)
            shape[axis] = -1
            values = ops.stop_gradient(ops.convert_to_tensor(variable))
            scale = ops.cast(ops.reshape(ops.take(padded, owners), shape), values.dtype)
            variable.assign(values * scale)


def _factors(width: int, slices: list[_Slice], step: float, method: str) -> Any:
    """One factor in [0, 1] per channel."""
    ops = keras.ops
    squares = ops.zeros((width,), "float32")
    for variable, axis, owners in slices:
        values = ops.cast(ops.stop_gradient(ops.convert_to_tensor(variable)), "float32")
        others = tuple(other for other in range(len(variable.shape)) if other != axis)
        sums = ops.sum(ops.square(values), axis=others)
        squares += ops.segment_sum(sums, owners, num_segments=width + 1)[:width]
    norms = ops.sqrt(squares)
    if method == "group_l1":
        return ops.maximum(0.0, 1.0 - step / ops.maximum(norms, 1e-12))
    highest, lowest = ops.max(norms), ops.min(norms)
    share = (highest - norms) / ops.maximum(highest - lowest, 1e-12)
    return ops.maximum(0.0, 1.0 - step * ops.power(2.0, 4.0 * share))
