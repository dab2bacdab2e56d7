"""Importances that read the weights alone, and the random baseline."""

from __future__ import annotations

import zlib

import numpy as np

from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import (
    SCALES,
    Importance,
    MemberScores,
    magnitude_slots,
    producer_slots,
)


class GroupL1(Importance):
    """`s_c = mean over members m of sum |W_m[c]|`, divided by its mean over the channels.

    Members are the slices of producers and consumers and the scales of norms, without biases.

    Reference:
        Park et al., Structured Pruning for Model-Based Deep Learning, arXiv 2311.02003.
    """

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Sums the absolute values of each member's slices."""
        return [weights.sums(slot, "abs", np.abs) for slot in magnitude_slots(group)]


class GroupL2(Importance):
    """`s_c = mean over members m of ||W_m[c]||_2`, divided by its mean over the channels.

    Reference:
        Fang et al., DepGraph: Towards Any Structural Pruning, arXiv 2301.12900.
    """

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Takes the root of the summed squares of each member's slices."""
        slots = magnitude_slots(group)
        return [np.sqrt(weights.sums(slot, "square", np.square)) for slot in slots]


class BatchNormScale(Importance):
    """`s_c = mean over the group's norms of |gamma_c|`, the scale that network slimming trains.

    Undivided, so that a layer whose scales were all trained to zero may lose most of its channels.
    Groups without a norm keep theirs.

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming,
        arXiv 1708.06519.
    """

    normalize = False

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Reads the absolute scales of the group's norms."""
        slots = [slot for slot in group.slots if slot.weight in SCALES]
        return [weights.sums(slot, "abs", np.abs) for slot in slots]


class FPGM(Importance):
    """`s_c = sum over d of ||W[c] - W[d]||_2` over the filters of one producer.

    A filter near the geometric median of its layer is redundant.

    Reference:
        He et al., Filter Pruning via Geometric Median, arXiv 1811.00250.
    """

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Sums each filter's distances to the other filters of its layer."""
        return [_distance_sums(weights.rows(slot)) for slot in producer_slots(group)]


class Lamp(Importance):
    """`s_c = ||W[c]||^2 / sum over d with ||W[d]|| >= ||W[c]|| of ||W[d]||^2` per producer.

    The strongest channel of every layer scores 1, so a global ranking never empties a layer.

    Reference:
        Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, arXiv 2010.07611.
    """

    normalize = False

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Divides each filter's squared norm by those of the filters at least as strong."""
        slots = producer_slots(group)
        return [_survivor_shares(weights.sums(slot, "square", np.square)) for slot in slots]


class Random(Importance):
    """Uniform numbers, the same for the same seed and group: the baseline to beat."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Draws one score per channel."""
        generator = np.random.default_rng([self.seed, zlib.crc32(group.name.encode())])
        return generator.uniform(size=(1, group.width))


def _distance_sums(rows: np.ndarray) -> np.ndarray:
    # ||a - b||^2 = ||a||^2 + ||b||^2 - 2 a.b: one matrix product instead of width^2 differences.
    rows = rows.astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(distances, 0)
    return np.sqrt(np.maximum(distances, 0)).sum(axis=1)


def _survivor_shares(squares: np.ndarray) -> np.ndarray:
    order = np.argsort(squares, kind="stable")
    survivors = np.empty_like(squares)
    survivors[order] = np.cumsum(squares[order][::-1])[::-1]
    return squares / np.where(survivors > 0, survivors, 1)
