"""Denoisers as Functional models with per-layer filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from spade_keras.networks.priors.dncnn import dncnn
from spade_keras.networks.priors.edsr import edsr
from spade_keras.networks.priors.res_unet import res_unet
from spade_keras.networks.priors.unet import unet

PRIORS: dict[str, Callable[..., keras.Model]] = {
    "dncnn": dncnn,
    "edsr": edsr,
    "res_unet": res_unet,
    "unet": unet,
}

__all__ = ["PRIORS", "dncnn", "edsr", "get", "res_unet", "unet"]


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
