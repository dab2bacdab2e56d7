"""Denoisers as Functional models with per-layer filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from spade_keras.networks.priors.dncnn import dncnn
from spade_keras.networks.priors.edsr import edsr

PRIORS: dict[str, Callable[..., keras.Model]] = {"dncnn": dncnn, "edsr": edsr}

__all__ = ["PRIORS", "dncnn", "edsr", "get"]


def get(name: str, **kwargs: Any) -> keras.Model:
    """Builds the prior of that name.

    Args:
        name: A key of `PRIORS`.
        **kwargs: Its arguments.

    Raises:
        ValueError: If there is no prior of that name.
    """
    if name not in PRIORS:
        raise ValueError(f"Unknown prior. Known ones: {sorted(PRIORS)}. Received: name={name!r}")
    return PRIORS[name](**kwargs)
