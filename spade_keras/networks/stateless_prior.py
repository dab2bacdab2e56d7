"""Check that a prior is the same function in every iteration."""

from __future__ import annotations

import keras

_STATEFUL = (
    keras.layers.BatchNormalization,
    keras.layers.SpectralNormalization,
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


def check_stateless(prior: keras.Model) -> None:
    """Checks that no layer of a prior draws at random or updates statistics.

    Raises:
        ValueError: If one does and is not frozen.
    """
    for layer in prior._flatten_layers():
        if isinstance(layer, _STATEFUL) and layer.trainable:
            raise ValueError(
                "`prior` must be the same function in every iteration, but a layer draws at random "
                "or keeps statistics. Leave it out, or freeze a normalization whose statistics are "
                f"known (`layer.trainable = False`). Received: prior with the layer {layer.name!r} "
                f"of type {type(layer).__name__}"
            )
