"""Which calls of a network change with the width of which group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import keras

from spade_keras.errors import SpadeError
from spade_keras.pruning import make_plan, rebuild
from spade_keras.pruning.graph.forward_pass import layer_calls
from spade_keras.pruning.graph.weights import priors_of
from spade_keras.search.layer_timing import LayerCall

# The path of a layer, which of the input shapes of its model, and which of its calls.
Place = tuple[str, int, int]


@dataclass
class Sweep:
    """The calls of a network at full width, and those that differ at other widths.

    Args:
        full: The calls at full width.
        counts: How often each of them is made in one forward pass.
        changed: Group -> width -> the calls that differ when this group alone has this width.
    """

    full: dict[Place, LayerCall]
    counts: dict[Place, int]
    changed: dict[str, dict[int, dict[Place, LayerCall]]] = field(default_factory=dict)

    def places(self, group: str) -> set[Place]:
        """Where the width of a group matters."""
        return {place for calls in self.changed[group].values() for place in calls}

    def calls(self) -> list[LayerCall]:
        """Every call there is; those that differ in the width of one group follow each other."""
        by_place: dict[Place, list[LayerCall]] = {p: [call] for p, call in self.full.items()}
        for widths in self.changed.values():
            for calls in widths.values():
                for place, call in calls.items():
                    by_place[place].append(call)
        return [call for calls in by_place.values() for call in calls]


def sweep_widths(network: keras.Model, inputs: Any, widths: Mapping[str, Sequence[int]]) -> Sweep:
    """Narrows one group at a time to each of its widths and lists the calls that change.

    Groups that share no layer are narrowed together, which saves most of the rebuilding.

    Args:
        network: A Keras model, or a network with `priors`; it is left as it is.
        inputs: Arrays or shapes of one forward pass.
        widths: Group -> widths below the full one, ascending.

    Returns:
        The calls.

    Raises:
        ValueError: If a group is unknown or cannot have a width.
    """
    full, counts = _list_calls(network, inputs)
    sweep = Sweep(full, counts, {group: {} for group in widths})
    for group, sizes in widths.items():
        if sizes:
            # The narrowest differs wherever the group matters.
            differing = _differing(network, inputs, {group: sizes[0]}, full)
            sweep.changed[group][sizes[0]] = differing
    reach = {group: sweep.places(group) for group in widths}
    for together in _independent(reach):
        for step in range(1, max(len(widths[group]) for group in together)):
            chosen = {g: widths[g][step] for g in together if step < len(widths[g])}
            differing = _differing(network, inputs, chosen, full)
            for group, width in chosen.items():
                sweep.changed[group][width] = {
                    place: call for place, call in differing.items() if place in reach[group]
                }
    return sweep


def _differing(
    network: keras.Model, inputs: Any, widths: dict[str, int], full: Mapping[Place, LayerCall]
) -> dict[Place, LayerCall]:
    slim = rebuild(network, make_plan(network, widths=widths, importance="group_l1"))
    calls, _ = _list_calls(slim, inputs)
    if calls.keys() != full.keys():
        raise SpadeError(
            f"The layers of {network.name!r} at the widths {widths} cannot be matched with those "
            f"at full width: {sorted(p for p, *_ in calls.keys() ^ full.keys())[:5]}. Give every "
            "layer a name of its own, or search without a layer table."
        )
    return {p: call for p, call in calls.items() if call.signature != full[p].signature}


def _list_calls(
    network: keras.Model, inputs: Any
) -> tuple[dict[Place, LayerCall], dict[Place, int]]:
    calls: dict[Place, LayerCall] = {}
    counts: dict[Place, int] = {}
    priors = priors_of(network)
    parts: Iterable[tuple[str, keras.Model, Any, int, int]]
    if priors is None:
        parts = [("", network, inputs, 0, 1)]
    else:
        parts = [
            (f"{key}/", priors[key], shape, number, count)
            for key, shapes in network.prior_input_shapes(inputs).items()
            for number, (shape, count) in enumerate(Counter(map(tuple, shapes)).items())
        ]
    for prefix, part, shapes, number, count in parts:
        seen: Counter[str] = Counter()
        for call in layer_calls(part, shapes):
            if call.inputs:
                path = prefix + call.path
                place = (path, number, seen[path])
                seen[path] += 1
                calls[place] = LayerCall.of(call, prefix)
                counts[place] = count
    return calls, counts


def _independent(reach: Mapping[str, Set[Place]]) -> list[list[str]]:
    """Splits groups into few classes inside which no two reach the same call."""
    classes: list[tuple[list[str], set[Place]]] = []
    for group, places in sorted(reach.items(), key=lambda item: -len(item[1])):
        for members, taken in classes:
            if not taken & places:
                members.append(group)
                taken |= places
                break
        else:
            classes.append(([group], set(places)))
    return [members for members, _ in classes]
