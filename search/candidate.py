"""From a configuration to the network that has it."""

from __future__ import annotations

import keras

from spade_keras import pruning
from spade_keras.search.space import Configuration


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
    return _finish(base, plan, configuration)


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
        return _finish(base, _plan(base, configuration, self.importance), configuration)

    def canonical(self, configuration: Configuration) -> Configuration:
        """Leaves out the widths of groups that went with a dropped block or iteration.

        Configurations that differ in those alone are one network.
        """
        shared = len(getattr(self.network, "priors", ())) < 2
        if not configuration.dropped and (shared or configuration.iterations is None):
            return configuration
        names = {group.name for group in pruning.find_groups(self._base(configuration))}
        widths = {g: width for g, width in configuration.widths.items() if g in names}
        return Configuration(
            widths, configuration.iterations, configuration.dropped, configuration.dtype
        )

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


def _finish(
    base: keras.Model, plan: pruning.PruningPlan, configuration: Configuration
) -> keras.Model:
    slim = pruning.rebuild(base, plan)
    if configuration.dtype is None:
        return slim
    from spade_keras.search.precision import with_dtype

    return with_dtype(slim, configuration.dtype)
