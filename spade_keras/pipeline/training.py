"""Training of a run's networks: Adam with cosine decay, best weights by held-out loss."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from spade_keras.backend.batches import first_samples, predict
from spade_keras.data import SliceDataset
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
from spade_keras.pipeline.progress import epochs_shown

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
    """Trains a model to the lowest validation loss, and returns metric -> one value per epoch.

    Among the metrics are the "seconds" that each epoch took, compilation included.

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
    ends = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    history = model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        verbose=0,
        callbacks=[best, keras.callbacks.TerminateOnNaN(), clock, *callbacks],
    ).history
    if not checkpoint.exists():
        raise FloatingPointError(
            "No epoch had a finite validation loss. Lower the learning rate. "
            f"Received: learning_rate={learning_rate}, losses={history.get('loss')}"
        )
    model.load_weights(checkpoint)
    checkpoint.unlink()
    history["seconds"] = np.diff(ends)
    return {name: [float(v) for v in values] for name, values in history.items()}


def fit_by_strategy(
    job: LatencyJob,
    folder: Path,
    network: keras.Model,
    settings: Any,
    label: str,
    epochs: int | None = None,
) -> dict[str, list[float]]:
    """Trains a network by the strategy of `[training]` or `[finetuning]`; see `fit_best`.

    Args:
        job: The run.
        folder: Where a checkpoint is kept for that time.
        network: The network.
        settings: The table.
        label: Name of an epoch.
        epochs: Their number; None: that of the table.
    """
    epochs = settings.epochs if epochs is None else epochs
    model, options = network, {}
    if settings is job.recipe.training and settings.strategy == "supervised":
        few = first_samples(job.samples("validation").inputs, settings.batch_size)
        options = job.task.training_options(network, few)
    else:
        model = strategy_tuner(job, network, settings)
    with epochs_shown(job.console, label, epochs) as show:
        return fit_best(
            model,
            strategy_batches(job, getattr(settings, "on", "train"), settings),
            strategy_batches(job, "validation", settings, shuffle=False),
            epochs=epochs,
            learning_rate=settings.learning_rate,
            checkpoint=folder / "best.weights.h5",
            clip_norm=job.task.clip_norm,
            compile_options=options,
            callbacks=(show,),
        )


def strategy_tuner(job: LatencyJob, network: keras.Model, settings: Any) -> FineTuner:
    """Wraps a network in the strategy of `[training]` or `[finetuning]`."""
    strategy = settings.strategy
    if strategy == "self_supervised":
        return SelfSupervised(network, equivariance_weight=settings.equivariance_weight)
    if strategy not in ("supervised", "school"):
        return STRATEGIES.make(strategy, network)
    inputs = first_samples(job.samples("validation").inputs, 8)
    return Supervised(network, distance=job.task.distance(strategy, network, inputs))


def strategy_batches(
    job: LatencyJob, split: str, settings: Any, *, shuffle: bool = True
) -> keras.utils.PyDataset:
    """Serves a split as the strategy of `[training]` or `[finetuning]` may see it.

    The truth is loaded only for strategies judged as supervised. For "school" the teacher's outputs
    are computed once, since the inputs are fixed: the loss of `School` at a third less cost.
    "self_supervised" trains on measurements alone, with a new splitting every time if the recipe
    asks for it, and is judged by the held-out ones.
    """
    samples = job.samples(split)
    inputs, targets = samples.inputs, None
    judged_by = judged_as(settings.strategy)
    if judged_by == "supervised":
        targets = samples.targets
    elif judged_by == "school":
        targets = predict(job.model("train"), inputs)
    elif settings.strategy == "self_supervised" and not shuffle:
        inputs = samples.judged_inputs
    seed = job.recipe.run.seed
    batches = SliceDataset(
        inputs,
        targets,
        batch_size=min(settings.batch_size, len(samples)),
        shuffle_seed=seed if shuffle else None,
    )
    if settings.strategy == "self_supervised" and shuffle and settings.splitting:
        data: Any = job.recipe.data
        return SplitBatches(batches, settings.splitting, center=data.acs_lines, seed=seed)
    return batches
