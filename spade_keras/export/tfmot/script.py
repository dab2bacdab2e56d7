"""Tunes the Keras 2 twin of a network with TensorFlow Model Optimization, and runs its files.

    python -P script.py FOLDER

reads `job.json` and `arrays.npz` of FOLDER and writes `float32.tflite`, `int8.tflite`,
`weights.npz`, `outputs.npz` and `answer.json` there. A script: importing TensorFlow Model
Optimization turns `tf.keras` into Keras 2 for the whole process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import numpy as np

_TWIN_TOLERANCE = 1e-5
_RANGE_DECAY = 0.9  # ten steps: ranges follow the weights
_CALIBRATION_SAMPLES = 200


def build(description: dict[str, Any], weights: dict[str, Any]) -> Any:
    """Makes the twin."""
    import tf_keras

    source = tf_keras.Input(description["shape"], name=description["input"])
    tensors = {description["input"]: source}
    for entry in description["layers"]:
        layer = getattr(tf_keras.layers, entry["class"])(
            name=entry["name"], trainable=entry["trainable"], **entry["config"]
        )
        inputs = [tensors[name] for name in entry["inputs"]]
        tensors[entry["name"]] = layer(inputs if len(inputs) > 1 else inputs[0])
    twin = tf_keras.Model(source, tensors[description["output"]])
    for entry in description["layers"]:
        variables = named_variables(twin.get_layer(entry["name"]))
        if set(variables) != set(entry["weights"]):
            raise ValueError(
                f"Layer {entry['name']} has the weights {sorted(variables)} in Keras 2. "
                f"Received: {sorted(entry['weights'])}"
            )
        for name, origin in entry["weights"].items():
            variables[name].assign(weights[origin])
    return twin


def named_variables(layer: Any) -> dict[str, Any]:
    """Returns the variables of a layer, or of the layer inside a wrapper, by their own names."""
    inner = getattr(layer, "layer", layer)
    return {
        variable.name.split("/")[-1].split(":")[0]: variable
        for variable in layer.weights
        # Weights of a layer that clustering has stripped have no layer in their names.
        if variable.name.startswith(f"{inner.name}/") or "/" not in variable.name
    }


def tuned_weights(description: dict[str, Any], tuned: Any) -> dict[str, Any]:
    """Returns the weights of a tuned twin under the names of the network they came from."""
    layers = {getattr(layer, "layer", layer).name: layer for layer in tuned.layers}
    return {
        origin: named_variables(layers[entry["name"]])[name].numpy()
        for entry in description["layers"]
        for name, origin in entry["weights"].items()
    }


def quantized(twin: Any, batch: Any) -> tuple[Any, dict[str, str]]:
    """Wraps a twin for quantization-aware training, with ranges set by one batch."""
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as configs,
    )

    annotate = tfmot.quantization.keras.quantize_annotate_layer
    scheme = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    registry = scheme.get_quantize_registry()
    left: dict[str, str] = {}

    def wrap(layer: Any) -> Any:
        if isinstance(layer, tf_keras.layers.InputLayer):
            return layer
        if _foldable(layer) or (registry.supports(layer) and _knows_activation(layer)):
            return annotate(layer)
        left[layer.name] = "has no 8-bit training; its output alone is rounded"
        return annotate(layer, configs.Default8BitOutputQuantizeConfig())

    annotated = tf_keras.models.clone_model(twin, clone_function=wrap)
    with tfmot.quantization.keras.quantize_scope(
        {"Default8BitOutputQuantizeConfig": configs.Default8BitOutputQuantizeConfig}
    ):
        model = tfmot.quantization.keras.quantize_apply(annotated)
    with _range_decay(0.0):
        model(batch, training=True)
    return model, left


def _foldable(layer: Any) -> bool:
    """Whether a batch normalization is one that folds into the layer before it."""
    if type(layer).__name__ != "BatchNormalization":
        return False
    before = layer.inbound_nodes[0].inbound_layers
    return (
        type(before).__name__ in ("Conv2D", "DepthwiseConv2D", "Dense")
        and before.activation.__name__ == "linear"
        and len(before.outbound_nodes) == 1
    )


def _knows_activation(layer: Any) -> bool:
    known = ("relu", "swish", "silu", "gelu", "relu6", "linear", "softmax", "sigmoid", "tanh")
    return type(layer).__name__ != "Activation" or layer.activation.__name__ in known


@contextlib.contextmanager
def _range_decay(decay: float) -> Iterator[None]:
    """Makes the moving ranges of activations forget faster than by 0.001 a step.

    They begin at -6 and 6, and after a short tuning would still be there: for images in [0, 1]
    that leaves five bits of the eight.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    slow = quant_ops.MovingAvgQuantize
    quant_ops.MovingAvgQuantize = lambda *args, **kwargs: slow(
        *args, **{**kwargs, "ema_decay": decay}
    )
    try:
        yield
    finally:
        quant_ops.MovingAvgQuantize = slow


def wrapped(twin: Any, treat: Callable[[Any], Any], *, most: int) -> tuple[Any, dict[str, str]]:
    """Wraps every trainable kernel of more than `most` weights; says which layers are left."""
    import tf_keras

    left: dict[str, str] = {}

    def wrap(layer: Any) -> Any:
        kernel = getattr(layer, "kernel", None)
        if type(layer).__name__ == "DepthwiseConv2D":
            left[layer.name] = "depthwise kernels are left as they are"
        elif kernel is not None and not layer.trainable:
            left[layer.name] = "frozen"
        elif kernel is not None and kernel.shape.num_elements() <= most:
            left[layer.name] = f"has only {kernel.shape.num_elements()} weights"
        elif kernel is not None:
            return treat(layer)
        return layer

    return tf_keras.models.clone_model(twin, clone_function=wrap), left


def wrapped_twin(job: dict[str, Any], twin: Any, x: Any) -> tuple[Any, dict[str, str]]:
    """Wraps the twin for the method of the job."""
    import tensorflow_model_optimization as tfmot

    settings = job["training"]
    if job["method"] == "quantize":
        return quantized(twin, x[: settings["batch_size"]])
    if job["method"] == "cluster":
        treat = functools.partial(
            tfmot.clustering.keras.cluster_weights,
            number_of_clusters=job["clusters"],
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        )
        return wrapped(twin, treat, most=job["clusters"])
    steps = settings["epochs"] * -(-len(x) // settings["batch_size"])
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, job["sparsity"], begin_step=0, end_step=steps // 2, frequency=1
    )
    treat = functools.partial(tfmot.sparsity.keras.prune_low_magnitude, pruning_schedule=schedule)
    return wrapped(twin, treat, most=1)


def fitted(job: dict[str, Any], model: Any, x: Any, y: Any) -> tuple[Any, float]:
    """Tunes the wrapped twin; returns it and the last training loss."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    settings = job["training"]
    loss: Any = settings["loss"]
    if loss != "mse":
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=job["logits"])
    model.compile(tf_keras.optimizers.Adam(settings["learning_rate"]), loss)
    callbacks = [tf_keras.callbacks.TerminateOnNaN()]
    if job["method"] == "magnitude_prune":
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    with _range_decay(_RANGE_DECAY):
        options = {name: settings[name] for name in ("batch_size", "epochs")}
        history = model.fit(x, y, callbacks=callbacks, verbose=0, **options)
    # Wrappers go where the weights inside them are not yet the final ones.
    if job["method"] == "cluster":
        model = tfmot.clustering.keras.strip_clustering(model)
    if job["method"] == "magnitude_prune":
        model = tfmot.sparsity.keras.strip_pruning(model)
    return model, float(history.history["loss"][-1])


def convert(model: Any, path: Path, *, int8: bool, samples: Any = None) -> None:
    """Writes a LiteRT file for one sample a call, with float32 at both ends."""
    import tensorflow as tf

    specification = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(specification)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if samples is not None:
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    path.write_bytes(converter.convert())


class Served:
    """A LiteRT file in the interpreter, on one thread; called on one sample."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        start = time.perf_counter()
        self._interpreter = tf.lite.Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self.load_ms = (time.perf_counter() - start) * 1e3
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, sample: Any) -> Any:  # noqa: D102
        self._interpreter.set_tensor(self._input, sample)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


@contextlib.contextmanager
def held(lock: str | None) -> Iterator[None]:
    """Holds the lock of the device, as `latency.device_lock` does, which needs Keras 3."""
    if lock is None:
        yield
        return
    with filelock.FileLock(lock, timeout=600):
        since = time.strftime("%Y-%m-%dT%H:%M:%S")
        holder = {"process": os.getpid(), "command": " ".join(sys.argv)[:200], "since": since}
        Path(lock).with_suffix(".json").write_text(json.dumps(holder))
        yield


def timed(job: dict[str, Any], files: dict[str, Served], sample: Any) -> dict[str, Any]:
    """Times the files interleaved on one sample."""
    timing = runpy.run_path(job["windows"])
    stopwatch = timing["Stopwatch"](lambda output: None)  # the interpreter blocks
    functions = [functools.partial(serve, sample) for serve in files.values()]
    load_ms = [serve.load_ms for serve in files.values()]
    with held(job["lock"]):
        measured = timing["time_loaded"](stopwatch, functions, load_ms, job["pairs"], 20)
    return dict(zip(files, measured, strict=True))


def relative_error(given: Any, wanted: Any) -> float:
    """The largest error relative to the largest value."""
    scale = float(np.max(np.abs(wanted)))
    error = float(np.max(np.abs(given - wanted)))
    return error / scale if scale else (float("inf") if error else 0.0)


def main(folder: Path) -> None:
    """Answers the job in `folder`."""
    import tf_keras

    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    tf_keras.utils.set_random_seed(job["training"]["seed"])
    description = job["description"]
    twin = build(description, arrays)
    expected = arrays["expected"]
    found = twin(arrays["held_out_x"][: len(expected)], training=False).numpy()
    twin_error = relative_error(found, expected)
    if not twin_error <= _TWIN_TOLERANCE:
        sys.exit(f"The twin in Keras 2 differs from the network by {twin_error:.2g} of its output.")

    model, left = wrapped_twin(job, twin, arrays["x"])
    model, loss = fitted(job, model, arrays["x"], arrays["y"])
    tuned = tuned_weights(description, model)
    if not all(np.all(np.isfinite(weight)) for weight in tuned.values()):
        sys.exit("The tuning diverged: NaN or infinity. Lower `learning_rate`.")
    plain = build(description, tuned)
    convert(plain, folder / "float32.tflite", int8=False)
    # A twin tuned for 8 bits knows its ranges; another's come from samples.
    know = job["method"] == "quantize"
    samples = None if know else arrays["x"][:_CALIBRATION_SAMPLES]
    convert(model if know else plain, folder / "int8.tflite", int8=True, samples=samples)

    files = {name: Served(folder / f"{name}.tflite") for name in ("float32", "int8")}
    held_out = arrays["held_out_x"]
    outputs: dict[str, Any] = {
        name: np.concatenate([serve(sample[None]) for sample in held_out])
        for name, serve in files.items()
    }
    packages = ("numpy", "tensorflow", "tf_keras", "tensorflow-model-optimization")
    answer = {
        "twin_error": twin_error,
        "left": left,
        "loss": loss,
        "files": timed(job, files, held_out[:1]),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
    }
    np.savez(folder / "weights.npz", **tuned)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
