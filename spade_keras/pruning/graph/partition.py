"""From ties to groups: connected components, their constraints, their slots.

Tied labels form a component: one channel, in all its places. Components held by the same slots
form a group; each component is one unit of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.labels import Labels, LabelStore, Shape, SlotRecord, along_axis
from spade_keras.pruning.graph.trace import Graph
from spade_keras.pruning.groups import Group, Slot

Read = Callable[[Any], np.ndarray]


@dataclass
class Partition:
    """The groups of one model in the order of their first producers, and each label's place.

    `group_of` is -1 for labels that no plan removes; `unit_of` is the channel in the group.
    """

    groups: tuple[Group, ...]
    group_of: np.ndarray
    unit_of: np.ndarray

    def alive(self, kept: Mapping[str, Any]) -> np.ndarray:
        """A flag per label, given kept channels by group name; unnamed groups stay whole."""
        alive = np.ones(len(self.group_of), dtype=bool)
        starts = np.cumsum([0] + [group.width for group in self.groups])
        keep = np.ones(starts[-1], dtype=bool)
        for start, group in zip(starts, self.groups, strict=False):
            if group.name in kept:
                keep[start : start + group.width] = False
                keep[start + np.asarray(kept[group.name], dtype=int)] = True
        inside = self.group_of >= 0
        alive[inside] = keep[starts[self.group_of[inside]] + self.unit_of[inside]]
        return alive


def partition(analysis: Analysis) -> Partition:
    """The groups of an analyzed model, made once."""
    if "partition" not in analysis.cache:
        analysis.cache["partition"] = _partition(analysis)
    return analysis.cache["partition"]


def _partition(analysis: Analysis) -> Partition:
    store = analysis.store
    varied = [x for x in analysis.labels.values() if np.count_nonzero(np.array(x.shape) > 1) > 1]
    # Constraints that a group cannot express become ties, which merge components: start over
    # until nothing is added. Every round merges at least two, so this ends.
    while True:
        component = _components(store)
        fixed = _fixed(store, component)
        if _make_rectangular(store, component, fixed, varied):
            continue
        group_of, unit_of = _groups(store, component, fixed >= 0)
        blocks = _blocks(store, group_of, unit_of, fixed[component] >= 0)
        if blocks is not None:
            break
    groups = _build(store, fixed[component], group_of, unit_of, blocks)
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
    first = np.full(int(component.max()) + 1, -1)
    # Backwards, so that the first freeze writes last and its reason is the one reported.
    for index in range(len(store.frozen) - 1, -1, -1):
        first[component[store.frozen[index][0]]] = index
    first[component[0]] = len(store.frozen)
    return first


def _make_rectangular(
    store: LabelStore, component: np.ndarray, fixed: np.ndarray, varied: list[Labels]
) -> bool:
    """Ties labels until every tensor loses whole slices along one axis only."""
    touched = np.zeros(store.size, dtype=bool)
    for labels in varied:
        # Ties made in this round are not in `component` yet: leave such tensors to the next.
        if touched[labels].any():
            continue
        # Fixed components are never removed, so they count as one.
        ids = np.where(fixed[component[labels]] >= 0, -1, component[labels])
        axes = [axis for axis in range(ids.ndim) if ids.shape[axis] > 1]
        if any(_is_constant(along_axis(ids, axis)) for axis in axes):
            continue
        rows = along_axis(labels, axes[-1])
        store.tie(rows[:1], rows[1:])
        touched[labels] = True
    return bool(touched.any())


def _is_constant(rows: np.ndarray) -> bool:
    return bool((rows == rows[:1]).all())


def _groups(
    store: LabelStore, component: np.ndarray, fixed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Group and channel of every label.

    Channels belong to one group when exactly the same slots hold them, equally often.
    """
    count = len(fixed)
    sizes = [len(record.labels) for record in store.slots]
    held = component[np.concatenate([np.zeros(0, int), *(x.labels for x in store.slots)])]
    # A random number per slot, summed modulo 2^64 over the slots that hold a component, is a
    # signature of that multiset of slots; fixed components get a number on top.
    hashes = np.random.default_rng(0).integers(1, 2**63, len(sizes) + 1, dtype=np.uint64)
    signature = np.where(fixed, hashes[-1], np.uint64(0))
    np.add.at(signature, held, np.repeat(hashes[:-1], sizes))
    made = np.zeros(count, dtype=bool)
    made[held[np.repeat([x.role == "producer" for x in store.slots], sizes).astype(bool)]] = True
    made[component[0]] = False
    # Backwards, so that the smallest label of each component is written last.
    first = np.zeros(count, dtype=np.int64)
    first[component[::-1]] = np.arange(len(component) - 1, -1, -1)
    candidates = np.flatnonzero(made)
    candidates = candidates[np.argsort(first[candidates], kind="stable")]
    # Channels of a group are numbered by their first labels: in the order they were produced.
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
        width = len(np.unique(unit_of[group_of == group])) if group >= 0 else 0
        units = unit_of[labels]
        whole = (group_of[labels] == group).all() and len(np.unique(units)) == len(labels)
        if whole and width == len(labels):
            ids = np.empty(width, dtype=np.int64)
            ids[units] = np.repeat(np.arange(record.count), rows.shape[1])
            # Two constraints on one group hold together for the intersections of their blocks.
            joint = ids if group not in blocks else blocks[group] * record.count + ids
            _, joint, sizes = np.unique(joint, return_inverse=True, return_counts=True)
            if (sizes == sizes[0]).all():
                blocks[group] = joint
                continue
        if _is_constant(group_of[rows]) and _is_constant(unit_of[rows]):
            continue
        # The record spans several groups or uneven blocks: let all blocks lose the same places.
        store.tie(rows[:1], rows[1:])
        return None
    return blocks


def _build(
    store: LabelStore,
    fixed: np.ndarray,
    group_of: np.ndarray,
    unit_of: np.ndarray,
    blocks: dict[int, np.ndarray],
) -> tuple[Group, ...]:
    """Group objects in the order of their first producers, renumbering `group_of` in place."""
    count = int(group_of.max()) + 1
    inside = group_of >= 0
    widths = np.zeros(count, dtype=np.int64)
    np.maximum.at(widths, group_of[inside], unit_of[inside] + 1)
    reason = np.full(count, -1)
    reason[group_of[inside]] = fixed[inside]
    slots, first = _slots(store, group_of, unit_of, widths)
    order = list(first)
    groups = tuple(
        Group(
            name=name,
            width=int(widths[group]),
            slots=tuple(slots[group]),
            fixed=None if reason[group] < 0 else store.frozen[reason[group]][1],
            divisor=int(blocks[group].max()) + 1 if group in blocks else 1,
            blocks=blocks.get(group),
        )
        for group, name in zip(order, _names(first.values()), strict=True)
    )
    renumber = np.full(count + 1, -1)
    renumber[order] = np.arange(len(order))
    group_of[:] = renumber[group_of]
    return groups


def _slots(
    store: LabelStore, group_of: np.ndarray, unit_of: np.ndarray, widths: np.ndarray
) -> tuple[list[list[Slot]], dict[int, SlotRecord]]:
    """Slots of every group, and the first producer of each in the order of production."""
    slots: list[list[Slot]] = [[] for _ in widths]
    first: dict[int, SlotRecord] = {}
    # Many slots share a label array or a layer: both are computed once.
    placed: dict[int, list[tuple[int, np.ndarray]]] = {}
    index_of: dict[int, dict[int, int]] = {}
    for record in store.slots:
        layer, key = id(record.layer), id(record.labels)
        if layer not in index_of:
            index_of[layer] = {id(w): i for i, w in enumerate(record.layer.weights)}
        position = index_of[layer].get(id(record.variable))
        if position is None:
            continue
        if key not in placed:
            placed[key] = _place(group_of[record.labels], unit_of[record.labels], widths)
        name = record.variable.name
        for group, positions in placed[key]:
            if record.role == "producer":
                first.setdefault(group, record)
            slot = Slot(record.path, name, position, record.axis, positions, record.role)
            slots[group].append(slot)
    return slots, first


def _place(group: np.ndarray, unit: np.ndarray, widths: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Positions per channel for every group along one axis of a weight."""
    order = np.lexsort((unit, group))
    ordered = group[order]
    bounds = np.flatnonzero(np.diff(ordered, prepend=-2))
    pieces = []
    for start, end in zip(bounds, [*bounds[1:], len(order)], strict=True):
        index = int(ordered[start])
        if index >= 0:
            pieces.append((index, order[start:end].reshape(int(widths[index]), -1)))
    return pieces


def _names(records: Iterable[SlotRecord]) -> list[str]:
    """A name per group from its first producer; a number where a layer makes several groups."""
    taken: Counter[str] = Counter()
    names = []
    for record in records:
        name = record.path + record.unit
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}#{taken[name]}")
    return names


def read_from(values: Mapping[int, np.ndarray]) -> Read:
    """Reads variables from `values`, by their `id`; those it lacks keep their own."""

    def read(variable: Any) -> np.ndarray:
        known = values.get(id(variable))
        return np.asarray(keras.ops.convert_to_numpy(variable)) if known is None else known

    return read


class Narrowing:
    """Shapes, kept positions and kept weights of a model whose groups keep some channels."""

    def __init__(self, analysis: Analysis, kept: Mapping[str, Sequence[int]], read: Read) -> None:
        self.labels = analysis.labels
        self.read = read
        self.alive = partition(analysis).alive(kept)
        self.slots: dict[int, list[tuple[SlotRecord, np.ndarray]]] = {}
        for record in analysis.store.slots:
            flags = self.alive[record.labels]
            if not flags.all():
                self.slots.setdefault(id(record.variable), []).append((record, flags))

    def value(self, variable: Any) -> np.ndarray:
        """The kept part of one of the original's variables."""
        array = np.asarray(self.read(variable))
        for record, flags in self.slots.get(id(variable), ()):
            array = np.compress(flags, array, axis=record.axis)
        return array

    def new_shape(self, variable: Any) -> tuple[int, ...]:
        """Shape of one of the original's variables under the plan."""
        shape = list(variable.shape)
        for record, flags in self.slots.get(id(variable), ()):
            shape[record.axis] = int(flags.sum())
        return tuple(shape)

    def kept(self, tensor: Any, axis: int) -> np.ndarray:
        """Kept positions along an axis of an original tensor."""
        labels = self.labels[id(tensor)]
        if labels.shape[axis] == 1:
            size = tensor.shape[axis]
            return np.arange(1 if size is None else size)
        return np.flatnonzero(self._alive_along(labels, axis))

    def shape(self, tensor: Any) -> Shape:
        """Shape of an original tensor under the plan."""
        labels = self.labels[id(tensor)]
        if labels.size == 1:
            return tuple(tensor.shape)
        return tuple(
            size if labels.shape[axis] == 1 else int(self._alive_along(labels, axis).sum())
            for axis, size in enumerate(tensor.shape)
        )

    def spares(self, graph: Graph, variables: Sequence[Any]) -> bool:
        """True when the plan changes neither these variables nor a tensor of the graph."""
        if any(id(variable) in self.slots for variable in variables):
            return False
        tensors = [*graph.inputs, *(x for call in graph.calls for x in call.outputs)]
        return all(self.alive[self.labels[id(tensor)]].all() for tensor in tensors)

    def _alive_along(self, labels: Labels, axis: int) -> np.ndarray:
        return np.asarray(along_axis(self.alive[labels], axis).any(axis=0))
