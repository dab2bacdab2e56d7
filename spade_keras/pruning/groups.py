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

    Args:
        layer: Path of the layer, its name or `"nested/conv1"` inside a nested model.
        weight: Name of the weight, such as `"kernel"`.
        weight_index: Position of the weight in `layer.weights`.
        axis: The axis of the weight that is sliced.
        positions: Integers of shape `(width, positions per channel)`.
        role: `"producer"` makes the channels, `"consumer"` contracts them, `"parameter"`
            belongs to each channel (a bias, gamma, moving statistic, slope).
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

    Args:
        name: Path of the first layer that produces the channels.
        width: Number of prunable units: channels, or heads of an attention layer.
        slots: Places of the channels in the weights.
        fixed: Why the width must stay as it is, or None.
        divisor: A kept width must be a multiple of it.
        blocks: Block of every channel, if any; each must keep equally many.
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
        >>> from spade_keras.pruning.groups import find_groups
        >>> inputs = keras.Input((None, None, 3))
        >>> x = keras.layers.Conv2D(8, 3, name="wide")(inputs)
        >>> outputs = keras.layers.Conv2D(2, 3, name="last")(x)
        >>> [(g.name, g.width, g.fixed) for g in find_groups(keras.Model(inputs, outputs))]
        [('wide', 8, None), ('last', 2, 'a model output')]
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
