"""From a configuration to the network that has it."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np

from spade_keras import pruning
from spade_keras.pruning import basis
from spade_keras.search.precision import with_dtype
from spade_keras.search.space import Configuration

_MOST_RANKS = 8


def rank_choices(network: keras.Model, *, multiple: int = 8) -> dict[str, tuple[int, ...]]:
    """Lists the ranks a search may choose for every layer that can become a pair of layers.

    Args:
        network: The full network.
        multiple: Ranks are multiples of it, at most eight of them spread evenly below the rank
            from which on a pair costs as much as the layer; the full rank is always among them.

    Returns:
        Path of the layer -> ranks, for the `ranks` of a `SearchSpace`. Layers that cannot be
        decomposed, or whose pairs save nothing at a multiple, are left out.
    """
    choices = {}
    for group in basis.find_rank_groups(network):
        *lower, full = (0,) if group.fixed else group.allowed(multiple)
        if lower:
            places = np.linspace(0, len(lower) - 1, min(len(lower), _MOST_RANKS)).round()
            choices[group.name] = (*(lower[int(place)] for place in places), full)
    return choices


def plan_for(
    network: keras.Model, configuration: Configuration, *, importance: str = "group_l1"
) -> tuple[keras.Model, pruning.PruningPlan]:
    """Cuts the depth of a network and plans its widths.

    Args:
        network: The full network; it is left as it is.
        configuration: The choice; widths of groups that went with a dropped block, or with an
            iteration that had a prior of its own, are passed over.
        importance: Criterion by which channels are kept.

    Returns:
        The network with the iterations and blocks of the configuration at full width, which is
        `network` itself if they are its own; and the plan for it.

    Raises:
        ValueError: If a name or number does not fit the network.
    """
    base = network
    if configuration.dropped:
        base = pruning.drop_blocks(base, configuration.dropped)
    if configuration.iterations not in (None, getattr(base, "iterations", None)):
        base = base.with_iterations(configuration.iterations)
    return base, _plan(base, configuration, importance)


def build(
    network: keras.Model, configuration: Configuration, *, importance: str = "group_l1"
) -> keras.Model:
    """Builds the network of a configuration; see `plan_for`."""
    base, plan = plan_for(network, configuration, importance=importance)
    return finish(base, plan, configuration)


def finish(
    base: keras.Model, plan: pruning.PruningPlan, configuration: Configuration
) -> keras.Model:
    """Builds the network of a configuration from what `plan_for` returned for it.

    Args:
        base: The network at its depth, at full width.
        plan: Which channels stay.
        configuration: Its ranks and precision are read.
    """
    slim = _with_ranks(pruning.rebuild(base, plan), configuration.ranks)
    return slim if configuration.dtype is None else with_dtype(slim, configuration.dtype)


class CandidateBuilder:
    """Builds many candidates of one network, analyzing each depth once.

    Args:
        network: The full network.
        importance: Criterion by which channels are kept.
    """

    def __init__(self, network: keras.Model, *, importance: str = "group_l1") -> None:
        self.network = network
        self.importance = importance
        self._depth: tuple[tuple[int | None, tuple[str, ...]], keras.Model] | None = None

    def __call__(self, configuration: Configuration) -> keras.Model:
        """Returns the network of a configuration."""
        base = self._base(configuration)
        return finish(base, _plan(base, configuration, self.importance), configuration)

    def canonical(self, configuration: Configuration) -> Configuration:
        """Leaves out the widths of groups that went with a dropped block or iteration.

        Configurations that differ in those alone are one network.
        """
        shared = len(getattr(self.network, "priors", ())) < 2
        if not configuration.dropped and (shared or configuration.iterations is None):
            return configuration
        names = {group.name for group in pruning.find_groups(self._base(configuration))}
        widths = {g: width for g, width in configuration.widths.items() if g in names}
        return replace(configuration, widths=widths)

    def _base(self, configuration: Configuration) -> keras.Model:
        """The network at the depth of a configuration; the last one made is kept."""
        depth = (configuration.iterations, configuration.dropped)
        if depth in ((None, ()), (getattr(self.network, "iterations", None), ())):
            return self.network
        if self._depth is None or self._depth[0] != depth:
            base, _ = plan_for(self.network, Configuration({}, *depth), importance=self.importance)
            self._depth = (depth, base)
        return self._depth[1]


def _plan(base: keras.Model, configuration: Configuration, importance: str) -> pruning.PruningPlan:
    widths = dict(configuration.widths)
    if configuration.dropped or configuration.iterations is not None:
        names = {group.name for group in pruning.find_groups(base)}
        widths = {group: width for group, width in widths.items() if group in names}
    return pruning.make_plan(base, widths=widths, importance=importance)


def _with_ranks(slim: keras.Model, ranks: Mapping[str, int]) -> keras.Model:
    """Replaces layers by pairs, those that are there and narrow enough for a pair to be cheaper."""
    there = {group.name: group for group in basis.find_rank_groups(slim)} if ranks else {}
    lower = {
        name: rank
        for name, rank in ranks.items()
        if name in there and not there[name].fixed and rank < there[name].break_even
    }
    if not lower:
        return slim
    # A path is given as a pattern: its own wildcards are escaped.
    return basis.RankBuilder(slim, [glob.escape(name) for name in lower])(lower)
