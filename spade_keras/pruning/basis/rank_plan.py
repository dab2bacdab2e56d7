"""Which components of which layers stay, and in what form: one frozen step of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Form = Literal["pair", "one"]
FORMS: tuple[Form, ...] = ("pair", "one")


@dataclass(frozen=True)
class LayerRank:
    """What becomes of one decomposed layer.

    Args:
        name: Path of the layer.
        rank: Components per group the layer has in all, `min(rows, columns)`.
        kept: Indices of those that stay, ascending; 0 has the largest singular value.
        form: `"pair"` keeps the two layers, `"one"` merges them back into one layer.
        scales: Scaling factors of the kept components, group after group; empty: all 1.
    """

    name: str
    rank: int
    kept: tuple[int, ...]
    form: Form = "pair"
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)):
            raise ValueError(
                "`kept` must list at least one component, each once, in ascending order. "
                f"Received: kept={self.kept[:8]} for layer {self.name!r}."
            )
        if self.kept[0] < 0 or self.kept[-1] >= self.rank:
            raise ValueError(
                f"`kept` must lie in [0, {self.rank}), the components of layer {self.name!r}. "
                f"Received: kept={self.kept[:8]}."
            )
        if self.form not in FORMS:
            raise ValueError(
                f"`form` must be one of {list(FORMS)}. Received: form={self.form!r} for layer "
                f"{self.name!r}."
            )
        if len(self.scales) % len(self.kept) or not all(map(math.isfinite, self.scales)):
            raise ValueError(
                "`scales` must hold one finite factor per kept component and group, or none. "
                f"Received: {len(self.scales)} scales for {len(self.kept)} components of "
                f"{self.name!r}, the first {self.scales[:4]}."
            )


@dataclass(frozen=True)
class RankPlan:
    """The ranks of a model's layers; layers that are not listed stay as they are.

    Args:
        model: Name of the model whose layers are decomposed.
        layers: One entry per decomposed layer.
        importance: What ranked the components.
    """

    model: str
    layers: tuple[LayerRank, ...]
    importance: str = ""

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ValueError(
                "`layers` must name at least one layer, and each once. "
                f"Received: {len(names)} layers, twice: {twice}."
            )

    @property
    def ranks(self) -> dict[str, int]:
        """Components that stay, by layer."""
        return {layer.name: len(layer.kept) for layer in self.layers}

    def summary(self) -> str:
        """Tells per layer how many components stay, and in what form.

        Returns:
            A text table, one line per layer.
        """
        kept = sum(self.ranks.values())
        total = sum(layer.rank for layer in self.layers)
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"Ranks for {self.model!r}: {kept} of {total} components kept"]
        forms = {"pair": "two layers", "one": "merged back into one layer"}
        for layer in self.layers:
            change = f"{layer.rank} -> {len(layer.kept)}"
            lines.append(f"{layer.name:<{width}}  {change:<14}  {forms[layer.form]}")
        return "\n".join(lines)
