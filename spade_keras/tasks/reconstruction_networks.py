"""Makes the networks that a reconstruction's recipe can name."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras.networks import NETWORKS, priors
from spade_keras.operators import LinearOperator

_EQUILIBRIUM = ("tolerance", "max_iterations", "gradient", "gradient_steps")


def make_network(settings: Any, operator: LinearOperator, channels: int) -> keras.Model:
    """Makes a network and its priors with new weights.

    Args:
        settings: The table `[network]`.
        operator: The forward model.
        channels: Channels of the images.
    """
    prior = _prior(settings, channels)
    options: dict[str, Any] = {"iterations": settings.iterations}
    if settings.name == "deep_equilibrium":
        options |= {key: getattr(settings, key) for key in _EQUILIBRIUM}
    elif settings.name in ("varnet", "e2e_varnet"):
        options["output"] = settings.output
    elif settings.name == "usrnet":
        options["hidden"] = settings.hidden
    if settings.name == "e2e_varnet":
        filters = settings.sensitivity.filters
        options["sensitivity"] = priors.unet(filters=filters, name="sensitivity")
    return NETWORKS[settings.name](operator, prior, **options)


def _prior(settings: Any, channels: int) -> keras.Model:
    prior = settings.prior
    options: dict[str, Any] = {"filters": prior.filters, "channels": channels}
    if prior.name in ("dncnn", "edsr"):
        options["kernel_size"] = prior.kernel_size
    if settings.name == "usrnet":
        options["condition_channels"] = 1  # the noise level
    return priors.get(prior.name, **options)
