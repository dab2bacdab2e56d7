"""Structured optimal brain surgeon: ranks channels by the error left after refitting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spade_keras.pruning.compensation.calibration import Calibration
from spade_keras.pruning.compensation.readers import readers_of
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, Slot
from spade_keras.pruning.importance.importance import Importance, MemberScores

_RIDGE = 1e-4


class OptimalBrainSurgeon(Importance):
    """Error of the group's readers when a channel is removed after all less important ones.

        e_c = sum over readers of tr(W_c^T [(G^-1)_cc]^-1 W_c) / tr(W^T G W)

    The channel of the least e_c goes, W and G^-1 are updated as if it had never been there, and so
    on: one elimination gives the channels of every width. A channel's score is the error summed up
    to its removal. Scores are kept: use another instance where the weights have changed.

    Reference:
        Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon",
        1993; Kurtic et al., "ZipLM", 2023 (structured).
    """

    normalize = False

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._known: dict[tuple[Any, ...], MemberScores] = {}

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Eliminates the channels of a group one by one; no rows where no reader was measured."""
        # A search asks for the same groups again and again, and their weights do not change.
        readers = [slot.layer for slot in group.slots if slot.role == "consumer"]
        key = (group.name, group.width, *readers)
        if key not in self._known:
            moments = reader_moments(self.calibration, group, weights)
            states = [_State(*state) for _, *state in moments]
            self._known[key] = [_eliminate(states, group.width)] if states else []
        return self._known[key]


def reader_moments(
    calibration: Calibration, group: Group, weights: WeightTable
) -> Iterator[tuple[Slot, np.ndarray, np.ndarray, np.ndarray]]:
    """The matrix, the Gram matrix and the rows of each channel, by slot and block of a reader.

    A bias that can be refitted is the last row of the Gram matrix, and of no channel.
    """
    for slot in group.slots:
        if slot.role != "consumer":
            continue
        variable = weights.variable(slot)
        found = calibration.gram(slot.layer, slot.weight_index)
        readers = readers_of(weights.layers[slot.layer])
        reader = next((r for r in readers if r.variable is variable), None)
        if found is None or reader is None or slot.axis != reader.axis:
            continue
        rows = np.arange(reader.inputs).reshape(variable.shape[reader.axis], -1)[slot.positions]
        used = slice(None) if reader.bias is not None else slice(-1)
        for block, gram in zip(reader.weights(), found, strict=True):
            yield slot, block[:-1], gram[used, used], rows.reshape(group.width, -1)


class _State:
    """One reader's matrix and inverse Gram matrix while channels go."""

    def __init__(self, matrix: np.ndarray, gram: np.ndarray, rows: np.ndarray) -> None:
        ridge = _RIDGE * float(np.trace(gram)) / len(gram)
        self.inverse = np.linalg.inv(gram + max(ridge, 1e-30) * np.eye(len(gram)))
        self.weights = np.zeros((len(gram), matrix.shape[1]))
        self.weights[: len(matrix)] = matrix
        self.rows = rows
        energy = np.einsum("nm,nk,km->", self.weights, gram, self.weights, optimize=True)
        self.scale = 1 / max(float(energy), 1e-30)

    def errors(self, alive: np.ndarray) -> np.ndarray:
        rows = self.rows[alive]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        weights = self.weights[rows]
        solved = np.linalg.solve(blocks, weights)
        return np.asarray(self.scale * np.einsum("cbm,cbm->c", weights, solved))

    def remove(self, channel: int) -> None:
        rows = self.rows[channel]
        inner = np.linalg.inv(self.inverse[np.ix_(rows, rows)])
        gain = self.inverse[:, rows] @ inner
        self.weights -= gain @ self.weights[rows]
        self.inverse -= gain @ self.inverse[rows]


def _eliminate(states: list[Any], width: int) -> np.ndarray:
    scores = np.zeros(width)
    alive = np.arange(width)
    total = 0.0
    while len(alive) > 1:
        errors = sum(state.errors(alive) for state in states)
        place = int(np.argmin(errors))
        total += max(float(errors[place]), 0.0)
        scores[alive[place]] = total
        for state in states:
            state.remove(int(alive[place]))
        alive = np.delete(alive, place)
    # The last one never goes; it is worth more than all before it.
    scores[alive[0]] = 2 * total + 1
    return scores
