"""Training of a run's networks: Adam with cosine decay, best weights by held-out loss."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from spade_keras.backend.batches import first_samples, predict
from spade_keras.finetuning import (
    IMAGE_CLIP_NORM,
    STRATEGIES,
    FineTuner,
    SelfSupervised,
    SplitBatches,
    Supervised,
    judged_as,
    tuning_options,
)
from spade_keras.tasks import Samples

if TYPE_CHECKING:
    from spade_keras.pipeline.latency_run import LatencyJob


def fit_best(  # noqa: PLR0913 - every setting is a keyword of its own
    model: keras.Model,
    train: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    *,
    epochs: int,
    learning_rate: float,
    checkpoint: Path,
    clip_norm: float = IMAGE_CLIP_NORM,
    compile_options: dict[str, Any] | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, list[float]]:
    """Trains a model and leaves it with the weights of the lowest validation loss.

    Args:
        model: A network, or a fine-tuner around one.
        train: Training batches.
        validation: Held-out batches of the same kind.
        epochs: Passes over `train`.
        learning_rate: Rate of Adam after a rise over half an epoch; falls to zero by a cosine.
        checkpoint: Temporary file of the best weights, ending in `.weights.h5`.
        clip_norm: Norm to which gradients are clipped.
        compile_options: Arguments of `compile`, such as loss and metrics.
        callbacks: More callbacks.

    Returns:
        The history: metric -> one value per epoch.

    Raises:
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    model.compile(
        **tuning_options(
            learning_rate=learning_rate,
            steps=epochs * len(train),
            warmup=max(1, len(train) // 2),
            clip_norm=clip_norm,
        ),
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


def fit_full(
    job: LatencyJob, folder: Path, network: keras.Model, epochs: int, label: str
) -> dict[str, list[float]]:
    """Trains a network by the recipe's `[training]`, on truth or without; see `fit_best`."""
    settings = job.recipe.training
    if settings.strategy == "supervised":
        model = network
        train = job.batches("train", settings.batch_size, lambda samples: samples.targets)
        held_out = job.batches(
            "validation", settings.batch_size, lambda samples: samples.targets, shuffle=False
        )
        options = job.task.training_options(network, held_out[0][0])
    else:
        model = _self_supervised(network, settings)
        train = _measurements(job, "train", settings)
        held_out = job.batches("validation", settings.batch_size, shuffle=False, judged=True)
        options = {}
    return fit_best(
        model,
        train,
        held_out,
        epochs=epochs,
        learning_rate=settings.learning_rate,
        checkpoint=folder / "best.weights.h5",
        clip_norm=job.task.clip_norm,
        compile_options=options,
        callbacks=(job.epochs_shown(label, epochs),),
    )


def fit_by_strategy(
    job: LatencyJob, folder: Path, network: keras.Model, label: str
) -> dict[str, list[float]]:
    """Trains a network by the recipe's `[finetuning]`; see `fit_best`."""
    settings = job.recipe.finetuning
    return fit_best(
        strategy_tuner(job, network),
        strategy_batches(job, settings.on),
        strategy_batches(job, "validation", shuffle=False),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        checkpoint=folder / "best.weights.h5",
        clip_norm=job.task.clip_norm,
        callbacks=(job.epochs_shown(label, settings.epochs),),
    )


def strategy_tuner(job: LatencyJob, network: keras.Model) -> FineTuner:
    """Wraps a network in the fine-tuning strategy of the recipe, for `strategy_batches`."""
    settings = job.recipe.finetuning
    strategy = settings.strategy
    if strategy == "self_supervised":
        return _self_supervised(network, settings)
    if strategy not in ("supervised", "school"):
        return STRATEGIES.make(strategy, network)
    inputs = first_samples(job.samples("validation").inputs, 8)
    return Supervised(network, distance=job.task.distance(strategy, network, inputs))


def strategy_batches(job: LatencyJob, split: str, *, shuffle: bool = True) -> keras.utils.PyDataset:
    """Serves a split as the fine-tuning strategy of the recipe may see it.

    The truth is loaded only for strategies judged as supervised. For "school" the teacher's outputs
    are computed once, since the inputs are fixed: the loss of `School` at a third less cost.
    """
    settings = job.recipe.finetuning
    if settings.strategy == "self_supervised":
        if shuffle:
            return _measurements(job, split, settings)
        return job.batches(split, settings.batch_size, shuffle=False, judged=True)
    make = _TARGETS.get(judged_as(settings.strategy))
    targets = make and functools.partial(make, job)
    return job.batches(split, settings.batch_size, targets, shuffle=shuffle)


def _self_supervised(network: keras.Model, settings: Any) -> SelfSupervised:
    return SelfSupervised(network, equivariance_weight=settings.equivariance_weight)


def _measurements(job: LatencyJob, split: str, settings: Any) -> keras.utils.PyDataset:
    """Serves measurements alone, with a new splitting every time if the recipe asks for it."""
    batches = job.batches(split, settings.batch_size)
    if not settings.splitting:
        return batches
    data: Any = job.recipe.data
    return SplitBatches(
        batches, settings.splitting, center=data.acs_lines, seed=job.recipe.run.seed
    )


def _truth(job: LatencyJob, samples: Samples) -> Any:
    return samples.targets


def _lessons(job: LatencyJob, samples: Samples) -> np.ndarray:
    return predict(job.model("train"), samples.inputs)


_TARGETS = {"supervised": _truth, "school": _lessons}
