"""Transfer of a classifier to a small task, where components, channels or both are pruned.

Every function takes plain values; `pipeline.transfer_run` calls them in order.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from spade_keras import backend, latency, pruning
from spade_keras.backend.batches import predict
from spade_keras.errors import SpadeError
from spade_keras.pruning import PruningPlan, basis
from spade_keras.registry import COMPONENT_IMPORTANCES, PICTURE_SOURCES, TRANSFER_NETWORKS
from spade_keras.tasks.classifiers import (
    FILTERS,
    IMAGENET_NETWORKS,
    imagenet_network,
    load_network,
    make_network,
    make_network_of_size,
    replace_head,
)
from spade_keras.tasks.pictures import (
    LabeledSamples,
    load_pictures,
    prepare_for_imagenet,
    scale_pictures,
)

__all__ = [
    "COMPONENT_IMPORTANCES",
    "FILTERS",
    "IMAGENET_NETWORKS",
    "LEARNING_RATES",
    "PHASES",
    "PICTURE_SOURCES",
    "TRANSFER_NETWORKS",
    "LabeledSamples",
    "PrunedComponents",
    "PruningPhase",
    "Tasks",
    "accuracy",
    "fit",
    "imagenet_network",
    "load_network",
    "load_pictures",
    "make_network",
    "make_network_of_size",
    "measure_cost",
    "prepare_for_imagenet",
    "prune_components",
    "replace_head",
    "scale_pictures",
    "soft_labels",
    "split_tasks",
]

Tasks = dict[str, LabeledSamples]
"""Samples by name: "source", and the "train", "validation" and "test" of the target task."""


def split_tasks(
    x: np.ndarray,
    y: np.ndarray,
    *,
    source_classes: Sequence[int] = (0, 1, 2, 3, 4),
    target_classes: Sequence[int] = (5, 6, 7, 8, 9),
    train: int = 60,
    validation: int = 40,
    seed: int = 0,
) -> Tasks:
    """Makes a source task of some classes, and a target task of few samples of others.

    In each, classes are counted from 0 in the order given.

    Args:
        x: Samples.
        y: Their classes, integers.
        source_classes: Classes of the source task; none for a network that is trained already.
        target_classes: Classes of the target task.
        train: Target samples per class to train on.
        validation: Target samples per class to select by; all others are the test.
        seed: Seed of the draw.

    Returns:
        "source", where there are classes for it, and the target's disjoint other parts.

    Example:
        >>> y = np.arange(60) % 6
        >>> classes = {"source_classes": [0, 1], "target_classes": [4, 5]}
        >>> tasks = split_tasks(np.ones((60, 2)), y, **classes, train=3, validation=2)
        >>> {name: len(labels) for name, (_, labels) in tasks.items()}
        {'source': 20, 'train': 6, 'validation': 4, 'test': 10}
    """
    counts = collections.Counter(np.asarray(y).tolist())
    for name, classes in {"source": source_classes, "target": target_classes}.items():
        if unknown := [int(label) for label in classes if label not in counts]:
            raise SpadeError(
                f"`data.{name}_classes` must be classes of the data, {sorted(counts)[:20]}. "
                f"Received: {unknown}, of which there are no samples"
            )
    needed = train + validation + 1
    if few := {label: counts[label] for label in target_classes if counts[label] < needed}:
        raise SpadeError(
            f"Every target class must have at least {needed} samples: {train} to train on "
            f"(`data.train_per_class`), {validation} to choose by (`data.validation_per_class`) "
            f"and one to test. Received (class: samples): {few}"
        )
    tasks: Tasks = {"source": _take(x, y, source_classes)} if len(source_classes) else {}
    target_x, target_y = _take(x, y, target_classes)
    order = np.random.default_rng(seed).permutation(len(target_y))
    by_class = [order[target_y[order] == label] for label in range(len(target_classes))]
    cuts = {
        "train": slice(train),
        "validation": slice(train, train + validation),
        "test": slice(train + validation, None),
    }
    for name, cut in cuts.items():
        rows = np.concatenate([own[cut] for own in by_class])
        tasks[name] = (target_x[rows], target_y[rows])
    return tasks


def _take(x: np.ndarray, y: np.ndarray, classes: Sequence[int]) -> LabeledSamples:
    rows = np.isin(y, classes)
    places = {label: place for place, label in enumerate(classes)}
    return x[rows], np.array([places[int(label)] for label in y[rows]], "int32")


LEARNING_RATES = {"source": 2e-3, "imagenet": 1e-4}
"""Learning rate of all weights, by their origin: VGG16, which has no norms, needs small steps."""


def fit(
    model: keras.Model,
    train: LabeledSamples,
    validation: LabeledSamples | None = None,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATES["source"],
    batch_size: int = 30,
    pruner: keras.callbacks.Callback | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Trains a classifier that gives probabilities in place, with Adam, and returns it.

    Args:
        model: The classifier.
        train: Samples to train on, with classes or with probabilities such as `soft_labels`.
        validation: Samples with classes to select weights by. None: those of the last epoch stay.
        epochs: Passes over `train`, at most.
        learning_rate: Learning rate of Adam.
        batch_size: Samples in a batch.
        pruner: Prunes and selects the final weights. None: those of the lowest validation loss.
        callbacks: More callbacks.
    """
    loss = "sparse_categorical_crossentropy"
    if train[1].ndim == 2:
        loss = "categorical_crossentropy"
        if validation is not None:
            classes = train[1].shape[-1]
            validation = (validation[0], keras.utils.to_categorical(validation[1], classes))
    selector = pruner
    if selector is None and validation is not None:
        selector = keras.callbacks.EarlyStopping(
            "val_loss", patience=epochs, restore_best_weights=True
        )
    # On a CPU TensorFlow's own kernels beat XLA's.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    jit: Any = False if on_tf_cpu else "auto"
    optimizer = keras.optimizers.Adam(learning_rate)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit)
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=200,
        callbacks=[*([selector] if selector else []), *callbacks],
        verbose=0,
    )
    return model


def soft_labels(
    teacher: keras.Model, samples: LabeledSamples, *, share: float = 0.5, temperature: float = 2.0
) -> LabeledSamples:
    """Mixes the classes of samples with a teacher's probabilities p.

        (1 - share) one_hot(y) + share softmax(log(p) / temperature)

    Args:
        teacher: A classifier that gives probabilities.
        samples: Inputs and their classes.
        share: Weight of the teacher's outputs, in [0, 1].
        temperature: Above 1 the teacher's unlikely classes count more.

    Returns:
        The same inputs, with one probability per class, `(samples, classes)`, float32.

    Reference:
        Hinton, Vinyals, Dean, arXiv 1503.02531. There the student's scores are softened as well.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must be in [0, 1]. Received: share={share!r}.")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature!r}.")
    inputs, labels = samples
    answers = predict(teacher, inputs, batch_size=500)
    tiny = np.finfo(answers.dtype).tiny
    softened = softmax(np.log(np.maximum(answers, tiny)) / temperature, axis=-1)
    certain = keras.utils.to_categorical(labels, answers.shape[-1])
    mixed = (1 - share) * certain + share * softened
    return inputs, mixed.astype("float32")


def accuracy(model: keras.Model, samples: LabeledSamples) -> float:
    """Returns the share of samples whose class has the largest output."""
    answers = predict(model, samples[0], batch_size=500).argmax(axis=-1)
    return float(np.mean(answers == samples[1]))


def measure_cost(
    model: keras.Model,
    original: keras.Model,
    tasks: Tasks,
    *,
    batch_size: int = 30,
    pairs: int = 20,
) -> dict[str, Any]:
    """Measures a network on the target task, and times it interleaved with the original.

    Args:
        model: The network.
        original: The network that was transferred.
        tasks: The target's "validation" and "test".
        batch_size: Samples per timed call.
        pairs: Timed windows of each; 0: no times.

    Returns:
        Plain JSON values: "accuracy" on test and "validation_accuracy" in [0, 1], "parameters",
        "macs" of one sample, and, where it was timed, the median "ms" and the "time_ratio" to the
        original with its 95 % interval.
    """
    times: dict[str, Any] = {}
    if pairs:
        timed = latency.compare(original, model, tasks["test"][0][:batch_size], pairs=pairs)
        times = {"ms": timed.b.median_ms, "time_ratio": timed.ratio.as_dict()}
    return {
        "accuracy": accuracy(model, tasks["test"]),
        "validation_accuracy": accuracy(model, tasks["validation"]),
        "parameters": pruning.count_parameters(model),
        "macs": pruning.count_macs(model).total,
        **times,
    }


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
    """The merged model, of stock layers; the plan of its ranks; and the record of every epoch."""

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
        stop_at: Stops at this share of the decomposed layers' parameters; 0: never.
        phases: At least one, in order.
        importance: A key of `COMPONENT_IMPORTANCES`.
        phase_epochs: Epochs of a phase, at most.
        closing_epochs: Epochs without pruning.
        **options: Further options of `fit`; the phases set the learning rates.
    """
    low = basis.decompose(model, trainable=["head", "norms"])
    train, validation = tasks["train"], tasks["validation"]
    reference = accuracy(model, validation)
    rounds = []
    for phase in phases:
        pruner = basis.BasisPruning(
            phase.share,
            max_loss=allowed_loss,
            stop_at=stop_at,
            reference=reference,
            warmup=0,
            patience=phase.patience,
            importance=importance,
        )
        options["learning_rate"] = phase.learning_rate
        fit(low, train, validation, epochs=phase_epochs, pruner=pruner, **options)
        rounds.append(tuple(pruner.history))
    fit(low, train, validation, epochs=closing_epochs, **options)
    plan = basis.rank_plan(low, importance=importance)
    return PrunedComponents(basis.merge(low), plan, tuple(rounds))
