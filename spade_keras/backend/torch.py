"""PyTorch: eager inference mode, or `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch

from spade_keras.backend import hardware

MODES = ("eager", "compile")


def inference_function(model: Callable[..., Any], inputs: Any, mode: str) -> Callable[[], Any]:
    """Makes a function that runs `model` on resident inputs; see `backend.inference_function`."""
    resident = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)

    def forward(x: Any) -> Any:
        return model(x, training=False)

    compiled = torch.compile(forward) if mode == "compile" else forward

    def run() -> Any:
        with torch.inference_mode():
            return compiled(resident)

    return run


def show(values: Any, callback: Callable[[Any], None]) -> None:
    """Calls back at once: outside of a compiled function, loops run in Python."""
    callback(keras.tree.map_structure(keras.ops.convert_to_numpy, values))


def synchronize(outputs: Any) -> None:
    """Blocks until the streams of the devices that hold `outputs` are empty."""
    devices = {
        tensor.device for tensor in keras.tree.flatten(outputs) if isinstance(tensor, torch.Tensor)
    }
    for found in devices:
        if found.type != "cpu":
            getattr(torch, found.type).synchronize()


def device() -> hardware.Device:
    """Describes the device on which Keras places tensors under PyTorch."""
    if not _on_cuda():
        return hardware.host_cpu()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return hardware.Device("gpu", properties.name, properties.total_memory, hardware.usable_cores())


def versions() -> dict[str, str]:
    """Lists the versions of PyTorch and of the CUDA libraries in use."""
    found = {"torch": torch.__version__}
    if _on_cuda():
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def settings() -> dict[str, str]:
    """Lists threads, the precision of matrix products and whether cuDNN looks for fast kernels."""
    return {
        "threads": str(torch.get_num_threads()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
    }


def peak_memory_bytes() -> int | None:
    """Reads the peak of the GPU allocator, or of the process on a CPU."""
    if _on_cuda():
        return int(torch.cuda.max_memory_allocated())
    return hardware.peak_resident_bytes()


def reset_peak_memory() -> bool:
    """Starts a new peak."""
    if _on_cuda():
        torch.cuda.reset_peak_memory_stats()
        return True
    return hardware.reset_peak_resident()


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    """Computes gradients by autograd; see `backend.loss_gradients`."""
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    y = None if targets is None else keras.tree.map_structure(keras.ops.convert_to_tensor, targets)
    variables = [variable.value for variable in model.trainable_variables]
    with torch.enable_grad():
        value = keras.ops.mean(loss(y, model(x, training=False)))
        gradients = torch.autograd.grad(value, variables, allow_unused=True)
    return [
        np.zeros(tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype))
        if gradient is None
        else gradient.detach().cpu().numpy()
        for variable, gradient in zip(variables, gradients, strict=True)
    ]


def _on_cuda() -> bool:
    return keras.ops.convert_to_tensor(0.0).device.type == "cuda"


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Records nothing; see `backend.without_gradient`."""
    with torch.no_grad():
        # Tensors that the function only passes through would still be differentiable.
        return keras.tree.map_structure(lambda y: y.detach(), function(x))


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Records one evaluation and keeps its graph; see `backend.vjp`."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = function(point)

    def pullback(cotangent: Any) -> Any:
        if not value.requires_grad:
            return torch.zeros_like(point)
        (gradient,) = torch.autograd.grad(
            value, point, cotangent, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(point) if gradient is None else gradient

    return value.detach(), pullback


class _Attached(torch.autograd.Function):
    """The identity with a derivative of the caller's."""

    @staticmethod
    def forward(ctx: Any, value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
        """Returns a view of the value."""
        ctx.pull = backward
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, Any, None]:
        """Hands the cotangent to the carrier."""
        return None, ctx.pull(cotangents[0]), None


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
    """Wraps the identity; see `backend.attach_gradient`."""
    return _Attached.apply(value.detach(), carrier, backward)


def to_complex(x: Any) -> Any:
    """Views a contiguous tensor as complex, without a copy."""
    return torch.view_as_complex(x.contiguous())


def to_real(z: Any) -> Any:
    """Views a complex tensor as real, without a copy."""
    return torch.view_as_real(z.resolve_conj())


def conjugate(z: Any) -> Any:
    """Marks a tensor as conjugated; `keras.ops.conj` copies it."""
    return torch.conj(z)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    """Transforms the last one or two axes."""
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return transform(z, dim=tuple(range(-axes, 0)))
