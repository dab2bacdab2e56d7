"""Plans that keep random channels, and the same plans with one kept channel exchanged."""

import dataclasses

import numpy as np

from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.plan import ChannelStep, GroupPlan, PruningPlan


def random_plan(model, generator, count=lambda size: max(1, size // 2)):
    """Keeps `count(size)` random channels of every block of each free group: by default half."""
    entries = []
    for group in find_groups(model):
        kept = np.arange(group.width)
        if group.fixed is None:
            blocks = np.zeros(group.width, int) if group.blocks is None else group.blocks
            many = count(np.bincount(blocks).max())
            parts = [generator.permutation(np.flatnonzero(blocks == b)) for b in np.unique(blocks)]
            kept = np.sort(np.concatenate([part[:many] for part in parts]))
        entries.append(GroupPlan(group.name, group.width, tuple(kept.tolist()), fixed=group.fixed))
    return PruningPlan(model.name, (ChannelStep(tuple(entries), "random"),))


def swaps(model, plan):
    """Name of a narrowed group, and the plan with one of its kept channels exchanged."""
    blocks = {group.name: group.blocks for group in find_groups(model)}
    for index, entry in enumerate(plan.groups):
        of = blocks[entry.name]
        for old in entry.kept:
            missing = set(range(entry.width)) - set(entry.kept)
            same = [c for c in sorted(missing) if of is None or of[c] == of[old]]
            if same:
                kept = tuple(sorted((set(entry.kept) - {old}) | {same[0]}))
                changed = dataclasses.replace(entry, kept=kept)
                groups = (*plan.groups[:index], changed, *plan.groups[index + 1 :])
                steps = (ChannelStep(groups, "swapped"),)
                yield entry.name, dataclasses.replace(plan, steps=steps)
                break
