"""Importances: which channels of a group matter least."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from spade_keras.pruning.importance.batch_norm_scale import BatchNormScale
from spade_keras.pruning.importance.fpgm import FPGM
from spade_keras.pruning.importance.group_l1 import GroupL1
from spade_keras.pruning.importance.group_l2 import GroupL2
from spade_keras.pruning.importance.importance import (
    Importance,
    magnitude_slots,
    producer_slots,
    stack_members,
)
from spade_keras.pruning.importance.lamp import Lamp
from spade_keras.pruning.importance.random import Random
from spade_keras.pruning.importance.scores import ImportanceFunction, group_scores
from spade_keras.pruning.importance.taylor import Taylor

IMPORTANCES: dict[str, Callable[..., ImportanceFunction]] = {
    "group_l1": GroupL1,
    "group_l2": GroupL2,
    "batch_norm_scale": BatchNormScale,
    "taylor": Taylor,
    "fpgm": FPGM,
    "lamp": Lamp,
    "random": Random,
}
"""The known importances by name; `register_importance` adds to it."""


def get(name: str, **kwargs: Any) -> ImportanceFunction:
    """Makes the importance registered under a name.

    Args:
        name: One of `IMPORTANCES`.
        **kwargs: Arguments of its constructor.

    Returns:
        The importance.

    Raises:
        ValueError: If the name is unknown or the importance needs other arguments.

    Example:
        >>> get("random", seed=3).seed
        3
    """
    if name not in IMPORTANCES:
        near = difflib.get_close_matches(name, IMPORTANCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`importance` must be one of {sorted(IMPORTANCES)}. "
            f"Received: importance={name!r}.{hint}"
        )
    try:
        return IMPORTANCES[name](**kwargs)
    except TypeError as error:
        raise ValueError(
            f"`importance` {name!r} needs other arguments: {error}. Received: {sorted(kwargs)}. "
            f"Pass an instance, such as importance={IMPORTANCES[name].__name__}(...)."
        ) from error


def register_importance(name: str, importance: Callable[..., ImportanceFunction]) -> None:
    """Makes an importance available by name.

    Args:
        name: The new name.
        importance: A class or function that makes an `Importance`.

    Raises:
        ValueError: If the name is taken or `importance` is not callable.
    """
    if name in IMPORTANCES:
        raise ValueError(
            f"`name` must not be one of the known {sorted(IMPORTANCES)}. Received: name={name!r}."
        )
    if not callable(importance):
        raise ValueError(
            f"`importance` must be a class or function that makes an importance. "
            f"Received: importance={importance!r}."
        )
    IMPORTANCES[name] = importance


__all__ = [
    "FPGM",
    "IMPORTANCES",
    "BatchNormScale",
    "GroupL1",
    "GroupL2",
    "Importance",
    "ImportanceFunction",
    "Lamp",
    "Random",
    "Taylor",
    "get",
    "group_scores",
    "magnitude_slots",
    "producer_slots",
    "register_importance",
    "stack_members",
]
