"""From a plan of ranks, or of channels and ranks, to the slim model."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any

import numpy as np

from spade_keras.errors import PlanMismatchError
from spade_keras.pruning.basis.basis_plan import BasisPlan
from spade_keras.pruning.basis.decomposition import decompose
from spade_keras.pruning.basis.merging import Choice, cheaper_form, group_of, merge_as
from spade_keras.pruning.basis.pairs import find_pairs
from spade_keras.pruning.basis.rank_groups import RankGroup, find_rank_groups
from spade_keras.pruning.basis.rank_plan import LayerRank, RankPlan
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.rebuild import rebuild


def rebuild_basis(model: Any, plan: BasisPlan) -> Any:
    """Builds the slim model of a plan step by step; the original stays as it is.

    Args:
        model: The model the plan was made for, or a network with `priors`.
        plan: The plan.

    Returns:
        An ordinary model with the original's weights, of stock layers where the original is.

    Raises:
        PlanMismatchError: A step was made for another model.
    """
    for step in plan.steps:
        model = (
            rebuild(model, step) if isinstance(step, PruningPlan) else rebuild_ranks(model, step)
        )
    return model


def rebuild_ranks(model: Any, plan: RankPlan) -> Any:
    """Decomposes the layers of a plan, keeps its components and merges; for one step.

    Args:
        model: The model the plan was made for, or a network with `priors`.
        plan: The plan.

    Raises:
        PlanMismatchError: The plan was made for another model.
    """
    check_rank_plan(model, plan)
    names = [layer.name for layer in plan.layers]
    ranks = {layer.name: layer.kept[-1] + 1 for layer in plan.layers}
    # A path is given as a pattern: its own wildcards are escaped.
    low = decompose(model, [glob.escape(name) for name in names], max_rank=ranks)
    entries = {layer.name: layer for layer in plan.layers}
    choices = {}
    for pair in find_pairs(low):
        entry = entries[pair.name]
        kept = tuple(i for i in entry.kept if i < pair.scaling.rank)
        choices[pair.name] = Choice(kept or (0,), entry.form)
        if entry.scales:
            _set_scales(pair, entry)
    return merge_as(low, choices)


def check_rank_plan(model: Any, plan: RankPlan) -> dict[str, RankGroup]:
    """The rank groups a plan speaks of, after it was compared with the model.

    Args:
        model: The model.
        plan: The plan.

    Raises:
        PlanMismatchError: Names the first layer that differs.
    """
    groups = {group.name: group for group in find_rank_groups(model)}
    for layer in plan.layers:
        group = groups.get(layer.name)
        if group is None or group.fixed is not None or group.rank != layer.rank:
            found = "no such layer"
            if group is not None:
                found = group.fixed or f"{group.rank} components"
            raise PlanMismatchError(
                f"`plan` was made for another model: layer {layer.name!r} should have "
                f"{layer.rank} components. Received: a model with {found} there. Make the plan "
                "again with `make_rank_plan`."
            )
        if len(layer.scales) not in (0, group.groups * len(layer.kept)):
            raise PlanMismatchError(
                f"`plan` must hold one scale per kept component and group of {layer.name!r}, "
                f"{group.groups * len(layer.kept)}. Received: {len(layer.scales)} scales."
            )
    return groups


class RankBuilder:
    """Builds models of chosen ranks from one model, whose kernels are factorized once.

    The hook for a search over ranks: `groups` gives the choices, a call gives the candidate.
    The largest singular values stay, and every layer takes the form with fewer
    multiply-accumulates.

    Args:
        model: A Keras model, or a network with `priors`.
        layers: See `decompose`.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a")])
        >>> builder = RankBuilder(model)
        >>> builder.groups[0].allowed()
        (1, 2, 3, 8)
        >>> builder({"a": 2}).count_params()
        40
    """

    def __init__(self, model: Any, layers: Any = None) -> None:
        self.model = model
        self._low = decompose(model, layers)
        self._pairs = {pair.name: pair for pair in find_pairs(self._low)}
        self.groups = tuple(group_of(pair) for pair in self._pairs.values())

    def plan(self, ranks: Mapping[str, int]) -> RankPlan:
        """The plan of a choice; layers at full rank are left out.

        Args:
            ranks: Components per layer; layers not named keep all of theirs.

        Raises:
            ValueError: A name or rank fits no layer, or no layer loses a component.
        """
        wanted = self._checked(ranks)
        entries = []
        for group in self.groups:
            rank = wanted[group.name]
            if rank < group.rank:
                form = cheaper_form(group, rank)
                entries.append(LayerRank(group.name, group.rank, tuple(range(rank)), form))
        if not entries:
            raise ValueError(
                "`ranks` must lower the rank of a layer. "
                f"Received: ranks={dict(ranks)} of {self._full()}."
            )
        return RankPlan(self.model.name, tuple(entries), "sigma")

    def __call__(self, ranks: Mapping[str, int]) -> Any:
        """The merged model of a choice: `rebuild_ranks` of its plan, without the SVD.

        Args:
            ranks: See `plan`.
        """
        wanted = self._checked(ranks)
        choices = {}
        for group in self.groups:
            rank = min(wanted[group.name], self._pairs[group.name].scaling.rank)
            choices[group.name] = Choice(tuple(range(rank)), cheaper_form(group, rank))
        return merge_as(self._low, choices)

    def _full(self) -> dict[str, int]:
        return {group.name: group.rank for group in self.groups}

    def _checked(self, ranks: Mapping[str, int]) -> dict[str, int]:
        full = self._full()
        for name, rank in ranks.items():
            known = full.get(name)
            whole = isinstance(rank, int | np.integer) and not isinstance(rank, bool)
            if known is None or not whole or not 1 <= rank <= known:
                raise ValueError(
                    f"`ranks` must give each layer of {full} at least 1 and at most all of its "
                    f"components. Received: {rank!r} for {name!r}."
                )
        return {**full, **{name: int(rank) for name, rank in ranks.items()}}


def _set_scales(pair: Any, entry: LayerRank) -> None:
    scale = np.ones((pair.scaling.groups, pair.scaling.rank), "float32")
    given = np.asarray(entry.scales, "float32").reshape(pair.scaling.groups, -1)
    inside = [i for i in entry.kept if i < pair.scaling.rank]
    scale[:, inside] = given[:, : len(inside)]
    pair.scaling.scale.assign(scale.reshape(-1))
