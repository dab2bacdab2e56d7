"""Layers that stand in a graph where one layer stood before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


class Chain:
    """Layers called one after another; an empty chain passes its input on.

    Args:
        layers: The layers, unbuilt. All take one tensor, the first also what else the
            replaced layer was called with.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer]) -> None:
        self.layers = list(layers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layers in order."""
        if not self.layers:
            return args[0]
        x = self.layers[0](*args, **kwargs)
        for layer in self.layers[1:]:
            x = layer(x)
        return x
