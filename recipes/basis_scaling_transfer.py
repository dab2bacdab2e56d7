"""Transfer a network to a small task, then remove nine tenths of it, by `model.fit` alone.

Needs:  pip install "spade-keras[tensorflow,recipes]"
Run:    python recipes/basis_scaling_transfer.py                      # digits: offline, a minute
        python recipes/basis_scaling_transfer.py --network resnet
Other:  --dataset mnist or cifar10   through keras.datasets: ~/.keras/datasets, or a download
        --weights imagenet           VGG16, ResNet50 of keras.applications: ~/.keras, or a download
Whole:  spade-keras run recipes/classifier_basis_scaling.toml does the same in stages that can be
        continued, and exports what it makes.

A network learns the classes 0 to 4 of a data set and is transferred to the classes 5 to 9 with few
samples. Then components, channels, or both go, the unpruned network teaching, and a network as
large as the first result is trained on the same samples from scratch. Samples to train on, to
choose by and to test are disjoint; the test samples are looked at for the table alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import keras
from rich.console import Console

from spade_keras import pruning, report, transfer
from spade_keras.transfer import FILTERS, Tasks

__all__ = ["BATCH", "CHANNELS", "FILTERS", "Settings", "Tasks", "load_tasks", "make_row",
           "prune_channels", "prune_components", "run", "teach"]  # fmt: skip

BATCH = 30
CHANNELS = 0.3
PAIRS = 20


@dataclass(frozen=True)
class Settings:
    """What a transfer is made with.

    Args:
        network: `"vgg"` or `"resnet"`.
        weights: `"source"`: a small network learns the source task; `"imagenet"`: a large one of
            keras.applications comes with its weights.
        dataset: `"digits"`, `"mnist"` or `"cifar10"`.
        train: Target samples per class to train on.
        validation: Target samples per class to choose by.
        epochs: Epochs of the transfer, and of every tuning; a third of them for the source task.
        learning_rate: Rate of whatever trains all weights of the transferred network.
        allowed_loss: Validation accuracy that pruning may cost.
        stop_at: Share of the parameters that is few enough.
        tuning_epochs: Epochs of all weights after the pruning of components; 0: as the paper.
        teacher_share: Weight of the unpruned network's answers in what the pruned ones learn.
        seed: Seed of the samples and of the weights.
    """

    network: str = "vgg"
    weights: str = "source"
    dataset: str = "digits"
    train: int = 60
    validation: int = 40
    epochs: int = 30
    learning_rate: float = transfer.LEARNING_RATES["source"]
    allowed_loss: float = 0.02
    stop_at: float = 0.08
    tuning_epochs: int = 30
    teacher_share: float = 0.5
    seed: int = 0


def load_tasks(settings: Settings) -> Tasks:
    """The source task, and three disjoint parts of the target task, classes counted from 0."""
    x, y = transfer.load_pictures(settings.dataset)
    if settings.weights == "imagenet":
        x = transfer.prepare_for_imagenet(x)
    return transfer.split_tasks(
        x, y, train=settings.train, validation=settings.validation, seed=settings.seed
    )


def make_source(settings: Settings, tasks: Tasks) -> keras.Model:
    """The network that is transferred, with the weights of the source task or of ImageNet."""
    shape = tasks["source"][0].shape[1:]
    if settings.weights == "imagenet":
        return transfer.imagenet_network(settings.network, shape)
    source = transfer.make_network(settings.network, shape)
    return transfer.fit(source, tasks["source"], epochs=max(1, settings.epochs // 3))


def teach(original: keras.Model, tasks: Tasks, settings: Settings) -> Tasks:
    """The tasks, with the original's answers mixed into the labels to train on."""
    share = settings.teacher_share
    return {**tasks, "train": transfer.soft_labels(original, tasks["train"], share=share)}


def prune_components(
    model: keras.Model,
    tasks: Tasks,
    settings: Settings,
    importance: str = "effect_per_parameter",
) -> keras.Model:
    """Decomposes, prunes while factors, norms and head train, merges, and tunes all weights."""
    slim = transfer.prune_components(
        model,
        tasks,
        allowed_loss=settings.allowed_loss,
        stop_at=settings.stop_at,
        importance=importance,
        phase_epochs=2 * settings.epochs,
        closing_epochs=settings.epochs // 3 + 1,
    ).model
    if not settings.tuning_epochs:
        return slim
    rate = settings.learning_rate
    return transfer.fit(
        slim, tasks["train"], tasks["validation"], epochs=settings.tuning_epochs, learning_rate=rate
    )


def prune_channels(
    model: keras.Model, tasks: Tasks, settings: Settings, **amount: Any
) -> keras.Model:
    """Removes channels, as many as `make_plan` is asked to, and tunes all weights."""
    plan = pruning.make_plan(model, **amount)
    rate = settings.learning_rate
    return transfer.prune_channels(model, tasks, plan, epochs=settings.epochs, learning_rate=rate)


def run(settings: Settings) -> tuple[Tasks, dict[str, keras.Model]]:
    """Makes the original and what becomes of it.

    Args:
        settings: The settings.

    Returns:
        The samples, and the models by name.
    """
    keras.utils.set_random_seed(settings.seed)
    tasks = load_tasks(settings)
    original = transfer.transfer_network(
        make_source(settings, tasks),
        tasks,
        classes=5,
        seed=settings.seed,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
    )
    taught = teach(original, tasks, settings)
    basis = prune_components(original, taught, settings)
    size = pruning.count_parameters(basis)
    channel = prune_channels(original, taught, settings, target={"parameters": size})
    double = prune_components(
        prune_channels(original, taught, settings, ratio=CHANNELS), taught, settings
    )
    scratch = transfer.make_network_of_size(settings.network, original.input_shape[1:], size)
    transfer.fit(scratch, tasks["train"], tasks["validation"], epochs=3 * settings.epochs)
    return tasks, {
        "original": original,
        "basis": basis,
        "channel": channel,
        "double": double,
        "from scratch": scratch,
    }


def make_row(model: keras.Model, original: keras.Model, tasks: Tasks, pairs: int) -> dict[str, Any]:
    """What the table says about a model; see `transfer.measure_cost`."""
    return transfer.measure_cost(model, original, tasks, batch_size=BATCH, pairs=pairs)


def main() -> int:
    """Reads the command line, runs the transfer and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=("vgg", "resnet"), default="vgg")
    parser.add_argument("--weights", choices=("source", "imagenet"), default="source")
    parser.add_argument("--dataset", choices=("digits", "mnist", "cifar10"), default="digits")
    parser.add_argument("--train", type=int, default=60, help="target samples per class")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    rate = transfer.LEARNING_RATES[given["weights"]]
    tasks, models = run(Settings(**given, learning_rate=rate))
    metrics = {
        "networks": {n: make_row(m, models["original"], tasks, PAIRS) for n, m in models.items()},
        "samples": {name: len(labels) for name, (_, labels) in tasks.items()},
        "batch_size": BATCH,
    }
    Console().print(report.transfer_table(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
