"""The figure of the components that layers keep. It takes plain data and draws, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.report.figures import CHOSEN, FEASIBLE, GRID, INFEASIBLE, row_height, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = {"basis": "components pruned", "double": "channels, then components pruned"}


def rank_profile(ranks: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws, per layer, its components and those that stay, for both pruned networks.

    Args:
        ranks: One dict per layer in running order: "layer", "components", and per network
            ("basis", "double") what stays, "NAME", of how many after channels went, "NAME_of", and
            as one layer or two, "NAME_form" ("one" or "pair").

    Returns:
        The figure; `figures.png` renders it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    rows = np.arange(len(ranks))
    height = row_height(len(ranks))
    whole = np.array([row["components"] for row in ranks], float)
    with styled(9, 1.5 + height * len(ranks)) as figure:
        panels = figure.subplots(1, len(_PANELS), sharey=True, sharex=True)
        for axes, (name, title) in zip(panels, _PANELS.items(), strict=True):
            left = np.array([row[f"{name}_of"] for row in ranks], float)
            kept = np.array([row[name] for row in ranks], float)
            paired = np.array([row[f"{name}_form"] == "pair" for row in ranks])
            axes.barh(rows, whole, height=0.7, color=GRID, label="of the original")
            narrowed = np.where(left < whole, left, 0)
            axes.barh(rows, narrowed, height=0.7, color=INFEASIBLE, alpha=0.45,
                      label="left when channels are gone")  # fmt: skip
            for chosen, color, label in (
                (paired, FEASIBLE, "kept, as two layers"),
                (~paired, CHOSEN, "kept, merged into one layer"),
            ):
                axes.barh(rows, np.where(chosen, kept, 0), height=0.42, color=color, label=label)
            for row, (most, least) in enumerate(zip(whole, kept, strict=True)):
                axes.text(most, row, f"  {most:.0f} → {least:.0f}", va="center", fontsize=8)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("components")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(rows, [str(row["layer"]) for row in ranks], fontsize=28 * height)
        panels[0].set_ylim(len(ranks) - 0.4, -0.6)
        panels[0].set_xlim(0, 1.3 * float(whole.max(initial=1)))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False,
                      fontsize=8)  # fmt: skip
        return figure
