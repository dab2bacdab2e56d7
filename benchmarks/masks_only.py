"""Time saved by zeros in the kernels (none), beside channels removed at equal accuracy.

    KERAS_BACKEND=tensorflow python benchmarks/masks_only.py

One call, one file: benchmarks/results/masks_only.json. A small classifier learns scikit-learn's
digits. Then it is pruned twice and tuned for as many steps at the same rate:

* masks only: TensorFlow Model Optimization makes the smallest weights of every kernel zero; the
  network keeps its shape;
* structured: of the ratios in `RATIOS`, the largest whose network is as accurate on the validation
  digits as the one with the zeros, or less by one in a hundred at most.

The test digits are looked at for the table alone. Both networks are timed interleaved with
the full one, and the full one with itself; for the network of zeros LiteRT files are timed too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import latency, pruning
from spade_keras.data import load_digits
from spade_keras.export import tfmot

RESULT = Path(__file__).resolve().parent / "results" / "masks_only.json"
SPARSITY = 0.8
RATIOS = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
LOSES_AT_MOST = 0.01
EPOCHS, RATE = 8, 1e-3
TUNING_EPOCHS, TUNING_RATE = 10, 3e-4
LOSS = "sparse_categorical_crossentropy"
BATCH = 32

Part = tuple[np.ndarray, np.ndarray]


def make_data() -> tuple[Part, Part, Part]:
    """Digits to train on, to choose by and to report, by lot: those collected last are harder."""
    x, y = load_digits(16)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:1000], y[:1000]), (x[1000:1300], y[1000:1300]), (x[1300:], y[1300:])


def make_network() -> keras.Model:
    x = image = keras.Input((16, 16, 1))
    for index, width in enumerate((32, 48, 64)):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{index}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{index}")(x)
        x = keras.layers.ReLU(name=f"relu_{index}")(x)
        if index:
            x = keras.layers.MaxPooling2D(2, name=f"pool_{index}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="classes")(x))


def train(network: keras.Model, data: Part, epochs: int, rate: float) -> None:
    network.compile(keras.optimizers.Adam(rate), LOSS)
    network.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)


def accuracy(network: keras.Model, data: Part) -> float:
    outputs = network.predict(data[0], batch_size=BATCH, verbose=0)
    return float(np.mean(np.argmax(outputs, axis=-1) == data[1]))


def structured(network: keras.Model, train_data: Part, chosen_by: Part, least: float) -> Any:
    """Returns the smallest network that reaches an accuracy, its ratio, and all that were tried."""
    tried = []
    for ratio in RATIOS:
        keras.utils.set_random_seed(0)
        slim = pruning.rebuild(network, pruning.make_plan(network, ratio=ratio))
        train(slim, train_data, TUNING_EPOCHS, TUNING_RATE)
        tried.append({"ratio": ratio, "validation_accuracy": accuracy(slim, chosen_by)})
        if tried[-1]["validation_accuracy"] >= least:
            return slim, ratio, tried
    raise RuntimeError(f"No ratio is as accurate. Received: least={least}, tried={tried}")


def row(network: keras.Model, full: keras.Model, parts: dict[str, Part], pairs: int) -> dict:
    inputs = parts["test"][0][:BATCH]
    compared = latency.compare(full, network, inputs, pairs=pairs)
    weights = [np.asarray(keras.ops.convert_to_numpy(weight)) for weight in network.weights]
    return {
        "accuracy": {name: accuracy(network, part) for name, part in parts.items()},
        "parameters": pruning.count_parameters(network),
        "parameters_not_zero": int(sum(np.count_nonzero(weight) for weight in weights)),
        "macs": pruning.count_macs(network, inputs[:1]).total,
        "ms": {"q1": compared.b.q1_ms, "median": compared.b.median_ms, "q3": compared.b.q3_ms},
        "full_ms": compared.a.median_ms,
        "time_ratio": compared.ratio.as_dict(),
    }


def run(pairs: int) -> dict[str, Any]:
    train_data, chosen_by, test = make_data()
    parts = {"validation": chosen_by, "test": test}
    keras.utils.set_random_seed(0)
    full = make_network()
    train(full, train_data, EPOCHS, RATE)
    training = tfmot.Training(LOSS, TUNING_EPOCHS, TUNING_RATE, BATCH)
    settings = {
        "epochs": EPOCHS,
        "rate": RATE,
        "tuning_epochs": TUNING_EPOCHS,
        "tuning_rate": TUNING_RATE,
        "loses_at_most": LOSES_AT_MOST,
        "pairs": pairs,
    }
    with tempfile.TemporaryDirectory() as folder:
        masked, report = tfmot.magnitude_prune(
            full,
            Path(folder) / "masked.tflite",
            train_data,
            held_out=test,
            sparsity=SPARSITY,
            training=training,
            pairs=pairs,
        )
    least = accuracy(masked, chosen_by) - LOSES_AT_MOST
    slim, ratio, tried = structured(full, train_data, chosen_by, least)
    return {
        "date": datetime.date.today().isoformat(),
        "settings": settings,
        "load_average": os.getloadavg()[0],
        "full": row(full, full, parts, pairs),
        "masks_only": {
            "sparsity": SPARSITY,
            **row(masked, full, parts, pairs),
            "lite_rt": {
                "accuracy": {name: report.quality[name] for name in ("float32", "int8")},
                "size_bytes": dict(report.size_bytes),
                "zipped_bytes": dict(report.zipped_bytes),
                "ms": {name: timed.median_ms for name, timed in report.latency.items()},
                "int8_to_float32": report.ratio.as_dict(),
            },
        },
        "structured": {"ratio": ratio, "tried": tried, **row(slim, full, parts, pairs)},
        "fingerprint": latency.fingerprint(test[0][:BATCH]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40, help="windows of each network")
    result = run(parser.parse_args().pairs)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("full", "masks_only", "structured"):
        found = result[name]
        ratio = found["time_ratio"]
        print(
            f"{name:11s} test accuracy {found['accuracy']['test']:.3f}, "
            f"{found['parameters_not_zero']:6d} weights that are not zero, "
            f"time {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )


if __name__ == "__main__":
    main()
