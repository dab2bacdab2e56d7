"""Basis scaling of a transferred network: prunes components while factors, norms, head train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from spade_keras.pruning import PruningPlan, basis
from spade_keras.tasks.transfer.fitting import accuracy, fit
from spade_keras.tasks.transfer.samples import Tasks


@dataclass(frozen=True)
class PruningPhase:
    """A training that prunes components at one pace.

    Args:
        share: Share of the components pruned after every epoch.
        patience: Consecutive epochs that may miss the allowed loss before the phase ends.
        learning_rate: Learning rate of Adam.
    """

    share: float
    patience: int
    learning_rate: float


PHASES = (PruningPhase(0.05, 2, 5e-3), PruningPhase(0.06, 5, 5e-3), PruningPhase(0.05, 5, 3e-3))
"""Fast at first, then in small steps from the last state that was good enough."""


@dataclass(frozen=True)
class PrunedComponents:
    """The result of pruning components.

    Args:
        model: The merged model: stock layers only, all trainable.
        plan: The remaining ranks, for the model that was pruned.
        rounds: The record of every epoch, phase after phase.
    """

    model: keras.Model
    plan: PruningPlan
    rounds: tuple[tuple[basis.PruningRound, ...], ...]


def prune_components(
    model: keras.Model,
    tasks: Tasks,
    *,
    allowed_loss: float = 0.005,
    stop_at: float = 0.0,
    phases: Sequence[PruningPhase] = PHASES,
    importance: str = "effect_per_parameter",
    phase_epochs: int = 60,
    closing_epochs: int = 11,
    **options: Any,
) -> PrunedComponents:
    """Decomposes, prunes while the scaling factors, norms and head train, and merges.

    It ends with epochs without pruning, at the last phase's learning rate.

    Args:
        model: The network to prune; it stays as it is.
        tasks: The target's "train" and "validation"; for a teacher, give `soft_labels` of "train".
        allowed_loss: Validation accuracy that pruning may cost; 0.01 is one point.
        stop_at: Stops at this share of the decomposed layers' parameters; 0: goes as far as the
            allowed loss allows.
        phases: At least one, in order.
        importance: A key of `COMPONENT_IMPORTANCES`.
        phase_epochs: Epochs of a phase, at most.
        closing_epochs: Epochs without pruning.
        **options: Further options of `fit`; the phases set the learning rates.

    Returns:
        The pruned model, its plan, and its history.

    Raises:
        ValueError: If no layer of the model can be decomposed.
    """
    low = basis.decompose(model, trainable=["head", "norms"])
    train, validation = tasks["train"], tasks["validation"]
    reference = accuracy(model, validation)
    rounds = []
    for phase in phases:
        pruning = basis.BasisPruning(
            phase.share,
            max_loss=allowed_loss,
            stop_at=stop_at,
            reference=reference,
            warmup=0,
            patience=phase.patience,
            importance=importance,
        )
        options["learning_rate"] = phase.learning_rate
        fit(low, train, validation, epochs=phase_epochs, pruner=pruning, **options)
        rounds.append(tuple(pruning.history))
    fit(low, train, validation, epochs=closing_epochs, **options)
    plan = basis.rank_plan(low, importance=importance)
    return PrunedComponents(basis.merge(low), plan, tuple(rounds))
