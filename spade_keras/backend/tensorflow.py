"""TensorFlow: graphs by `tf.function`, with or without XLA; documented in `backend`."""

# ruff: noqa: D103

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spade_keras.backend import hardware

MODES = ("graph", "xla", "eager")
conjugate = tf.math.conj


def inference_function(model: Callable[..., Any], inputs: Any, mode: str) -> Callable[[], Any]:
    def forward(x: Any) -> Any:
        return model(x, training=False)

    if mode == "eager":
        return lambda: forward(inputs)
    compiled = tf.function(forward, jit_compile=mode == "xla")
    return lambda: compiled(inputs)


def show(values: Any, callback: Callable[[Any], None]) -> None:
    # Outside of a compiled function loops run in Python.
    callback(keras.tree.map_structure(keras.ops.convert_to_numpy, values))


def synchronize(outputs: Any) -> None:
    del outputs  # a GPU's stream is waited for as a whole, which costs no copy of the output
    tf.test.experimental.sync_devices()


def gpu() -> hardware.Device | None:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    details = tf.config.experimental.get_device_details(gpus[0])
    return hardware.Device("gpu", details.get("device_name", gpus[0].name), None)


def versions() -> dict[str, str]:
    build = tf.sysconfig.get_build_info()
    found = {"tensorflow": tf.__version__}
    for key, entry in (("cuda", "cuda_version"), ("cudnn", "cudnn_version")):
        if build.get(entry) and tf.config.list_physical_devices("GPU"):
            found[key] = str(build[entry])
    return found


def settings() -> dict[str, str]:
    threading = tf.config.threading
    return {
        "intra_op_threads": str(threading.get_intra_op_parallelism_threads()),  # 0: one per core
        "inter_op_threads": str(threading.get_inter_op_parallelism_threads()),
        "tf32": str(tf.config.experimental.tensor_float_32_execution_enabled()),
    }


def gpu_peak_bytes() -> int | None:
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def reset_gpu_peak() -> bool:
    tf.config.experimental.reset_memory_stats("GPU:0")
    return True


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        value = keras.ops.mean(loss(targets, model(inputs, training=False)))
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    return [np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    return keras.tree.map_structure(tf.stop_gradient, function(tf.stop_gradient(x)))


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    x = tf.stop_gradient(x)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)

    def pullback(cotangent: Any) -> Any:
        return tape.gradient(value, x, cotangent, unconnected_gradients="zero")

    return value, pullback


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:

    @tf.custom_gradient
    def attached(value: Any, carrier: Any) -> tuple[Any, Callable[[Any], Any]]:
        return tf.identity(value), lambda cotangent: (None, backward(cotangent))

    return attached(value, carrier)


def to_complex(x: Any) -> Any:
    # A copy: a bitcast has no gradient, and XLA has none for complex types.
    return tf.complex(x[..., 0], x[..., 1])


def to_real(z: Any) -> Any:
    # Stacked along the first axis and transposed: a last axis of two is copied value by value.
    parts = tf.stack([tf.reshape(part, (-1,)) for part in (tf.math.real(z), tf.math.imag(z))])
    pairs = tf.reshape(tf.transpose(parts), tf.concat([tf.shape(z), [2]], axis=0))
    pairs.set_shape([*z.shape, 2])
    return pairs


def fft(z: Any, axes: int, inverse: bool) -> Any:
    forward, backward = {
        1: (tf.signal.fft, tf.signal.ifft),
        2: (tf.signal.fft2d, tf.signal.ifft2d),
    }[axes]
    return backward(z) if inverse else forward(z)
