"""Transfer of a classifier to a small task, where components, channels or both are pruned.

Every function takes plain values; `pipeline.transfer_run` calls them in order.
"""

from __future__ import annotations

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
from spade_keras.tasks.transfer.samples import (
    LabeledSamples,
    Tasks,
    load_pictures,
    prepare_for_imagenet,
    scale_pictures,
    split_tasks,
)
from spade_keras.tasks.transfer.training import (
    LEARNING_RATES,
    PHASES,
    PrunedComponents,
    PruningPhase,
    accuracy,
    fit,
    measure_cost,
    prune_components,
    soft_labels,
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
