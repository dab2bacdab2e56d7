"""Training of a run's networks: Adam with cosine decay, best weights by held-out loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from spade_keras import backend
from spade_keras.finetuning import STRATEGIES, Supervised
from spade_keras.job import Job
from spade_keras.metrics import PSNR
from spade_keras.networks import NETWORKS, priors
from spade_keras.operators import CartesianMRI
from spade_keras.prediction import predict
from spade_keras.recipe import Recipe

# A just pruned network and a batch of one slice give gradients of very different lengths; cut to
# this one (for images scaled to [0, 1]) they allow a learning rate several times higher.
_CLIP_NORM = 0.01


def fit_best(
    model: keras.Model,
    train: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    *,
    epochs: int,
    learning_rate: float,
    checkpoint: Path,
    compile_options: dict[str, Any] | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, list[float]]:
    """Trains a model and leaves it with the weights of the lowest validation loss.

    Args:
        model: A network, or a fine-tuner around one.
        train: Training batches.
        validation: Held-out batches of the same kind.
        epochs: Passes over `train`.
        learning_rate: Of Adam after a rise over half an epoch; falls to zero by a cosine.
        checkpoint: Where to keep the best weights meanwhile, ending in `.weights.h5`; removed.
        compile_options: Of `compile`, such as loss and metrics.
        callbacks: More callbacks.

    Returns:
        The history: metric -> one value per epoch.

    Raises:
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    warmup = max(1, len(train) // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 20,
        max(1, epochs * len(train) - warmup),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    # On a CPU TensorFlow's own kernels beat XLA's, twofold for convolutions.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, global_clipnorm=_CLIP_NORM),
        jit_compile=False if on_tf_cpu else "auto",
        **(compile_options or {}),
    )
    best = keras.callbacks.ModelCheckpoint(
        checkpoint, monitor="val_loss", mode="min", save_best_only=True, save_weights_only=True
    )
    history = model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        verbose=0,
        callbacks=[best, keras.callbacks.TerminateOnNaN(), *callbacks],
    ).history
    if not checkpoint.exists():
        raise FloatingPointError(
            "No epoch had a finite validation loss. Lower the learning rate. "
            f"Received: learning_rate={learning_rate}, losses={history.get('loss')}"
        )
    model.load_weights(checkpoint)
    checkpoint.unlink()
    return {name: [float(v) for v in values] for name, values in history.items()}


def new_network(recipe: Recipe) -> keras.Model:
    """Makes the full network of a recipe, with new weights."""
    settings = recipe.network
    prior = priors.get(**settings.prior.model_dump())
    return NETWORKS[settings.name](CartesianMRI(), prior, iterations=settings.iterations)


def fit_on_truth(
    job: Job, folder: Path, network: keras.Model, epochs: int, label: str
) -> dict[str, list[float]]:
    """Trains a network on ground truth with the recipe's `[training]`; see `fit_best`."""
    settings = job.recipe.training
    return fit_best(
        network,
        job.batches("train", settings.batch_size, lambda slices: slices.truth),
        job.batches("validation", settings.batch_size, lambda slices: slices.truth, shuffle=False),
        epochs=epochs,
        learning_rate=settings.learning_rate,
        checkpoint=folder / "best.weights.h5",
        compile_options={"loss": "mse", "metrics": [PSNR()]},
        callbacks=(job.epochs_shown(label, epochs),),
    )


def fit_by_strategy(
    job: Job, folder: Path, network: keras.Model, label: str
) -> dict[str, list[float]]:
    """Trains a network with the recipe's `[finetuning]`; see `fit_best`.

    The truth is loaded for the supervised strategy alone. For "school" the teacher's answers to
    the fixed measurements are computed once, which gives the loss of `School` at a third less cost.
    """
    settings = job.recipe.finetuning
    targets = {
        "supervised": lambda slices: slices.truth,
        "school": lambda slices: predict(job.model("train"), slices.inputs),
        "self_supervised": None,
    }[settings.strategy]
    tuner = Supervised(network) if targets else STRATEGIES[settings.strategy](network)
    return fit_best(
        tuner,
        job.batches(settings.on, settings.batch_size, targets),
        job.batches("validation", settings.batch_size, targets, shuffle=False),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        checkpoint=folder / "best.weights.h5",
        callbacks=(job.epochs_shown(label, settings.epochs),),
    )
