"""From ties to groups: connected components, their constraints, their slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spade_keras.pruning.graph.analysis import Analysis, is_varied
from spade_keras.pruning.graph.labels import Labels, LabelStore, SlotRecord
from spade_keras.pruning.groups import Group, Slot

_UINT = np.uint64


@dataclass
class Partition:
    """The groups of one model and where every label went.

    Args:
        groups: The groups in the order of their first producers.
        group_of: Group index per label, -1 for labels that no plan removes.
        unit_of: Channel within the group per label.
    """

    groups: tuple[Group, ...]
    group_of: np.ndarray
    unit_of: np.ndarray

    def alive(self, kept: Mapping[str, Any]) -> np.ndarray:
        """A flag per label: True when the channel stays.

        Args:
            kept: Kept channels by group name; groups that are not named stay whole.
        """
        alive = np.ones(len(self.group_of), dtype=bool)
        starts = np.cumsum([0] + [group.width for group in self.groups])
        keep = np.ones(starts[-1] + 1, dtype=bool)
        for index, group in enumerate(self.groups):
            if group.name in kept:
                keep[starts[index] : starts[index + 1]] = False
                keep[starts[index] + np.asarray(kept[group.name], dtype=int)] = True
        inside = self.group_of >= 0
        alive[inside] = keep[starts[self.group_of[inside]] + self.unit_of[inside]]
        return alive


def partition(analysis: Analysis) -> Partition:
    """The groups of an analyzed model, made once.

    Args:
        analysis: The labels of the model.
    """
    known = analysis.cache.get("partition")
    if known is None:
        known = analysis.cache["partition"] = _partition(analysis)
    return known


def _partition(analysis: Analysis) -> Partition:
    store = analysis.store
    varied = [labels for labels in analysis.labels.values() if is_varied(labels)]
    while True:
        component = _components(store)
        fixed = _fixed(store, component)
        if _make_rectangular(store, component, fixed, varied):
            continue
        group_of, unit_of = _groups(store, component, fixed >= 0)
        blocks = _blocks(store, group_of, unit_of, fixed[component] >= 0)
        if blocks is not None:
            break
    groups = _build(analysis, component, fixed, group_of, unit_of, blocks)
    return Partition(groups, group_of, unit_of)


def _components(store: LabelStore) -> np.ndarray:
    """Component of every label; label 0 is a component of its own."""
    if not store.edges:
        return np.arange(store.size)
    rows = np.concatenate([a for a, _ in store.edges])
    columns = np.concatenate([b for _, b in store.edges])
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), (store.size, store.size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _fixed(store: LabelStore, component: np.ndarray) -> np.ndarray:
    """Index of the first freeze that hits each component, -1 for free ones."""
    count = int(component.max()) + 1
    first = np.full(count, len(store.frozen))
    for index in range(len(store.frozen) - 1, -1, -1):
        first[component[store.frozen[index][0]]] = index
    first[first == len(store.frozen)] = -1
    first[component[0]] = len(store.frozen)
    return first


def _make_rectangular(
    store: LabelStore, component: np.ndarray, fixed: np.ndarray, varied: list[Labels]
) -> bool:
    """Ties labels until every tensor loses whole slices along one axis only."""
    touched = np.zeros(store.size, dtype=bool)
    for labels in varied:
        if touched[labels].any():
            continue
        ids = component[labels]
        ids = np.where(fixed[ids] >= 0, -1, ids)
        axes = [axis for axis in range(ids.ndim) if ids.shape[axis] > 1]
        if any(_constant_elsewhere(ids, axis) for axis in axes):
            continue
        rows = np.moveaxis(labels, axes[-1], -1).reshape(-1, labels.shape[axes[-1]])
        store.tie(rows[:1], rows[1:])
        touched[labels] = True
    return bool(touched.any())


def _constant_elsewhere(ids: np.ndarray, axis: int) -> bool:
    rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
    return bool((rows == rows[:1]).all())


def _hashes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**63, count, dtype=_UINT)


def _groups(
    store: LabelStore, component: np.ndarray, fixed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Group and channel of every label.

    Channels belong to one group when exactly the same slots hold them, equally often.
    """
    count = len(fixed)
    hashes = _hashes(len(store.slots) + 1)
    total: dict[int, tuple[Labels, _UINT]] = {}
    made = np.zeros(count, dtype=bool)
    with np.errstate(over="ignore"):
        for record, value in zip(store.slots, hashes, strict=False):
            key = id(record.labels)
            known = total.get(key)
            total[key] = (record.labels, value if known is None else known[1] + value)
            if record.role == "producer":
                made[component[record.labels]] = True
        signature = np.where(fixed, hashes[-1], _UINT(0))
        if total:
            flat = np.concatenate([labels for labels, _ in total.values()])
            sizes = [len(labels) for labels, _ in total.values()]
            values = np.repeat(np.array([v for _, v in total.values()], dtype=_UINT), sizes)
            np.add.at(signature, component[flat], values)
    made[component[0]] = False
    first = np.zeros(count, dtype=np.int64)
    first[component[::-1]] = np.arange(len(component) - 1, -1, -1)
    candidates = np.flatnonzero(made)
    candidates = candidates[np.argsort(first[candidates], kind="stable")]
    _, inverse = np.unique(signature[candidates], return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    starts = np.repeat(bounds, np.diff(np.append(bounds, len(order))))
    group = np.full(count, -1)
    unit = np.full(count, -1)
    group[candidates[order]] = inverse[order]
    unit[candidates[order]] = np.arange(len(order)) - starts
    return group[component], unit[component]


def _blocks(
    store: LabelStore, group_of: np.ndarray, unit_of: np.ndarray, fixed: np.ndarray
) -> dict[int, np.ndarray] | None:
    """Block ids per constrained group, or None after ties were added instead."""
    blocks: dict[int, np.ndarray] = {}
    for record in store.blocks:
        labels = record.labels
        if (fixed[labels] | (group_of[labels] < 0)).all():
            continue
        rows = labels.reshape(record.count, -1)
        group = int(group_of[labels[0]])
        width = int((np.bincount(unit_of[group_of == group]) > 0).sum()) if group >= 0 else 0
        units = unit_of[labels]
        whole = (group_of[labels] == group).all() and len(set(units.tolist())) == len(labels)
        if whole and width == len(labels):
            ids = np.empty(width, dtype=np.int64)
            ids[units] = np.repeat(np.arange(record.count), rows.shape[1])
            known = blocks.get(group)
            joint = ids if known is None else known * record.count + ids
            sizes = np.unique(joint, return_inverse=True, return_counts=True)
            if (sizes[2] == sizes[2][0]).all():
                blocks[group] = sizes[1]
                continue
        if _tied(rows, group_of, unit_of):
            continue
        store.tie(rows[:1], rows[1:])
        return None
    return blocks


def _tied(rows: Labels, group_of: np.ndarray, unit_of: np.ndarray) -> bool:
    """True when the rows already lose the same positions."""
    groups, units = group_of[rows], unit_of[rows]
    return bool((groups == groups[:1]).all() and (units == units[:1]).all())


def _build(
    analysis: Analysis,
    component: np.ndarray,
    fixed: np.ndarray,
    group_of: np.ndarray,
    unit_of: np.ndarray,
    blocks: dict[int, np.ndarray],
) -> tuple[Group, ...]:
    """Group objects in the order of their first producers, renumbering `group_of` in place."""
    store = analysis.store
    count = int(group_of.max()) + 1
    widths = np.zeros(count, dtype=np.int64)
    inside = group_of >= 0
    np.maximum.at(widths, group_of[inside], unit_of[inside] + 1)
    reason = np.full(count, -1)
    reason[group_of[inside]] = fixed[component[np.flatnonzero(inside)]]
    slots: list[list[Slot]] = [[] for _ in range(count)]
    first: dict[int, int] = {}
    placed: dict[int, list[tuple[int, np.ndarray]]] = {}
    index_of: dict[int, dict[int, int]] = {}
    for number, record in enumerate(store.slots):
        layer = record.layer
        indices = index_of.get(id(layer))
        if indices is None:
            indices = index_of[id(layer)] = {id(w): i for i, w in enumerate(layer.weights)}
        pieces = placed.get(id(record.labels))
        if pieces is None:
            pieces = _place(group_of[record.labels], unit_of[record.labels], widths)
            placed[id(record.labels)] = pieces
        variable = record.variable
        position = indices.get(id(variable))
        if position is None:
            continue
        for group, positions in pieces:
            if record.role == "producer":
                first.setdefault(group, number)
            slots[group].append(
                _slot(record.path, variable.name, position, record.axis, positions, record.role)
            )
    order = sorted(first, key=first.__getitem__)
    names = _names([store.slots[first[group]] for group in order])
    groups = []
    for group, name in zip(order, names, strict=True):
        why = int(reason[group])
        groups.append(
            Group(
                name=name,
                width=int(widths[group]),
                slots=tuple(slots[group]),
                fixed=None if why < 0 else store.frozen[why][1],
                divisor=int(blocks[group].max()) + 1 if group in blocks else 1,
                blocks=blocks.get(group),
            )
        )
    renumber = np.full(count + 1, -1)
    renumber[order] = np.arange(len(order))
    group_of[:] = renumber[group_of]
    return tuple(groups)


def _names(records: list[SlotRecord]) -> list[str]:
    """A name per group from its first producer; a number where a layer makes several groups."""
    taken: dict[str, int] = {}
    names = []
    for record in records:
        name = record.path + record.unit
        taken[name] = taken.get(name, 0) + 1
        names.append(name if taken[name] == 1 else f"{name}#{taken[name]}")
    return names


def _slot(*values: Any) -> Slot:
    """A `Slot` made without the field-by-field checks of a frozen dataclass: there are many."""
    slot = object.__new__(Slot)
    slot.__dict__.update(zip(_SLOT_FIELDS, values, strict=True))
    return slot


_SLOT_FIELDS = ("layer", "weight", "weight_index", "axis", "positions", "role")


def _place_runs(
    group: np.ndarray, unit: np.ndarray, widths: np.ndarray
) -> list[tuple[int, np.ndarray]] | None:
    """`_place` for the common case of whole groups one after another."""
    change = group[1:] != group[:-1]
    if not change.any():
        name = int(group[0])
        if name < 0:
            return []
        place = np.arange(len(group))
        whole = len(group) == widths[name] and (unit == place).all()
        return [(name, place[:, None])] if whole else None
    cuts = np.flatnonzero(change) + 1
    starts = np.concatenate(([0], cuts))
    sizes = np.diff(starts, append=len(group))
    names = group[starts]
    real = names >= 0
    if (sizes[real] != widths[names[real]]).any() or len(set(names.tolist())) != len(names):
        return None
    place = np.arange(len(group))
    offsets = place - np.repeat(starts, sizes)
    if (offsets != unit)[np.repeat(real, sizes)].any():
        return None
    column = place[:, None]
    ends = starts + sizes
    return [
        (name, column[start:end])
        for name, start, end in zip(names.tolist(), starts.tolist(), ends.tolist(), strict=True)
        if name >= 0
    ]


def _place(group: np.ndarray, unit: np.ndarray, widths: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Positions per channel for every group along one axis of a weight."""
    runs = _place_runs(group, unit, widths)
    if runs is not None:
        return runs
    order = np.lexsort((unit, group))
    ordered = group[order]
    bounds = np.flatnonzero(np.diff(ordered, prepend=-2))
    pieces = []
    for start, end in zip(bounds, [*bounds[1:], len(order)], strict=True):
        index = int(ordered[start])
        if index >= 0:
            pieces.append((index, order[start:end].reshape(int(widths[index]), -1)))
    return pieces
