"""Transfer a network to a small task, then remove nine tenths of it, by `model.fit` alone.

Needs:  pip install "spade-keras[tensorflow,recipes]"
Run:    python recipes/basis_scaling_transfer.py                      # digits: offline, a minute
        python recipes/basis_scaling_transfer.py --network resnet
Other:  --dataset mnist or cifar10   through keras.datasets: ~/.keras/datasets, or a download
        --weights imagenet           VGG16, ResNet50 of keras.applications: ~/.keras, or a download

A network learns the classes 0 to 4 of a data set and is transferred to the classes 5 to 9 with few
samples. Then it is pruned four ways, and a network as large as the first result is trained on the
same samples from scratch. Samples to train on, to choose by and to test are disjoint; the test
samples are looked at for the table alone.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras import backend, latency, pruning
from spade_keras.data import load_digits

Samples = tuple[np.ndarray, np.ndarray]
Tasks = dict[str, Samples]
LOSS = "sparse_categorical_crossentropy"
FILTERS = {"vgg": (24, 48, 96, 256), "resnet": (16, 32, 64, 192)}
BATCH = 30
# Rounds of pruning: share of the components per epoch, epochs that may fail, learning rate.
ROUNDS = ((0.05, 2, 5e-3), (0.06, 5, 5e-3), (0.05, 5, 3e-3))
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
        seed: Seed of the samples and of the weights.
    """

    network: str = "vgg"
    weights: str = "source"
    dataset: str = "digits"
    train: int = 60
    validation: int = 40
    epochs: int = 30
    learning_rate: float = 2e-3
    allowed_loss: float = 0.005
    seed: int = 0


def load_tasks(settings: Settings) -> Tasks:
    """The source task, and three disjoint parts of the target task, classes counted from 0."""
    if settings.dataset == "digits":
        x, y = load_digits(16)
    else:
        parts = getattr(keras.datasets, settings.dataset).load_data()
        x = np.concatenate([part[0] for part in parts]).astype("float32") / 255
        y = np.concatenate([part[1].reshape(-1) for part in parts]).astype("int32")
        x = x[..., None] if x.ndim == 3 else x
    if settings.weights == "imagenet":
        # Its networks want three channels and at least 32 x 32 pixels.
        x = keras.ops.image.resize(np.repeat(x, 4 - x.shape[-1], -1)[..., :3], (32, 32))
        x = keras.applications.vgg16.preprocess_input(255 * keras.ops.convert_to_numpy(x))
    target_x, target_y = x[y >= 5], y[y >= 5] - 5
    order = np.random.default_rng(settings.seed).permutation(len(target_y))
    by_class = [order[target_y[order] == label] for label in range(5)]
    first, second = settings.train, settings.train + settings.validation
    cuts = {"train": slice(first), "validation": slice(first, second), "test": slice(second, None)}
    rows = {name: np.concatenate([own[cut] for own in by_class]) for name, cut in cuts.items()}
    tasks = {name: (target_x[chosen], target_y[chosen]) for name, chosen in rows.items()}
    return {"source": (x[y < 5], y[y < 5]), **tasks}


def make_network(
    kind: str, shape: Sequence[int], filters: Sequence[int] | None = None
) -> keras.Model:
    """A small classifier of five classes, of widths `FILTERS`; every stage halves the image."""
    filters = filters or FILTERS[kind]
    convolution = {"vgg": _pooled, "resnet": _residual}[kind]
    x = inputs = keras.Input(tuple(shape))
    x = _convolution(x, filters[0], "stem")
    for index, width in enumerate(filters[1:]):
        x = convolution(x, width, f"block{index}")
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="head")(x))


def _convolution(x: Any, width: int, name: str, *, strides: int = 1, relu: bool = True) -> Any:
    layer = keras.layers.Conv2D(
        width, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )
    # Its statistics must follow within the few steps that few samples give.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(layer(x))
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _pooled(x: Any, width: int, name: str) -> Any:
    return _convolution(keras.layers.MaxPooling2D(name=f"{name}_pool")(x), width, name)


def _residual(x: Any, width: int, name: str) -> Any:
    inner = _convolution(x, width, f"{name}_first", strides=2)
    inner = _convolution(inner, width, f"{name}_second", relu=False)
    passed = keras.layers.Conv2D(width, 1, strides=2, use_bias=False, name=f"{name}_skip")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=name)([inner, passed]))


def make_source(settings: Settings, tasks: Tasks) -> keras.Model:
    """The network that is transferred, with the weights of the source task or of ImageNet."""
    shape = tasks["source"][0].shape[1:]
    if settings.weights == "imagenet":
        make = {"vgg": keras.applications.VGG16, "resnet": keras.applications.ResNet50}
        body = make[settings.network](
            include_top=False, weights="imagenet", input_shape=shape, pooling="avg"
        )
        head = keras.layers.Dense(5, activation="softmax", name="head")
        return keras.Model(body.input, head(body.output))
    source = make_network(settings.network, shape)
    return train(source, {**tasks, "train": tasks["source"]}, max(1, settings.epochs // 3))


def transfer(source: keras.Model, tasks: Tasks, settings: Settings) -> keras.Model:
    """Gives a copy of the source's network a new head and tunes all of it on the target task."""
    model = pruning.copy_model(source)
    head = model.get_layer("head")
    head.kernel.assign(keras.initializers.GlorotUniform(settings.seed)(head.kernel.shape))
    head.bias.assign(keras.ops.zeros(head.bias.shape))
    return train(model, tasks, settings.epochs, rate=settings.learning_rate)


def train(
    model: keras.Model,
    tasks: Tasks,
    epochs: int,
    callbacks: Sequence[Any] = (),
    rate: float = Settings.learning_rate,
) -> keras.Model:
    """Trains, and returns the model; without callbacks, at its best validation loss."""
    best = keras.callbacks.EarlyStopping(
        "val_loss", patience=epochs, restore_best_weights=True, start_from_epoch=0
    )
    # On a CPU TensorFlow's own kernels beat XLA's.
    on_tf_cpu = keras.backend.backend() == "tensorflow" and backend.device().kind == "cpu"
    jit: Any = False if on_tf_cpu else "auto"
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"], jit_compile=jit)
    model.fit(
        *tasks["train"],
        batch_size=BATCH,
        epochs=epochs,
        validation_data=tasks["validation"],
        validation_batch_size=200,
        callbacks=list(callbacks) or [best],
        verbose=0,
    )
    return model


class EffectPerParameter(pruning.basis.BasisImportance):
    """The Taylor effect of a component divided by the parameters that it costs.

    A component of a late layer of a network that doubles its width costs a hundred times those of
    the first layer; what is wanted is few parameters, not few components.

    Args:
        model: The decomposed model.
    """

    needs_gradients = True

    def __init__(self, model: keras.Model) -> None:
        self._effect = pruning.basis.get("taylor")
        self._cost = {}
        for pair in pruning.basis.find_pairs(model):
            rank = pair.scaling.rank
            self._cost[pair.scaling.name] = (
                np.prod(pair.basis.kernel.shape) + np.prod(pair.scaling.directions.shape)
            ) / rank

    def __call__(self, layer: Any, effects: np.ndarray | None) -> np.ndarray:
        """Effects of the layer's components per parameter."""
        return self._effect(layer, effects) / self._cost[layer.name]


def prune_components(
    model: keras.Model, tasks: Tasks, settings: Settings, importance: str | None = None
) -> keras.Model:
    """Decomposes, prunes while the scaling factors, norms and head train, and merges.

    Fast at first, then in small steps from the last state that was good enough; in the end it
    trains on without pruning.

    Args:
        model: The network to prune; it stays as it is.
        tasks: The samples.
        settings: The settings.
        importance: Name of an importance; None: `EffectPerParameter`.
    """
    low = pruning.decompose(model, trainable=["head", "norms"])
    reference = accuracy(model, tasks["validation"])
    for share, patience, rate in ROUNDS:
        callback = pruning.BasisPruning(
            share,
            max_loss=settings.allowed_loss,
            reference=reference,
            warmup=0,
            patience=patience,
            importance=importance or EffectPerParameter(low),
        )
        train(low, tasks, 2 * settings.epochs, [callback], rate)
    return pruning.merge(train(low, tasks, settings.epochs // 3 + 1, rate=rate))


def prune_channels(
    model: keras.Model, tasks: Tasks, settings: Settings, **amount: Any
) -> keras.Model:
    """Removes channels, as many as `make_plan` is asked to, and tunes all weights."""
    slim = pruning.rebuild(model, pruning.make_plan(model, **amount))
    return train(slim, tasks, settings.epochs, rate=settings.learning_rate)


def train_from_scratch(tasks: Tasks, settings: Settings, parameters: int) -> keras.Model:
    """A network of the small kind with at least as many parameters, which sees the target alone."""
    shape = tasks["train"][0].shape[1:]
    model = make_network(settings.network, shape)
    # Parameters grow with the square of the width; the norms' few grow slower.
    factor = 0.8 * math.sqrt(parameters / pruning.count_parameters(model))
    while True:
        filters = [math.ceil(factor * width) for width in FILTERS[settings.network]]
        model = make_network(settings.network, shape, filters)
        if pruning.count_parameters(model) >= parameters:
            break
        factor *= 1.02
    return train(model, tasks, 3 * settings.epochs)


def accuracy(model: keras.Model, samples: Samples) -> float:
    """Share of right answers."""
    starts = range(0, len(samples[0]), 500)
    outputs = [model(samples[0][start : start + 500], training=False) for start in starts]
    answers = np.concatenate([keras.ops.convert_to_numpy(o).argmax(axis=-1) for o in outputs])
    return float(np.mean(answers == samples[1]))


def run(settings: Settings) -> tuple[Tasks, dict[str, keras.Model]]:
    """Makes the original and what becomes of it.

    Args:
        settings: The settings.

    Returns:
        The samples, and the models by name.
    """
    keras.utils.set_random_seed(settings.seed)
    tasks = load_tasks(settings)
    original = transfer(make_source(settings, tasks), tasks, settings)
    basis = prune_components(original, tasks, settings)
    size = pruning.count_parameters(basis)
    half = prune_channels(original, tasks, settings, ratio=CHANNELS)
    return tasks, {
        "original": original,
        "basis": basis,
        "channel": prune_channels(original, tasks, settings, target={"parameters": size}),
        "double": prune_components(half, tasks, settings),
        "from scratch": train_from_scratch(tasks, settings, size),
    }


def make_row(model: keras.Model, original: keras.Model, tasks: Tasks, pairs: int) -> dict[str, Any]:
    """What the table says about a model; it is timed in turn with the original.

    Args:
        model: The model.
        original: The network that was transferred.
        tasks: The samples.
        pairs: Timed windows of each of the two; 0: no times.
    """
    times: dict[str, Any] = {}
    if pairs:
        timed = latency.compare(original, model, tasks["test"][0][:BATCH], pairs=pairs)
        times = {"ms": timed.b.median_ms, "time_ratio": timed.ratio.as_dict()}
    return {
        "accuracy": accuracy(model, tasks["test"]),
        "validation_accuracy": accuracy(model, tasks["validation"]),
        "parameters": pruning.count_parameters(model),
        "macs": pruning.count_macs(model).total,
        **times,
    }


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
    # VGG16 has no norms, and its weights bear small steps only.
    rate = 1e-4 if given["weights"] == "imagenet" else Settings.learning_rate
    settings = Settings(**given, learning_rate=rate)
    tasks, models = run(settings)
    print(f"{len(tasks['train'][0])} samples, {len(tasks['test'][0])} to test; batch {BATCH}")
    print(f"{'':14s}{'accuracy':>9s}{'parameters':>16s}{'MACs':>18s}{'ms':>8s}{'time':>7s}")
    rows = {n: make_row(m, models["original"], tasks, PAIRS) for n, m in models.items()}
    for name, row in rows.items():
        shares = {key: row[key] / rows["original"][key] for key in ("parameters", "macs")}
        print(
            f"{name:14s}{row['accuracy']:9.1%}{row['parameters']:9d}{shares['parameters']:7.1%}"
            f"{row['macs']:11d}{shares['macs']:7.1%}{row['ms']:8.2f}"
            f"{row['time_ratio']['value']:7.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
