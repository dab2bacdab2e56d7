"""Transfer of a network to a small task, and what prunes it there: components, channels, both.

    pictures -> source and target task -> source network -> transferred network -> slim networks

Every function takes plain values and calls `model.fit`; `recipes/basis_scaling_transfer.py` shows
them in a row.
"""

from __future__ import annotations

from spade_keras.registry import COMPONENT_IMPORTANCES
from spade_keras.transfer.channels import prune_channels
from spade_keras.transfer.components import (
    PHASES,
    PrunedComponents,
    PruningPhase,
    prune_components,
)
from spade_keras.transfer.cost import measure_cost
from spade_keras.transfer.fitting import LEARNING_RATES, Samples, Tasks, accuracy, fit, soft_labels
from spade_keras.transfer.heads import replace_head, transfer_network
from spade_keras.transfer.networks import (
    FILTERS,
    IMAGENET_NETWORKS,
    NETWORKS,
    imagenet_network,
    make_network,
    make_network_of_size,
)
from spade_keras.transfer.pictures import PICTURE_SOURCES, load_pictures, prepare_for_imagenet
from spade_keras.transfer.splitting import split_tasks

__all__ = [
    "COMPONENT_IMPORTANCES",
    "FILTERS",
    "IMAGENET_NETWORKS",
    "LEARNING_RATES",
    "NETWORKS",
    "PHASES",
    "PICTURE_SOURCES",
    "PrunedComponents",
    "PruningPhase",
    "Samples",
    "Tasks",
    "accuracy",
    "fit",
    "imagenet_network",
    "load_pictures",
    "make_network",
    "make_network_of_size",
    "measure_cost",
    "prepare_for_imagenet",
    "prune_channels",
    "prune_components",
    "replace_head",
    "soft_labels",
    "split_tasks",
    "transfer_network",
]
