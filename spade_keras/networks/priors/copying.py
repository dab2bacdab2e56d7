"""Copies of priors."""

from __future__ import annotations

import keras


def copy_prior(prior: keras.Model) -> keras.Model:
    """Returns a prior of the same weights that shares none of them.

    Args:
        prior: A Functional model.
    """
    copy = keras.models.clone_model(prior)
    copy.set_weights(prior.get_weights())
    return copy
