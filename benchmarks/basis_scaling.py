"""What each part of basis scaling is worth, on a transfer task with few samples.

    KERAS_BACKEND=tensorflow python benchmarks/basis_scaling.py [--seeds 5] [--epochs 60]

A small VGG-like network learns the digits 0 to 4 of scikit-learn and is transferred to 5 to 9 with
a few samples per class. All arms start from the same transferred network and prune until the
validation accuracy has fallen by more than one point:

* taylor, sigma, random: components ranked by each importance, while only the scaling factors, the
  norms and the head train;
* channels, then components; components, then channels: half of the channels first or last,
  everything trained for as many epochs after the cut;
* channels: half of the channels alone, fine-tuned.

Samples to train, to choose by and to test are disjoint. Prints, per arm, the mean over the seeds of
test accuracy and of the shares of parameters and multiply-accumulates that are left, and writes
benchmarks/results/basis_scaling.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.backend import device, versions
from spade_keras.data import load_digits
from spade_keras.pruning import (
    BasisPruning,
    copy_model,
    count_macs,
    count_parameters,
    decompose,
    make_plan,
    merge,
    rebuild,
)

PER_CLASS = 20
ALLOWED_LOSS = 0.01
RATIO = 0.5
LOSS = "sparse_categorical_crossentropy"
FILTERS = (32, 32, 64, 64)
Arrays = tuple[np.ndarray, np.ndarray]


def vgg() -> keras.Model:
    """Four convolutions, each with a norm, and a head of five classes."""
    x = inputs = keras.Input((16, 16, 1))
    for index, filters in enumerate(FILTERS):
        x = keras.layers.Conv2D(filters, 3, padding="same", name=f"conv{index}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        if index % 2:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="head")(x))


def load_tasks(seed: int) -> dict[str, Arrays]:
    """The source task, and three disjoint parts of the target task."""
    x, y = load_digits(16)
    target_x, target_y = x[y >= 5], y[y >= 5] - 5
    order = np.random.default_rng(seed).permutation(len(target_x))
    first = [order[target_y[order] == label] for label in range(5)]
    cuts = {"train": slice(0, PER_CLASS), "validation": slice(PER_CLASS, 2 * PER_CLASS)}
    cuts["test"] = slice(2 * PER_CLASS, None)
    parts = {name: np.concatenate([rows[cut] for rows in first]) for name, cut in cuts.items()}
    tasks = {name: (target_x[rows], target_y[rows]) for name, rows in parts.items()}
    return {"source": (x[y < 5], y[y < 5]), **tasks}


def train(model: keras.Model, tasks: dict[str, Arrays], part: str, epochs: int, **more: Any) -> Any:
    """Fits a model to a part of the data and returns it."""
    model.compile(keras.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    model.fit(
        *tasks[part],
        batch_size=20,
        epochs=epochs,
        validation_data=tasks["validation"],
        verbose=0,
        **more,
    )
    return model


def prune_components(
    model: keras.Model, tasks: dict[str, Arrays], epochs: int, importance: str = "taylor"
) -> keras.Model:
    """Decomposes, prunes until the allowed loss, merges."""
    low = decompose(model, trainable=["head", "norms"])
    callback = BasisPruning(
        0.04, max_loss=ALLOWED_LOSS, warmup=3, patience=4, importance=importance
    )
    return merge(train(low, tasks, "train", epochs, callbacks=[callback]))


def prune_channels(model: keras.Model, tasks: dict[str, Arrays], epochs: int) -> keras.Model:
    """Removes half of the channels and trains what is left."""
    slim = rebuild(model, make_plan(model, ratio=RATIO))
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, restore_best_weights=True, start_from_epoch=0
    )
    return train(slim, tasks, "train", epochs // 2, callbacks=[best])


def run_seed(seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """All arms for one seed: accuracy on the test part and shares left."""
    keras.utils.set_random_seed(seed)
    tasks = load_tasks(seed)
    source = train(vgg(), tasks, "source", max(1, epochs // 4))
    full = copy_model(source)
    full.get_layer("head").kernel.assign(keras.ops.zeros(full.get_layer("head").kernel.shape))
    train(full, tasks, "train", epochs // 2)
    made = {"original": full}
    for name in ("taylor", "sigma", "random"):
        made[name] = prune_components(full, tasks, epochs, name)
    made["channels"] = prune_channels(full, tasks, epochs)
    made["channels, then components"] = prune_components(made["channels"], tasks, epochs)
    made["components, then channels"] = prune_channels(made["taylor"], tasks, epochs)
    figures = {}
    for name, model in made.items():
        answers = model.predict(tasks["test"][0], verbose=0).argmax(axis=1)
        figures[name] = {
            "accuracy": float((answers == tasks["test"][1]).mean()),
            "parameters": count_parameters(model) / count_parameters(full),
            "macs": count_macs(model).total / count_macs(full).total,
        }
    return figures


def main() -> int:
    """Runs the seeds, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    settings = parser.parse_args()
    start = time.time()
    runs = [run_seed(seed, settings.epochs) for seed in range(settings.seeds)]
    print(f"{'':28s}{'accuracy':>10s}{'parameters':>12s}{'MACs':>8s}")
    for arm in runs[0]:
        means = {key: statistics.mean(run[arm][key] for run in runs) for key in runs[0][arm]}
        shares = f"{means['parameters']:>11.1%} {means['macs']:>7.1%}"
        print(f"{arm:28s}{means['accuracy']:>10.1%} {shares}")
    out = Path(__file__).parent / "results" / "basis_scaling.json"
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.time() - start),
        "device": device().name,
        "versions": versions(),
        "settings": {**vars(settings), "per_class": PER_CLASS, "allowed_loss": ALLOWED_LOSS},
        "runs": runs,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
