"""TensorFlow: graphs by `tf.function`, with or without XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spade_keras.backend import hardware

MODES = ("graph", "xla", "eager")


def inference_function(model: Callable[..., Any], inputs: Any, mode: str) -> Callable[[], Any]:
    """Makes a function that runs `model` on resident inputs; see `backend.inference_function`."""
    resident = keras.tree.map_structure(tf.convert_to_tensor, inputs)

    def forward(x: Any) -> Any:
        return model(x, training=False)

    if mode == "eager":
        return lambda: forward(resident)
    compiled = tf.function(forward, jit_compile=mode == "xla")
    return lambda: compiled(resident)


def show(values: Any, callback: Callable[[Any], None]) -> None:
    """Calls back at once: outside of a compiled function, loops run in Python."""
    callback(keras.tree.map_structure(keras.ops.convert_to_numpy, values))


def synchronize(outputs: Any) -> None:
    """Blocks until every device has finished the work handed to it."""
    del outputs  # a GPU's stream is waited for as a whole, which costs no copy of the output
    tf.test.experimental.sync_devices()


def device() -> hardware.Device:
    """Describes the first GPU that TensorFlow sees, else the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return hardware.host_cpu()
    details = tf.config.experimental.get_device_details(gpus[0])
    return hardware.Device(
        "gpu", details.get("device_name", gpus[0].name), None, hardware.usable_cores()
    )


def versions() -> dict[str, str]:
    """Lists the versions of TensorFlow and of the CUDA libraries it was built with."""
    build = tf.sysconfig.get_build_info()
    found = {"tensorflow": tf.__version__}
    for key, entry in (("cuda", "cuda_version"), ("cudnn", "cudnn_version")):
        if build.get(entry) and tf.config.list_physical_devices("GPU"):
            found[key] = str(build[entry])
    return found


def settings() -> dict[str, str]:
    """Lists threads (0: one per core) and whether float32 may be computed as TF32."""
    threading = tf.config.threading
    return {
        "intra_op_threads": str(threading.get_intra_op_parallelism_threads()),
        "inter_op_threads": str(threading.get_inter_op_parallelism_threads()),
        "tf32": str(tf.config.experimental.tensor_float_32_execution_enabled()),
    }


def peak_memory_bytes() -> int | None:
    """Reads the peak of the GPU allocator, or of the process on a CPU."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return hardware.peak_resident_bytes()


def reset_peak_memory() -> bool:
    """Starts a new peak."""
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        return True
    return hardware.reset_peak_resident()


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    """Computes gradients on a tape; see `backend.loss_gradients`."""
    x = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    y = None if targets is None else keras.tree.map_structure(tf.convert_to_tensor, targets)
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        value = keras.ops.mean(loss(y, model(x, training=False)))
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    return [np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Stops the gradient of all that leaves the function; see `backend.without_gradient`."""
    return keras.tree.map_structure(tf.stop_gradient, function(tf.stop_gradient(x)))


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Records one evaluation on a tape that outlives it; see `backend.vjp`."""
    x = tf.stop_gradient(x)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)

    def pullback(cotangent: Any) -> Any:
        return tape.gradient(value, x, cotangent, unconnected_gradients="zero")

    return value, pullback


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
    """Wraps the identity; see `backend.attach_gradient`."""

    @tf.custom_gradient
    def attached(value: Any, carrier: Any) -> tuple[Any, Callable[[Any], Any]]:
        return tf.identity(value), lambda cotangent: (None, backward(cotangent))

    return attached(value, carrier)


def to_complex(x: Any) -> Any:
    """Copies: a bitcast has no gradient, and XLA has none for complex types."""
    return tf.complex(x[..., 0], x[..., 1])


def to_real(z: Any) -> Any:
    """Stacks both parts."""
    # Stacked along the first axis and transposed: a last axis of two is copied value by value.
    parts = tf.stack([tf.reshape(part, (-1,)) for part in (tf.math.real(z), tf.math.imag(z))])
    pairs = tf.reshape(tf.transpose(parts), tf.concat([tf.shape(z), [2]], axis=0))
    pairs.set_shape([*z.shape, 2])
    return pairs


def conjugate(z: Any) -> Any:
    """Conjugates."""
    return tf.math.conj(z)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    """Transforms the last one or two axes."""
    forward, backward = {
        1: (tf.signal.fft, tf.signal.ifft),
        2: (tf.signal.fft2d, tf.signal.ifft2d),
    }[axes]
    return backward(z) if inverse else forward(z)
