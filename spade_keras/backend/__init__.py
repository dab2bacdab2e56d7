"""Differences between TensorFlow, JAX and PyTorch, behind one set of functions.

The only folder of the project that imports `tensorflow`, `jax` or `torch`. Each of them has one
file here with the same functions; the file of the backend in use is imported on first use.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import keras
import numpy as np

from spade_keras.backend.hardware import Device, host_cpu, peak_resident_bytes, reset_peak_resident
from spade_keras.errors import SpadeError

__all__ = [
    "Device",
    "attach_gradient",
    "conjugate",
    "device",
    "fft",
    "host_cpu",
    "inference_function",
    "loss_gradients",
    "modes",
    "peak_memory_bytes",
    "reset_peak_memory",
    "settings",
    "show",
    "synchronize",
    "to_complex",
    "to_real",
    "versions",
    "vjp",
    "without_gradient",
]

_BACKENDS = ("tensorflow", "jax", "torch")
_FLAGS = "OMP_NUM_THREADS MKL_NUM_THREADS XLA_FLAGS TF_XLA_FLAGS TF_ENABLE_ONEDNN_OPTS"


def _implementation() -> ModuleType:
    """Imports the file of the backend that Keras runs on."""
    name = keras.backend.backend()
    if name not in _BACKENDS:
        raise SpadeError(
            f"The Keras backend must be one of {', '.join(_BACKENDS)}. Received: backend={name}. "
            "Set the environment variable KERAS_BACKEND before Python starts."
        )
    return importlib.import_module(f"{__name__}.{name}")


def modes() -> tuple[str, ...]:
    """Names the ways in which the backend in use can run a model, its default first."""
    return tuple(_implementation().MODES)


def inference_function(
    model: Callable[..., Any], inputs: Any, mode: str | None = None
) -> Callable[[], Any]:
    """Makes a zero-argument function that runs `model` on `inputs` held by the device.

    The model runs as the users of the backend run it: a `tf.function` under TensorFlow, `jax.jit`
    of the stateless call under JAX, eager `inference_mode` under PyTorch. Tracing and compiling
    happen in the first call of the returned function, not here. Under JAX the weights are those
    the model has now.

    Args:
        model: A Keras model or layer; it is called with `training=False`.
        inputs: Arrays, or a dict, list or tuple of them. They are copied to the device once;
            float64 arrays become `keras.config.floatx()`, as in `model.predict`.
        mode: One of `modes()`; None for the first of them.

    Returns:
        A function whose outputs may still be under way on the device: block with `synchronize`.

    Example:
        >>> import keras, numpy as np
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> run = inference_function(dense, np.ones((2, 4), "float32"))
        >>> tuple(run().shape)
        (2, 3)
    """
    implementation = _implementation()
    chosen = implementation.MODES[0] if mode is None else mode
    if chosen not in implementation.MODES:
        raise ValueError(
            f"`mode` must be one of {', '.join(implementation.MODES)} under the "
            f"{keras.backend.backend()} backend. Received: mode={mode}"
        )
    return implementation.inference_function(model, _tensors(inputs), chosen)


def show(values: Any, callback: Callable[[Any], None]) -> None:
    """Calls back with tensors as NumPy arrays, from inside a `keras.ops.while_loop` too.

    `values` are tensors, or a dict, list or tuple of them. Under JAX the call may come later;
    `synchronize` waits for it.
    """
    _implementation().show(values, callback)


def synchronize(outputs: Any) -> None:
    """Blocks until the device has computed tensors, or a dict, list or tuple of them."""
    _implementation().synchronize(outputs)


def device() -> Device:
    """Describes the device that the backend computes on: a GPU if it sees one, else the CPU."""
    return _implementation().gpu() or host_cpu()


def versions() -> dict[str, str]:
    """Lists the versions on which a measured time depends."""
    from spade_keras import __version__

    return {
        "spade_keras": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        **_implementation().versions(),
    }


def settings() -> dict[str, str]:
    """Lists what the user can set and a measured time depends on: threads, precision, flags."""
    return {
        "image_data_format": keras.config.image_data_format(),
        **{name: os.environ[name] for name in _FLAGS.split() if name in os.environ},
        **_implementation().settings(),
    }


def peak_memory_bytes() -> int | None:
    """Measures the largest memory in use since `reset_peak_memory`, or since the start.

    On a GPU this is the peak of the backend's allocator; on a CPU the peak resident memory of this
    process, interpreter and libraries included. None where neither can be read.
    """
    implementation = _implementation()
    return implementation.gpu_peak_bytes() if implementation.gpu() else peak_resident_bytes()


def reset_peak_memory() -> bool:
    """Starts a new peak for `peak_memory_bytes`; returns whether the platform can do so.

    It cannot under JAX on a GPU, nor on a CPU outside Linux: the peak stays the whole process's.
    """
    implementation = _implementation()
    return implementation.reset_gpu_peak() if implementation.gpu() else reset_peak_resident()


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    """Computes the gradient of the mean loss with respect to every trainable variable.

        g_i = d mean(loss(targets, model(inputs))) / d w_i

    The model runs with `training=False`, so neither dropout nor batch statistics disturb the
    gradient, and its variables are left as they were.

    `inputs` and `targets` are arrays, or a dict, list or tuple of them; targets may be None. The
    loss is called as `loss(targets, outputs)` on tensors and may return one value per sample.

    Returns:
        One array for each of `model.trainable_variables`, in that order; zeros where the loss
        does not depend on the variable.
    """
    if not model.trainable_variables:
        return []
    return _implementation().loss_gradients(model, loss, _tensors(inputs), _tensors(targets))


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Computes `function(x)` as a constant: no gradient passes, to `x` or to what it closes over.

    Nothing is stored for a backward pass, and under JAX the function may contain a
    `keras.ops.while_loop`, which could not be differentiated backward.
    It goes from a tensor to a tensor, or to a tuple or list of them, and may read variables.
    """
    return _implementation().without_gradient(function, x)


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Evaluates a function together with the transpose of its derivative at a point.

        value = f(x),    pullback(u) = (df/dx)^T u

    f goes from one float tensor to one tensor; what it closes over is held fixed. The pullback may
    be called many times, also inside the body of a `keras.ops.while_loop`. Neither value nor
    pullback is differentiable again.

    Example:
        >>> from keras import ops
        >>> value, pullback = vjp(lambda x: x * x, ops.convert_to_tensor([1.0, 3.0]))
        >>> ops.convert_to_numpy(pullback(ops.ones(2))).tolist()
        [2.0, 6.0]
    """
    return _implementation().vjp(function, x)


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
    """Returns `value` with a gradient of its own, which goes to `carrier`.

        dL/d(carrier) += backward(dL/d(output)),    nothing goes to `value`

    By the implicit function theorem the gradient of a solution is that of its equation behind one
    linear solve. The equation is the carrier, the solve is `backward`: only the cotangent passes
    through it, so weights get theirs from the carrier, by the backend's own differentiation.

    `value` and the differentiable `carrier` have one shape and dtype; `backward` is a pure function
    that may close over tensors and read variables.
    """
    return _implementation().attach_gradient(value, carrier, backward)


# `keras.ops.fft2` takes and returns pairs of real tensors, which costs several copies on each side
# of a transform. Here values stay complex between transforms. Inputs and outputs of operators, and
# all weights, are real: gradients of complex *variables* differ between backends, those of real
# tensors through complex values do not.


def to_complex(x: Any) -> Any:
    """Reads a real `(..., 2)`, (real, imaginary), as complex64 `(...)`; complex stays as it is."""
    if keras.backend.standardize_dtype(x.dtype).startswith("complex"):
        return x
    return _implementation().to_complex(keras.ops.cast(x, "float32"))


def to_real(z: Any) -> Any:
    """Writes complex numbers of shape `(...)` as float32 `(..., 2)`, (real, imaginary)."""
    return _implementation().to_real(z)


def conjugate(z: Any) -> Any:
    """Conjugates, without a copy where the backend can defer it to the next product."""
    return _implementation().conjugate(z)


def fft(z: Any, *, axes: int = 2, inverse: bool = False) -> Any:
    """Plain Fourier transform of complex64 over the last `axes` axes, 1 or 2.

    Zero frequency comes first; forward is unscaled, inverse divides by the number of samples.
    """
    return _implementation().fft(z, axes, inverse)


def _tensors(arrays: Any) -> Any:
    """Copies arrays to the device; float64 becomes `floatx`, as Keras itself feeds it to models."""

    def convert(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype == np.float64:
            value = np.asarray(value, keras.config.floatx())
        return keras.ops.convert_to_tensor(value)

    if isinstance(arrays, Mapping):
        arrays = dict(arrays)
    return None if arrays is None else keras.tree.map_structure(convert, arrays)
