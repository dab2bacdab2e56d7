"""Coupled channels: the slots of weights that make up a group."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spade_keras.pruning.parts import is_network, parts_of, prefix_of


@dataclass(frozen=True)
class Slot:
    """The positions along one axis of one weight that belong to a group's channels.

    Channel `c` of the group owns `positions[c]` along the axis; they are removed with the channel.

    The layer is given by its path, such as `"nested/conv1"`, and the weight by its name and its
    position in `layer.weights`; `positions` has shape `(width, positions per channel)`. The role is
    `"producer"` of a weight that makes the channels, `"consumer"` of one that contracts them,
    `"parameter"` of one that belongs to each channel (a bias, gamma, moving statistic, slope).
    """

    layer: str
    weight: str
    weight_index: int
    axis: int
    positions: np.ndarray = field(repr=False)
    role: str


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed together.

    It is named after the first layer that produces them; its width counts channels, or heads of an
    attention layer. `fixed` says why the width must stay as it is, if it must. A kept width must be
    a multiple of `divisor`, and of every block, which `blocks` gives by channel, equally many stay.
    """

    name: str
    width: int
    slots: tuple[Slot, ...]
    fixed: str | None = None
    divisor: int = 1
    blocks: np.ndarray | None = field(default=None, repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """Paths of the layers whose weights the group slices, in order, each once."""
        return tuple(dict.fromkeys(slot.layer for slot in self.slots))


def find_groups(model: Any) -> tuple[Group, ...]:
    """The coupled groups of a model, from its structure alone.

    They come in the order of their first producers; in a network with `priors`, each name begins
    with `"<prior key>/"`.

    Raises:
        TraceError: The graph of the model cannot be read; the message says why.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((3,)), dense(8, name="a"), dense(2, name="b")])
        >>> [(group.name, group.width, group.fixed) for group in find_groups(model)]
        [('a', 8, None), ('b', 2, 'a model output')]
    """
    from spade_keras.pruning.graph.analysis import analyze
    from spade_keras.pruning.graph.partition import partition

    if not is_network(model):
        return partition(analyze(model)).groups
    found = []
    for key, part in parts_of(model).items():
        for group in partition(analyze(part)).groups:
            slots = tuple(replace(x, layer=prefix_of(key) + x.layer) for x in group.slots)
            found.append(replace(group, name=prefix_of(key) + group.name, slots=slots))
    return tuple(found)
