"""One training of a classifier by `model.fit`, and what it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from spade_keras import backend
from spade_keras.backend.batches import predict

Samples = tuple[np.ndarray, np.ndarray]
"""Inputs, samples first, and their classes 0, 1, 2, ..., or one probability per class."""
Tasks = dict[str, Samples]
"""Samples by name: "source", and the "train", "validation" and "test" of the target task."""

LEARNING_RATES = {"source": 2e-3, "imagenet": 1e-4}
"""Learning rate of all weights, by where they come from: those of VGG16, which has no norms, bear
small steps only."""


def fit(
    model: keras.Model,
    train: Samples,
    validation: Samples | None = None,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATES["source"],
    batch_size: int = 30,
    pruning: keras.callbacks.Callback | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Trains a classifier that gives probabilities, with Adam.

    Args:
        model: What is trained, in place.
        train: Samples to train on, with classes or with probabilities such as `soft_labels`.
        validation: Samples with classes to choose by. None: nothing is chosen, the last epoch
            counts.
        epochs: Passes over `train`, at most.
        learning_rate: Of Adam.
        batch_size: Samples in a batch.
        pruning: A callback that prunes and decides which weights the model ends with. None: the
            model ends with those of the lowest validation loss, where that is known.
        callbacks: More callbacks.

    Returns:
        The model.
    """
    loss = "sparse_categorical_crossentropy"
    if train[1].ndim == 2:
        loss = "categorical_crossentropy"
        if validation is not None:
            classes = train[1].shape[-1]
            validation = (validation[0], keras.utils.to_categorical(validation[1], classes))
    chooser = pruning
    if chooser is None and validation is not None:
        chooser = keras.callbacks.EarlyStopping(
            "val_loss", patience=epochs, restore_best_weights=True
        )
    # On a CPU TensorFlow's own kernels beat XLA's.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    jit: Any = False if on_tf_cpu else "auto"
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss,
        metrics=["accuracy"],
        jit_compile=jit,
    )
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=200,
        callbacks=[*([chooser] if chooser else []), *callbacks],
        verbose=0,
    )
    return model


def soft_labels(
    teacher: keras.Model, samples: Samples, *, share: float = 0.5, temperature: float = 2.0
) -> Samples:
    """Mixes the classes of samples with what a teacher answers to them.

        (1 - share) one_hot(y) + share softmax(log(p) / temperature)

    Args:
        teacher: A classifier that gives probabilities p.
        samples: Inputs and their classes.
        share: Weight of the teacher's answers, in [0, 1].
        temperature: Above 1 the teacher's unlikely classes count more.

    Returns:
        The same inputs, with one probability per class, `(samples, classes)`, float32.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Hinton, Vinyals, Dean, arXiv 1503.02531. There the student's scores are softened as well.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must be in [0, 1]. Received: share={share!r}.")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature!r}.")
    inputs, labels = samples
    answers = predict(teacher, inputs, batch_size=500)
    tiny = np.finfo(answers.dtype).tiny
    softened = softmax(np.log(np.maximum(answers, tiny)) / temperature, axis=-1)
    certain = keras.utils.to_categorical(labels, answers.shape[-1])
    mixed = (1 - share) * certain + share * softened
    return inputs, mixed.astype("float32")


def accuracy(model: keras.Model, samples: Samples) -> float:
    """Returns the share of right answers.

    Args:
        model: A classifier.
        samples: Inputs and classes.
    """
    answers = predict(model, samples[0], batch_size=500).argmax(axis=-1)
    return float(np.mean(answers == samples[1]))
