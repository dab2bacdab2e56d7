"""Accuracy of classifiers whose channels were cut, and cut and refitted, before any training.

    python benchmarks/compensation.py            # about ten minutes on two cores

A residual network and one of inverted bottlenecks learn the digits of scikit-learn, enlarged;
half of the channels of every group go, ranked by group l1 or by optimal brain surgeon. Readers are
refitted on training images without labels. Writes benchmarks/results/compensation.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from spade_keras import latency, pruning
from spade_keras.files import write_json_atomic

RESULTS = Path(__file__).parent / "results" / "compensation.json"
TRAIN, CALIBRATION = 1200, 256


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    x = np.repeat(np.repeat(found.images[..., None] / 16, 2, axis=1), 2, axis=2)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), found.target[order]


def norm(x, name):
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def residual(image):
    x = layers.Conv2D(24, 3, padding="same", name="stem")(image)
    for index, (width, stride) in enumerate([(24, 1), (48, 2), (64, 2)]):
        name = f"block{index}"
        inner = layers.Conv2D(
            width, 3, stride, padding="same", use_bias=False, name=f"{name}_first"
        )(x)
        inner = layers.ReLU()(norm(inner, f"{name}_first"))
        inner = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_second")(
            inner
        )
        inner = norm(inner, f"{name}_second")
        if stride > 1:
            x = layers.Conv2D(width, 1, stride, use_bias=False, name=f"{name}_skip")(x)
        x = layers.ReLU()(layers.Add(name=f"{name}_sum")([x, inner]))
    return x


def inverted_bottlenecks(image):
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for index, (width, stride) in enumerate([(16, 1), (24, 2), (24, 1), (32, 2)]):
        name = f"block{index}"
        inner = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")(x)
        inner = layers.ReLU()(norm(inner, f"{name}_expand"))
        inner = layers.DepthwiseConv2D(
            3, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
        )(inner)
        inner = layers.ReLU()(norm(inner, f"{name}_depthwise"))
        inner = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_project")(inner)
        inner = norm(inner, f"{name}_project")
        x = layers.Add(name=f"{name}_sum")([x, inner]) if x.shape == inner.shape else inner
    return layers.ReLU()(x)


NETWORKS = {"residual": residual, "inverted_bottlenecks": inverted_bottlenecks}


def trained(body, x, y, epochs, model=None):
    if model is None:
        image = keras.Input((16, 16, 1))
        pooled = layers.GlobalAveragePooling2D()(body(image))
        model = keras.Model(image, layers.Dense(10, name="head")(pooled))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(x[:TRAIN], y[:TRAIN], epochs=epochs, batch_size=64, verbose=0)
    return model


def accuracy(model, x, y):
    outputs = model.predict(x[TRAIN:], batch_size=128, verbose=0)
    return float(np.mean(np.argmax(outputs, axis=-1) == y[TRAIN:]))


def measure(name, seed, ratio):
    keras.utils.set_random_seed(seed)
    x, y = digits()
    model = trained(NETWORKS[name], x, y, epochs=12)
    row = {"network": name, "seed": seed, "ratio": ratio, "full": accuracy(model, x, y)}
    started = time.perf_counter()
    statistics = pruning.calibrate(model, x[:CALIBRATION], samples=CALIBRATION)
    row["calibrate_seconds"] = time.perf_counter() - started
    for importance in ("group_l1", "obs"):
        plan = pruning.make_plan(model, ratio=ratio, importance=importance, calibration=statistics)
        cut = pruning.rebuild(model, plan)
        closed = pruning.rebuild(model, plan, calibration=statistics, sequential=False)
        started = time.perf_counter()
        refitted = pruning.rebuild(model, plan, calibration=statistics)
        row[importance] = {
            "cut": accuracy(cut, x, y),
            "closed_form": accuracy(closed, x, y),
            "sequential": accuracy(refitted, x, y),
            "sequential_seconds": time.perf_counter() - started,
            "cut_one_epoch": accuracy(trained(None, x, y, 1, cut), x, y),
            "sequential_one_epoch": accuracy(trained(None, x, y, 1, refitted), x, y),
            "parameters": pruning.count_parameters(cut) / pruning.count_parameters(model),
        }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        for seed in range(arguments.seeds):
            rows.append(measure(name, seed, arguments.ratio))
            print(json.dumps(rows[-1]), flush=True)
            content = {"fingerprint": latency.fingerprint(), "rows": rows}
            write_json_atomic(RESULTS, content)


if __name__ == "__main__":
    main()
