"""Channels and ranks in one plan: the steps of double pruning, frozen and JSON-able."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from spade_keras.pruning.basis.rank_plan import LayerRank, RankPlan
from spade_keras.pruning.plan import PruningPlan

FORMAT_VERSION = 1

Step = PruningPlan | RankPlan


@dataclass(frozen=True)
class BasisPlan:
    """Steps from an original model to the slim one, each made for what the one before leaves.

    A `PruningPlan` removes channels, a `RankPlan` components. Channels first and ranks after
    is the usual order; the reverse, or a single step, is as good a plan.

    Args:
        model: Name of the original model.
        steps: The steps in order, at least one.

    Example:
        >>> ranks = RankPlan("net", (LayerRank("conv", 4, (0, 2)),), "taylor")
        >>> plan = BasisPlan("net", (ranks,))
        >>> BasisPlan.from_json(plan.to_json()) == plan
        True
    """

    model: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        known = all(isinstance(step, PruningPlan | RankPlan) for step in self.steps)
        if not self.steps or not known:
            raise ValueError(
                "`steps` must hold at least one PruningPlan or RankPlan and nothing else. "
                f"Received: steps={[type(step).__name__ for step in self.steps]}."
            )

    def to_json(self) -> str:
        """Writes the plan as JSON text; `from_json` reads it back equal."""
        steps = []
        for step in self.steps:
            if isinstance(step, PruningPlan):
                steps.append({"channels": json.loads(step.to_json())})
            else:
                steps.append({"ranks": asdict(step)})
        return json.dumps(
            {"basis_format_version": FORMAT_VERSION, "model": self.model, "steps": steps}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> BasisPlan:
        """Reads a plan written by `to_json`.

        Args:
            text: The JSON text.

        Returns:
            The plan.

        Raises:
            ValueError: If the text is not JSON, is of another version, or an entry is missing,
                unknown or of the wrong type.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"`text` must be JSON written by `to_json`: {error}.") from error
        found = data.get("basis_format_version") if isinstance(data, dict) else None
        if found != FORMAT_VERSION:
            raise ValueError(
                f"`text` must be a basis plan of basis_format_version {FORMAT_VERSION}. "
                f"Received: basis_format_version={found!r}. Make the plan again."
            )
        if set(data) != {"basis_format_version", "model", "steps"}:
            raise ValueError(
                f"A basis plan must have the entries 'model' and 'steps'. Received: {sorted(data)}."
            )
        if not isinstance(data["model"], str) or not isinstance(data["steps"], list):
            raise ValueError(
                "`model` must be a name and `steps` a list. "
                f"Received: model={data['model']!r}, steps={data['steps']!r}."
            )
        steps = tuple(_read_step(step, f"steps[{i}]") for i, step in enumerate(data["steps"]))
        return cls(data["model"], steps)

    def summary(self) -> str:
        """The summaries of the steps, one after another."""
        return "\n\n".join(step.summary() for step in self.steps)


def _read_step(step: Any, where: str) -> Step:
    if isinstance(step, dict) and set(step) == {"channels"}:
        return PruningPlan.from_json(json.dumps(step["channels"]))
    if not isinstance(step, dict) or not isinstance(step.get("ranks"), dict) or len(step) > 1:
        raise ValueError(
            f"{where} must be an object with the one entry 'channels' or 'ranks'. "
            f"Received: {step!r}."
        )
    try:
        entries = dict(step["ranks"])
        layers = tuple(_read_layer(layer) for layer in entries.pop("layers"))
        plan = RankPlan(layers=layers, **entries)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"'ranks' of {where} must have the entries 'model', 'layers' and 'importance', and "
            f"each layer those of `LayerRank`. Received: {str(step['ranks'])[:200]} ({error})."
        ) from error
    if not isinstance(plan.model, str) or not isinstance(plan.importance, str):
        raise ValueError(f"'model' and 'importance' of {where} must be names. Received: {plan}.")
    return plan


def _read_layer(layer: dict[str, Any]) -> LayerRank:
    kept, scales = layer["kept"], layer.get("scales", [])
    whole = [layer["rank"], *kept]
    if not isinstance(layer["name"], str) or any(type(x) is not int for x in whole):
        raise TypeError("a name must be text, ranks and kept components integers")
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in scales):
        raise TypeError("scales must be numbers")
    return LayerRank(**{**layer, "kept": tuple(kept), "scales": tuple(map(float, scales))})
