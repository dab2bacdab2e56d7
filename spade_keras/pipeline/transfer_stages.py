"""The stages of a transfer in which networks are made: source, original, and what prunes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import data, pruning, transfer
from spade_keras.errors import SpadeError
from spade_keras.files import load_model, write_bytes_atomic, write_json_atomic
from spade_keras.pipeline.progress import ProgressBar
from spade_keras.pipeline.transfer_job import TransferJob
from spade_keras.pruning import PruningPlan, find_rank_groups
from spade_keras.transfer.pictures import scale_pictures

TRANSFER_DATA_LAYOUT = 1
"""Changes when the data stage writes other files of the same recipe."""

# From scratch, a network learns for as many epochs as these times the epochs of the transfer.
_SCRATCH = 3


def make_data(job: TransferJob, folder: Path) -> None:
    """Makes the samples of both tasks, and notes what they are."""
    settings, network = job.recipe.data, job.recipe.network
    if settings.path is not None:
        x, y = data.load_labeled_arrays(Path(settings.path).expanduser())
        if x.ndim != 4:
            raise SpadeError(
                "`data.path` must hold pictures x of shape (samples, height, width, channels). "
                f"Received: data.path={settings.path}, x of shape {x.shape}"
            )
        x = scale_pictures(x, settings.size)
    else:
        x, y = transfer.load_pictures(settings.source, settings.size)
    if network.weights == "imagenet":
        x = transfer.prepare_for_imagenet(x)
    tasks = transfer.split_tasks(
        x,
        y,
        source_classes=settings.source_classes if _learns_source(job) else (),
        target_classes=settings.target_classes,
        train=settings.train_per_class,
        validation=settings.validation_per_class,
        seed=job.recipe.run.seed,
    )
    for name, (inputs, labels) in tasks.items():
        np.savez(folder / f"{name}.npz", x=inputs, y=labels)
        classes = len(np.unique(labels))
        job.console.print(f"  {name}: {len(labels)} samples of {classes} classes", highlight=False)
    write_json_atomic(
        folder / "facts.json",
        {
            "note": _note(job),
            "samples": {name: len(labels) for name, (_, labels) in tasks.items()},
            "shape": x.shape[1:],
        },
    )


def make_source(job: TransferJob, folder: Path) -> None:
    """Makes the network that is transferred: trained on the source task, or elsewhere."""
    job.seed(1)
    settings = job.recipe.network
    shape = job.target["train"][0].shape[1:]
    if settings.path is not None:
        source = _from_file(job, settings.path)
    elif settings.weights == "imagenet":
        source = transfer.imagenet_network(settings.name, shape)
    else:
        source = _bundled(job, shape)
        fitting = job.fitting(job.recipe.training.source_epochs, "epoch of the source task")
        transfer.fit(source, job.samples("source"), **fitting)
    source.save(folder / "network.keras")


def make_original(job: TransferJob, folder: Path) -> None:
    """Transfers the source network to the target task."""
    job.seed(2)
    original = transfer.transfer_network(
        job.model("source"),
        job.target,
        classes=job.classes,
        seed=job.recipe.run.seed,
        **job.fitting(job.recipe.training.epochs),
    )
    original.save(folder / "network.keras")


def make_basis(job: TransferJob, folder: Path) -> None:
    """Prunes components of the original."""
    job.seed(3)
    original = job.model("original")
    pruned = _prune_components(job, original)
    _save(folder, pruned, pruned.plan)


def make_channel(job: TransferJob, folder: Path) -> None:
    """Prunes channels of the original to the size of the basis network."""
    job.seed(4)
    original = job.model("original")
    size = pruning.count_parameters(job.model("basis"))
    importance = job.recipe.pruning.importance
    plan = pruning.make_plan(original, importance=importance, target={"parameters": size})
    fitting = job.fitting(job.recipe.training.epochs)
    transfer.prune_channels(original, job.taught, plan, **fitting).save(folder / "network.keras")
    write_bytes_atomic(folder / "plan.json", plan.to_json().encode())


def make_double(job: TransferJob, folder: Path) -> None:
    """Prunes channels of the original, trains, and prunes components of what is left."""
    job.seed(5)
    original = job.model("original")
    settings = job.recipe.pruning
    plan = pruning.make_plan(original, importance=settings.importance, ratio=settings.channel_ratio)
    fitting = job.fitting(job.recipe.training.epochs)
    narrow = transfer.prune_channels(original, job.taught, plan, **fitting)
    narrow.save(folder / "channels.keras")
    pruned = _prune_components(job, narrow)
    _save(folder, pruned, plan.then(pruned.plan))


def make_scratch(job: TransferJob, folder: Path) -> None:
    """Trains a network as large as the basis network, which sees the target task alone."""
    if not job.recipe.evaluation.rivals:
        return
    job.seed(6)
    size = pruning.count_parameters(job.model("basis"))
    shape = job.target["train"][0].shape[1:]
    name = job.recipe.network.name
    model = transfer.make_network_of_size(name, shape, size, classes=job.classes)
    fitting = job.fitting(_SCRATCH * job.recipe.training.epochs)
    transfer.fit(model, job.target["train"], job.target["validation"], **fitting)
    model.save(folder / "network.keras")


def _learns_source(job: TransferJob) -> bool:
    return job.recipe.network.path is None and job.recipe.network.weights == "source"


def _note(job: TransferJob) -> str:
    settings = job.recipe.data
    name = settings.source if settings.path is None else Path(settings.path).name
    target = ", ".join(map(str, settings.target_classes))
    learned = "A network that was trained elsewhere"
    if job.recipe.network.weights == "imagenet":
        learned = "A network trained on ImageNet"
    elif job.recipe.network.path is None:
        source = ", ".join(map(str, settings.source_classes))
        learned = f"A network that learned the classes {source} of {name}"
    return (
        f"{learned} is transferred to the classes {target} of {name}, with "
        f"{settings.train_per_class} samples per class to train on and "
        f"{settings.validation_per_class} to choose by; all others test."
    )


def _bundled(job: TransferJob, shape: tuple[int, ...]) -> keras.Model:
    settings, classes = job.recipe.network, len(job.recipe.data.source_classes)
    try:
        return transfer.make_network(settings.name, shape, settings.filters, classes=classes)
    except ValueError as error:
        raise SpadeError(f"The pictures of `data.path` are too small. {error}") from error


def _from_file(job: TransferJob, path: str) -> keras.Model:
    """Loads a classifier, and tells what is wrong with it before anything is trained.

    Raises:
        SpadeError: If it does not load, does not take the data, has no dense head, or has no other
            layer that could be decomposed.
    """
    try:
        model = load_model(Path(path).expanduser())
    except ValueError as error:
        raise SpadeError(f"`network.path` cannot be read. {error}") from error
    sample = job.target["train"][0][:1]
    try:
        model(sample, training=False)
    except Exception as error:
        raise SpadeError(
            f"`network.path` must hold a classifier that takes the data, of shape "
            f"{sample.shape[1:]} a sample. Received: network.path={path}, which fails: {error}"
        ) from error
    groups = find_rank_groups(transfer.replace_head(model, job.classes))
    if all(group.fixed is not None for group in groups[:-1]):
        reasons = {group.name: group.fixed for group in groups[:-1]}
        raise SpadeError(
            "`network.path` must hold a network with a convolution or dense layer, beside its "
            f"head, that can be decomposed. Received: network.path={path}, with {reasons}"
        )
    return model


def _prune_components(job: TransferJob, model: keras.Model) -> transfer.PrunedComponents:
    settings = job.recipe.pruning
    phases = [
        transfer.PruningPhase(*phase)
        for phase in zip(settings.shares, settings.patience, settings.learning_rates, strict=True)
    ]
    most = len(phases) * settings.phase_epochs + settings.closing_epochs
    with ProgressBar(job.console, "epoch, of at most", most) as bar:

        def show(epoch: int, logs: dict[str, Any]) -> None:
            bar.advance(f"validation accuracy {logs['val_accuracy']:.3f}")

        pruned = transfer.prune_components(
            model,
            job.taught,
            allowed_loss=settings.allowed_loss,
            stop_at=settings.stop_at,
            phases=phases,
            importance=settings.component_importance,
            phase_epochs=settings.phase_epochs,
            closing_epochs=settings.closing_epochs,
            batch_size=job.recipe.training.batch_size,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=show)],
        )
    if settings.tuning_epochs:
        fitting = job.fitting(settings.tuning_epochs, "epoch of all weights")
        transfer.fit(pruned.model, job.taught["train"], job.taught["validation"], **fitting)
    return pruned


def _save(folder: Path, pruned: transfer.PrunedComponents, plan: PruningPlan) -> None:
    pruned.model.save(folder / "network.keras")
    write_bytes_atomic(folder / "plan.json", plan.to_json().encode())
    rounds = [[asdict(entry) for entry in phase] for phase in pruned.rounds]
    write_json_atomic(folder / "rounds.json", rounds)
