"""What must change width together: the slots of weights that make up a group."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Slot:
    """The positions along one axis of one weight that belong to a group's channels.

    Channel `c` of the group owns `positions[c]` along `axis` of the weight; all of them go
    when the channel goes.

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
        slots: Where the channels live in the weights.
        fixed: Why the width must stay as it is, or None.
        divisor: A kept width must be a multiple of it.
        blocks: Block of every channel; each block must keep equally many. None: no blocks.
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
