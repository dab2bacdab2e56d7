"""A new head for a trained classifier, and its training on the target task."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras.errors import SpadeError
from spade_keras.pruning import copy_model
from spade_keras.transfer.fitting import Tasks, fit

_AFTER_HEAD = (keras.layers.Activation, keras.layers.Softmax)


def transfer_network(
    source: keras.Model, tasks: Tasks, *, classes: int, seed: int = 0, **options: Any
) -> keras.Model:
    """Gives a network a head for the target task and trains all of it there.

    Args:
        source: A trained classifier; it stays as it is.
        tasks: The target's "train" and "validation".
        classes: Number of target classes.
        seed: Of the head's weights.
        **options: Of `fit`.

    Returns:
        A new model.

    Raises:
        SpadeError: See `replace_head`.
    """
    model = replace_head(source, classes, seed=seed)
    return fit(model, tasks["train"], tasks["validation"], **options)


def replace_head(model: keras.Model, classes: int, *, seed: int = 0) -> keras.Model:
    """Replaces the dense layer that makes a classifier's outputs by a new one with a softmax.

    Args:
        model: A Functional or Sequential model with one input and one output; it stays as it is.
        classes: Number of classes.
        seed: Of the new weights.

    Returns:
        A new model; the layers before the head have the old weights.

    Raises:
        SpadeError: If the output is not made by a dense layer, followed at most by an activation.

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()]
        >>> replace_head(keras.Sequential(layers), 7).output_shape
        (None, 7)
    """
    copy = copy_model(model)
    head = _find_head(copy)
    new = keras.layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer=keras.initializers.GlorotUniform(seed),
        name=head.name,
    )
    return keras.Model(copy.inputs[0], new(head.input), name=model.name)


def _find_head(model: keras.Model) -> keras.layers.Dense:
    """The dense layer at the end of a model."""
    if len(model.inputs) == 1 and len(model.outputs) == 1:
        for layer in reversed(model.layers):
            if isinstance(layer, keras.layers.Dense) and len(layer.output.shape) == 2:
                return layer
            if not isinstance(layer, _AFTER_HEAD):
                break
    raise SpadeError(
        "A network that is transferred must have one input and end with a `Dense` layer that makes "
        "one score per class, which is replaced. Received: "
        f"{model.name!r} with {len(model.inputs)} inputs and {len(model.outputs)} outputs, whose "
        f"last layer is a {type(model.layers[-1]).__name__}"
    )
