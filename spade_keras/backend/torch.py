"""PyTorch: eager inference mode, or `torch.compile`; documented in `backend`."""

# ruff: noqa: D103

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch

from spade_keras.backend import hardware

MODES = ("eager", "compile")
conjugate = torch.conj  # marks the tensor; `keras.ops.conj` copies it


def inference_function(model: Callable[..., Any], inputs: Any, mode: str) -> Callable[[], Any]:
    def forward(x: Any) -> Any:
        return model(x, training=False)

    compiled = torch.compile(forward) if mode == "compile" else forward

    def run() -> Any:
        with torch.inference_mode():
            return compiled(inputs)

    return run


def show(values: Any, callback: Callable[[Any], None]) -> None:
    # Outside of a compiled function loops run in Python.
    callback(keras.tree.map_structure(keras.ops.convert_to_numpy, values))


def synchronize(outputs: Any) -> None:
    devices = {
        tensor.device for tensor in keras.tree.flatten(outputs) if isinstance(tensor, torch.Tensor)
    }
    for found in devices:
        if found.type != "cpu":
            getattr(torch, found.type).synchronize()


def gpu() -> hardware.Device | None:
    if not _on_cuda():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return hardware.Device("gpu", properties.name, properties.total_memory)


def _on_cuda() -> bool:
    return keras.ops.convert_to_tensor(0.0).device.type == "cuda"


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    if _on_cuda():
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def settings() -> dict[str, str]:
    return {
        "threads": str(torch.get_num_threads()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
    }


def gpu_peak_bytes() -> int | None:
    return int(torch.cuda.max_memory_allocated())


def reset_gpu_peak() -> bool:
    torch.cuda.reset_peak_memory_stats()
    return True


def loss_gradients(
    model: keras.Model, loss: Callable[[Any, Any], Any], inputs: Any, targets: Any
) -> list[np.ndarray]:
    variables = [variable.value for variable in model.trainable_variables]
    with torch.enable_grad():
        value = keras.ops.mean(loss(targets, model(inputs, training=False)))
        gradients = torch.autograd.grad(value, variables, allow_unused=True)
    return [
        np.zeros(tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype))
        if gradient is None
        else gradient.detach().cpu().numpy()
        for variable, gradient in zip(variables, gradients, strict=True)
    ]


def without_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    with torch.no_grad():
        # Tensors that the function only passes through would still be differentiable.
        return keras.tree.map_structure(lambda y: y.detach(), function(x))


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
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
    @staticmethod
    def forward(ctx: Any, value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
        ctx.pull = backward
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, Any, None]:
        return None, ctx.pull(cotangents[0]), None


def attach_gradient(value: Any, carrier: Any, backward: Callable[[Any], Any]) -> Any:
    return _Attached.apply(value.detach(), carrier, backward)


def to_complex(x: Any) -> Any:
    return torch.view_as_complex(x.contiguous())


def to_real(z: Any) -> Any:
    return torch.view_as_real(z.resolve_conj())


def fft(z: Any, axes: int, inverse: bool) -> Any:
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return transform(z, dim=tuple(range(-axes, 0)))
