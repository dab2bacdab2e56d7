"""A source task with all samples of some classes, a target task with few samples of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spade_keras.errors import SpadeError
from spade_keras.transfer.fitting import Samples, Tasks


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
    """Makes both tasks; in each, classes are counted from 0 in the order given.

    Args:
        x: Samples on the first axis.
        y: Their classes, integers.
        source_classes: Classes of the source task; none for a network that is trained already.
        target_classes: Classes of the target task.
        train: Target samples per class to train on.
        validation: Target samples per class to choose by; all others test.
        seed: Of the draw.

    Returns:
        "source", where there are classes for it, and the disjoint "train", "validation" and "test"
        of the target task.

    Raises:
        SpadeError: If a class does not occur, or has too few samples.

    Example:
        >>> y = np.arange(60) % 6
        >>> classes = {"source_classes": [0, 1], "target_classes": [4, 5]}
        >>> tasks = split_tasks(np.ones((60, 2)), y, **classes, train=3, validation=2)
        >>> {name: len(labels) for name, (_, labels) in tasks.items()}
        {'source': 20, 'train': 6, 'validation': 4, 'test': 10}
    """
    labels, occurrences = np.unique(y, return_counts=True)
    counts = dict(zip(labels.tolist(), occurrences.tolist(), strict=True))
    _check_classes(counts, {"source": source_classes, "target": target_classes})
    needed = train + validation + 1
    few = {label: counts[label] for label in target_classes if counts[label] < needed}
    if few:
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


def _check_classes(counts: dict[int, int], wanted: dict[str, Sequence[int]]) -> None:
    for name, classes in wanted.items():
        unknown = [int(label) for label in classes if label not in counts]
        if unknown:
            raise SpadeError(
                f"`data.{name}_classes` must be classes of the data, {sorted(counts)[:20]}. "
                f"Received: {unknown}, of which there are no samples"
            )


def _take(x: np.ndarray, y: np.ndarray, classes: Sequence[int]) -> Samples:
    rows = np.isin(y, classes)
    places = {label: place for place, label in enumerate(classes)}
    return x[rows], np.array([places[int(label)] for label in y[rows]], "int32")
