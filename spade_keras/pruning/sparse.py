"""Sparse training: push whole channels towards zero while the model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, find_groups
from spade_keras.pruning.importance import magnitude_slots
from spade_keras.pruning.selection import check_count


class GroupSparsity(keras.callbacks.Callback):
    """Shrinks the channels of every group after each batch, all members together.

    With `w_c` all kernel slices and norm scales of channel `c` in its group, eta the learning
    rate and lambda the strength:

        group_l1:  w_c <- w_c * max(0, 1 - eta * lambda / ||w_c||_2)
        group_sl:  w_c <- w_c * max(0, 1 - eta * lambda * 2^(4 (I_max - I_c) / (I_max - I_min)))

    with `I_c = ||w_c||_2`. `group_l1` is the proximal step of the group lasso
    `lambda * sum_c ||w_c||_2` and makes channels exactly zero; `group_sl` is a weight decay that
    is up to 16 times stronger on the least important channels. Both work beside any
    optimizer. Biases, frozen weights and fixed groups are left alone.

    Args:
        strength: Lambda, positive.
        method: `"group_l1"` or `"group_sl"`.
        model: The model to shrink. None: the model being trained; give the inner one if a wrapper
            is trained.
        every: Batches between two steps, each of which counts for all of them.

    Raises:
        ValueError: If an argument is out of range.

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
        self._channels = [_channels_of(group, weights) for group in free]
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


@dataclass(frozen=True)
class _Channels:
    """The places of a group's channels: per slice its variable, axis, and each place's owner."""

    width: int
    slices: tuple[tuple[Any, int, np.ndarray], ...]


def _channels_of(group: Group, weights: WeightTable) -> _Channels:
    slices = []
    for slot in magnitude_slots(group):
        variable = weights.variable(slot)
        if not variable.trainable:
            continue
        owners = np.full(variable.shape[slot.axis], group.width, np.int32)
        owners[slot.positions] = np.arange(group.width)[:, None]
        slices.append((variable, slot.axis, owners))
    return _Channels(group.width, tuple(slices))


def shrink_channels(channels: list[_Channels], step: float, method: str) -> None:
    """Shrinks all channels by factors computed before any of them changes."""
    ops = keras.ops
    factors = [_factors(part, step, method) for part in channels]
    for part, factor in zip(channels, factors, strict=True):
        # Places that belong to no channel of the group take the factor 1 at the end.
        padded = ops.concatenate([factor, ops.ones((1,), factor.dtype)])
        for variable, axis, owners in part.slices:
            shape = [1] * len(variable.shape)
            shape[axis] = -1
            values = ops.stop_gradient(ops.convert_to_tensor(variable))
            scale = ops.cast(ops.reshape(ops.take(padded, owners), shape), values.dtype)
            variable.assign(values * scale)


def _factors(part: _Channels, step: float, method: str) -> Any:
    """One factor in [0, 1] per channel."""
    ops = keras.ops
    squares = ops.zeros((part.width,), "float32")
    for variable, axis, owners in part.slices:
        values = ops.cast(ops.stop_gradient(ops.convert_to_tensor(variable)), "float32")
        others = tuple(other for other in range(len(variable.shape)) if other != axis)
        sums = ops.sum(ops.square(values), axis=others)
        squares += ops.segment_sum(sums, owners, num_segments=part.width + 1)[: part.width]
    norms = ops.sqrt(squares)
    if method == "group_l1":
        return ops.maximum(0.0, 1.0 - step / ops.maximum(norms, 1e-12))
    highest, lowest = ops.max(norms), ops.min(norms)
    share = (highest - norms) / ops.maximum(highest - lowest, 1e-12)
    return ops.maximum(0.0, 1.0 - step * ops.power(2.0, 4.0 * share))
