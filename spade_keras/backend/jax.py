"""JAX: the stateless call, compiled by `jax.jit`; documented in `backend`."""

# ruff: noqa: D103

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

from spade_keras.backend import hardware

MODES = ("jit", "eager")
conjugate = jax.numpy.conj

# The compiled gradient of each model for the loss used last, so that a loop over batches compiles
# once. It refers to the model weakly and is dropped with it.
_GRADIENTS: weakref.WeakKeyDictionary[
    keras.Model, tuple[Callable[[Any, Any], Any], Callable[..., Any]]
] = weakref.WeakKeyDictionary()


def inference_function(model: Any, inputs: Any, mode: str) -> Callable[[], Any]:
    if mode == "eager":
        return lambda: model(inputs, training=False)
    if not model.built:
        model(inputs, training=False)
    trainable = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    options = _call_options(model)

    def forward(trainable: list[Any], fixed: list[Any], x: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, fixed, x, **options)
        return outputs

    compiled = jax.jit(forward)
    return lambda: compiled(trainable, fixed, inputs)


def show(values: Any, callback: Callable[[Any], None]) -> None:
    jax.debug.callback(lambda x: callback(jax.tree.map(np.asarray, x)), values)


def synchronize(outputs: Any) -> None:
    jax.block_until_ready(outputs)
    jax.effects_barrier()


def gpu() -> hardware.Device | None:
    found = jax.devices()[0]
    if found.platform == "cpu":
        return None
    memory = (found.memory_stats() or {}).get("bytes_limit")
    return hardware.Device(found.platform, found.device_kind, memory)


def versions() -> dict[str, str]:
    platform = jax.devices()[0].client.platform_version
    found = {"jax": jax.__version__, "jaxlib": jax.lib.__version__}
    if jax.devices()[0].platform != "cpu":
        found["platform"] = " ".join(platform.split())
    return found


def settings() -> dict[str, str]:
    return {
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
        "x64": str(jax.config.jax_enable_x64),
    }


def gpu_peak_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def reset_gpu_peak() -> bool:
    return False  # JAX offers none for its allocator


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    known_loss, gradient = _GRADIENTS.get(model, (None, None))
    if gradient is None or known_loss is not loss:
        gradient = _gradient_function(weakref.ref(model), loss)
        _GRADIENTS[model] = (loss, gradient)
    trainable = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    return [np.asarray(value) for value in gradient(trainable, fixed, inputs, targets)]


def _call_options(model: Any) -> dict[str, bool]:
    # Unlike `__call__`, `stateless_call` is strict.
    takes = inspect.signature(model.call).parameters
    return {"training": False} if "training" in takes else {}


def _gradient_function(
    model: weakref.ref[keras.Model], loss: Callable[[Any, Any], Any]
) -> Callable[..., list[Any]]:
    def mean_loss(trainable: list[Any], fixed: list[Any], x: Any, y: Any) -> Any:
        alive = model()
        if alive is None:
            raise RuntimeError("The model was deleted while its gradient was being computed.")
        outputs, _ = alive.stateless_call(trainable, fixed, x, **_call_options(alive))
        return keras.ops.mean(loss(y, outputs))

    return jax.jit(jax.grad(mean_loss))


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    # Stopping gradients at the outputs would be too late: a loop whose inputs are under
    # differentiation cannot be differentiated backward.
    x = keras.tree.map_structure(jax.lax.stop_gradient, x)
    pure, constants = jax.closure_convert(function, x)
    return pure(x, *map(jax.lax.stop_gradient, constants))


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    value, pullback = jax.vjp(function, jax.lax.stop_gradient(x))
    return value, lambda cotangent: pullback(cotangent)[0]


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
    # The rule of a custom derivative must not close over values under differentiation, so they
    # become arguments. This also reads variables now, while a stateless call holds their values.
    pure, constants = jax.closure_convert(backward, value)

    @jax.custom_vjp
    def attached(value: Any, carrier: Any, constants: list[Any]) -> Any:
        return value

    def forward(value: Any, carrier: Any, constants: list[Any]) -> tuple[Any, list[Any]]:
        return value, constants

    def pull(constants: list[Any], cotangent: Any) -> tuple[Any, Any, list[Any]]:
        carried = pure(cotangent, *constants)
        nothing = jax.numpy.zeros_like(cotangent)
        return nothing, carried, [jax.numpy.zeros_like(constant) for constant in constants]

    attached.defvjp(forward, pull)
    return attached(value, carrier, [jax.lax.stop_gradient(constant) for constant in constants])


def to_complex(x: Any) -> Any:
    return jax.lax.complex(x[..., 0], x[..., 1])


def to_real(z: Any) -> Any:
    return jax.numpy.stack([z.real, z.imag], axis=-1)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    transform = jax.numpy.fft.ifftn if inverse else jax.numpy.fft.fftn
    return transform(z, axes=tuple(range(-axes, 0)))
