"""Layers that are built with zeros, for their weights are about to be replaced."""

from __future__ import annotations

from typing import Any

import keras

_SUFFIX = "_initializer"


def without_build_shapes(config: Any) -> Any:
    """A layer configuration whose inner layers forget the shapes they were built for.

    Args:
        config: Configuration from `get_config`.
    """
    if isinstance(config, dict):
        return {k: without_build_shapes(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, list):
        return [without_build_shapes(item) for item in config]
    return config


def with_zeros(config: dict[str, Any]) -> dict[str, Any]:
    """A layer configuration whose initializers are all zeros: drawing numbers is what costs.

    Args:
        config: Configuration from `get_config`; inner layers are reached through it.
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key.endswith(_SUFFIX) and value is not None:
            result[key] = "zeros"
        elif isinstance(value, dict):
            result[key] = with_zeros(value)
        elif isinstance(value, list):
            result[key] = [with_zeros(x) if isinstance(x, dict) else x for x in value]
        else:
            result[key] = value
    return result


def restore_initializers(original: Any, made: Any) -> None:
    """Gives a new layer the initializers of the original, so that it is saved with them.

    Args:
        original: The original layer.
        made: The layer built with zeros.
    """
    pairs = [(original, made)]
    pairs += zip(original._flatten_layers(False), made._flatten_layers(False), strict=True)
    for old, new in pairs:
        for name, value in vars(old).items():
            if isinstance(value, keras.initializers.Initializer):
                setattr(new, name, value)
