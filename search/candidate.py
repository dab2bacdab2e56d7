"""From a configuration to the network that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from spade_keras import pruning
from spade_keras.pruning.importance import ImportanceFunction, find_importance
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.search.precision import with_dtype
from spade_keras.search.space import Configuration

_MOST_RANKS = 8


def rank_choices(network: keras.Model, *, multiple: int = 8) -> dict[str, tuple[int, ...]]:
    """Lists the ranks a search may choose for every layer that can become a pair of layers.

    Args:
        network: The full network.
        multiple: Ranks are multiples of it, at most eight of them spread evenly below the rank
            at which a pair costs the same as the layer; the full rank is always among them.

    Returns:
        Path of the layer -> ranks, for the `ranks` of a `SearchSpace`. Layers that cannot be
        decomposed, or whose pairs save nothing at a multiple, are left out.
    """
    choices = {}
    for group in pruning.find_rank_groups(network):
        *lower, full = (0,) if group.fixed else group.allowed(multiple)
        if lower:
            places = np.linspace(0, len(lower) - 1, min(len(lower), _MOST_RANKS)).round()
            choices[group.name] = (*(lower[int(place)] for place in places), full)
    return choices


def plan_for(
    network: keras.Model,
    configuration: Configuration,
    *,
    importance: str | ImportanceFunction = "group_l1",
) -> pruning.PruningPlan:
    """Plans the blocks, widths and ranks of a configuration, for `realize`.

    Args:
        network: The full network; it is left as it is.
        configuration: The choice; entries for layers that are gone with a dropped block, or with
            an iteration that had its own prior, are ignored.
        importance: Criterion by which channels are kept.

    Returns:
        The plan, made for the network at the iterations of the configuration.

    Raises:
        ValueError: If a name or number does not fit the network.
    """
    return CandidateBuilder(network, importance=importance).make(configuration)[0]


def build(
    network: keras.Model,
    configuration: Configuration,
    *,
    importance: str | ImportanceFunction = "group_l1",
) -> keras.Model:
    """Builds the network of a configuration; see `plan_for`."""
    return CandidateBuilder(network, importance=importance)(configuration)


def realize(
    network: keras.Model,
    configuration: Configuration,
    plan: pruning.PruningPlan,
    calibration: pruning.Calibration | None = None,
    *,
    sequential: bool = True,
) -> keras.Model:
    """Builds the network of a configuration by a plan that was made for it.

    Args:
        network: The full network.
        configuration: Its iterations and precision are read.
        plan: The blocks, widths and ranks.
        calibration: Statistics of `network`, by which readers are refitted; None: they are cut.
        sequential: See `pruning.rebuild`.
    """
    base = _shorten(network, configuration.iterations)
    slim = pruning.rebuild(base, plan, calibration=calibration, sequential=sequential)
    return slim if configuration.dtype is None else with_dtype(slim, configuration.dtype)


class CandidateBuilder:
    """Builds many candidates of one network, analyzing each depth once.

    Args:
        network: The full network.
        importance: Criterion by which channels are kept.
        calibration: Statistics of `network`, by which readers are refitted in closed form.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        importance: str | ImportanceFunction = "group_l1",
        calibration: pruning.Calibration | None = None,
    ) -> None:
        self.network = network
        self.importance = find_importance(importance, calibration)
        self.calibration = calibration
        self._depth: tuple[Any, tuple[pruning.PruningPlan | None, keras.Model]] | None = None

    def __call__(self, configuration: Configuration) -> keras.Model:
        """Returns the network of a configuration."""
        _, slim = self.make(configuration)
        return slim if configuration.dtype is None else with_dtype(slim, configuration.dtype)

    def make(self, configuration: Configuration) -> tuple[pruning.PruningPlan, keras.Model]:
        """Returns the plan of a configuration, and its network in the original's precision."""
        blocks, base = self._at_depth(configuration)
        widths = self.canonical(configuration).widths
        plan = pruning.make_plan(base, widths=widths, importance=self.importance)
        slim = pruning.rebuild(base, plan, calibration=self.calibration, sequential=False)
        plan = plan if blocks is None else blocks.then(plan)
        ranks = _cheaper(slim, configuration.ranks)
        if ranks:
            lower = pruning.plan_ranks(slim, ranks)
            plan, slim = plan.then(lower), pruning.rebuild(slim, lower)
        return plan, slim

    def canonical(self, configuration: Configuration) -> Configuration:
        """Leaves out the widths of groups that are gone with a dropped block or iteration.

        Configurations that differ in those alone are the same network.
        """
        shared = len(parts_of(self.network)) < 2
        if not configuration.dropped and (shared or configuration.iterations is None):
            return configuration
        _, base = self._at_depth(configuration)
        names = {group.name for group in pruning.find_groups(base)}
        widths = {g: width for g, width in configuration.widths.items() if g in names}
        return replace(configuration, widths=widths)

    def _at_depth(
        self, configuration: Configuration
    ) -> tuple[pruning.PruningPlan | None, keras.Model]:
        """The blocks of a configuration, and the network without them; the last one is kept."""
        depth = (configuration.iterations, configuration.dropped)
        if depth in ((None, ()), (iterations_of(self.network), ())):
            return None, self.network
        if self._depth is None or self._depth[0] != depth:
            plan, base = None, _shorten(self.network, configuration.iterations)
            gone = parts_of(self.network).keys() - parts_of(base).keys()
            names = [x for x in configuration.dropped if x.partition("/")[0] not in gone]
            if names:
                plan = pruning.drop_blocks(base, names)
                base = pruning.rebuild(base, plan)
            self._depth = (depth, (plan, base))
        return self._depth[1]


def _shorten(network: keras.Model, iterations: int | None) -> Any:
    if iterations in (None, iterations_of(network)):
        return network
    return network.with_iterations(iterations)


def _cheaper(slim: keras.Model, ranks: Mapping[str, int]) -> dict[str, int]:
    """The ranks of layers that are there and narrow enough for a pair to be cheaper."""
    there = {group.name: group for group in pruning.find_rank_groups(slim)} if ranks else {}
    return {
        name: rank
        for name, rank in ranks.items()
        if name in there and not there[name].fixed and rank < there[name].break_even
    }
