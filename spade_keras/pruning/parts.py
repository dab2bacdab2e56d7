"""The parts of a model that are pruned: the model itself, or the priors of a network.

This is the only place that asks which of both it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


def is_network(model: Any) -> bool:
    """Whether a model has its prunable parts as `priors`, replaced by `with_priors`."""
    return hasattr(model, "priors") and hasattr(model, "with_priors")


def parts_of(model: Any) -> dict[str, keras.Model]:
    """Returns what can be traced and pruned, by name.

    Args:
        model: A Keras model, or a network with `priors`.

    Returns:
        The priors of a network by their keys; `{"": model}` for a model.
    """
    return dict(model.priors) if is_network(model) else {"": model}


def with_parts(model: Any, parts: Mapping[str, keras.Model]) -> Any:
    """Returns a model with other parts.

    Args:
        model: A Keras model, or a network with `priors`; it is left as it is.
        parts: What takes the place of `parts_of(model)`, under the same keys.

    Returns:
        The new network, or for a model the part itself.
    """
    return model.with_priors(parts) if is_network(model) else parts[""]


def prefix_of(key: str) -> str:
    """Returns what precedes the name of a group or layer of a part: "" or "<key>/"."""
    return f"{key}/" if key else ""


def iterations_of(model: Any) -> int | None:
    """Returns how often a network iterates; None for a model that does not."""
    return getattr(model, "iterations", None) if is_network(model) else None
