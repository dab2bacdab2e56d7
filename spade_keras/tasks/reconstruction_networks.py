"""Makes the networks that a reconstruction's recipe can name."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from spade_keras import weights
from spade_keras.files import load_model
from spade_keras.operators import LinearOperator
from spade_keras.recipe.imaging import BundledNetwork
from spade_keras.registry import NETWORKS, PRIORS

_NOT_OPTIONS = {"name", "dtype", "prior", "sensitivity"}


def make_network(settings: Any, operator: LinearOperator, channels: int) -> keras.Model:
    """Makes a network and its priors, with new weights or those that the settings name.

    Keys that are not named here go to the network by name, so a new network needs no code here.

    Args:
        settings: The table `[network]`.
        operator: The forward model.
        channels: Channels of the images.
    """
    options = {key: value for key, value in settings if key not in _NOT_OPTIONS}
    trained = options.pop("weights") if isinstance(settings, BundledNetwork) else "none"
    if hasattr(settings, "sensitivity"):
        filters = settings.sensitivity.filters
        options["sensitivity"] = PRIORS.make("unet", filters=filters, name="sensitivity")
    conditions = getattr(NETWORKS[settings.name], "condition_channels", 0)
    prior = _make_prior(settings.prior, channels, conditions)
    network = NETWORKS.make(settings.name, operator, prior, **options)
    if trained != "none":
        file = weights.path(settings.name, trained)
        network.set_weights(load_model(file).get_weights())
    return network


def _make_prior(settings: Any, channels: int, condition_channels: int) -> keras.Model:
    taken = inspect.signature(PRIORS[settings.name]).parameters
    options = {key: value for key, value in settings if key != "name" and key in taken}
    if condition_channels:
        options["condition_channels"] = condition_channels
    return PRIORS.make(settings.name, channels=channels, **options)
