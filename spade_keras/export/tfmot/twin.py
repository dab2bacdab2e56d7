"""Describing a Keras 3 network so that Keras 2 can make its twin, and taking weights back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from spade_keras.errors import ExportError

# The same functions under the same names in both; hard_sigmoid and leaky_relu are not.
# fmt: off
_ACTIVATIONS = frozenset({
    "elu", "exponential", "gelu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "softmax", "softplus", "softsign", "swish", "tanh",
})
# fmt: on
# Activations that 8-bit kernels fuse with a layer; others become layers of their own.
_FUSED = ("linear", "relu", "softmax")


# fmt: off
_LAYERS = (
    "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv1D",
    "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten",
    "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "LeakyReLU",
    "MaxPooling2D", "Multiply", "Permute", "ReLU", "Rescaling", "Reshape", "SeparableConv2D",
    "Softmax", "SpatialDropout2D", "UpSampling2D", "ZeroPadding2D",
)
# Arguments that mean the same in both; other ones stay behind.
_SLIDING = ("kernel_size", "strides", "padding", "data_format", "dilation_rate")
_ARGUMENTS = frozenset({
    *_SLIDING, "activation", "axis", "center", "cropping", "depth_multiplier", "dims", "epsilon",
    "filters", "groups", "interpolation", "keepdims", "max_value", "momentum", "negative_slope",
    "offset", "output_padding", "pool_size", "rate", "scale", "size", "target_shape", "threshold",
    "units", "use_bias",
})
# fmt: on
# Arguments and weights that have other names in Keras 2.
_RENAMED = {
    "DepthwiseConv2D": {"kernel": "depthwise_kernel"},
    "LeakyReLU": {"negative_slope": "alpha"},
}


def describe(network: keras.Model, shape: tuple[int, ...]) -> dict[str, Any]:
    """Describes a network layer by layer, as plain JSON values.

    Initializers, regularizers and constraints stay behind. A separable convolution becomes its two
    convolutions, and an activation inside a layer, other than ReLU and softmax, a layer.

    Args:
        network: A Functional or Sequential model of one input and one output.
        shape: Shape of one sample; takes the place of free axes.

    Returns:
        `input`, `output` (names), `shape`, and `layers`: each with class, name, config, the names
        of its inputs, and per weight of the twin the layer and weight it comes from.

    Raises:
        ExportError: If the model or a layer cannot be translated; lists every one with its reason.
    """
    nodes, source, output = _nodes(network)
    layers: list[dict[str, Any]] = []
    last = {source: source}
    problems = []
    for node in nodes:
        name = node.operation.name
        reason = _refusal(node)
        if reason:
            problems.append(f"{name} ({type(node.operation).__name__}): {reason}")
        elif not problems:
            entries = list(_entries(node.operation, [last[before] for before in node.inputs]))
            layers.extend(entries)
            last[name] = entries[-1]["name"]
    if problems:
        raise ExportError(
            "These layers have no twin in Keras 2:\n  "
            + "\n  ".join(problems)
            + "\nReplace them, or pass the part of the network that is without them."
        )
    return {"input": source, "output": last[output], "shape": list(shape), "layers": layers}


def weights_of(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of all layers under "layer/weight"."""
    return {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for layer in network.layers
        for weight in layer.weights
    }


def with_weights(network: keras.Model, weights: Mapping[str, np.ndarray]) -> keras.Model:
    """Returns a copy of a network with other weights, named as by `weights_of`."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    for layer in copy.layers:
        for weight in layer.weights:
            if f"{layer.name}/{weight.name}" in weights:
                weight.assign(weights[f"{layer.name}/{weight.name}"])
    return copy


class _Node(NamedTuple):
    """An operation, the names of what it is called on, and how often it is called."""

    operation: Any
    inputs: list[str]
    calls: int = 1


def _nodes(network: keras.Model) -> tuple[list[_Node], str, str]:
    """Returns the operations but the input, and the names of input and output."""
    if isinstance(network, keras.Sequential):
        if not network.built:
            raise ExportError(f"The model {network.name} is not built. Call it once on its inputs.")
        network = keras.Model(network.inputs, network.outputs)
    if not isinstance(network, keras.Model) or not hasattr(network, "operations"):
        raise ExportError(
            "`network` must be a Functional or Sequential Keras model. "
            f"Received: {type(network).__name__}. Of a reconstruction network pass a prior, one "
            "of `network.priors`."
        )
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ExportError(
            f"`network` must have one input and one output. Received: {len(network.inputs)} "
            f"inputs and {len(network.outputs)} outputs"
        )
    config = network.get_config()
    operations = {operation.name: operation for operation in network.operations}
    nodes = []
    for entry in config["layers"]:
        calls = entry["inbound_nodes"]
        operation = operations[entry["name"]]
        if not isinstance(operation, keras.layers.InputLayer):
            nodes.append(_Node(operation, list(_tensor_names(calls)), len(calls)))
    return nodes, _first_name(config["input_layers"]), _first_name(config["output_layers"])


def _tensor_names(calls: Any) -> Iterator[str]:
    """Yields the names of the operations whose outputs the arguments of a call hold."""
    if isinstance(calls, Mapping):
        if calls.get("class_name") == "__keras_tensor__":
            yield calls["config"]["keras_history"][0]
            return
        calls = list(calls.values())
    if isinstance(calls, (list, tuple)):
        for value in calls:
            yield from _tensor_names(value)


def _first_name(layers: Any) -> str:
    return next(value for value in keras.tree.flatten(layers) if isinstance(value, str))


def _refusal(node: _Node) -> str | None:
    """Says why an operation cannot be translated; None if it can."""
    layer = node.operation
    name = type(layer).__name__
    if not isinstance(layer, keras.layers.Layer):
        return "an operation outside of any layer; use the layer of that name, if there is one"
    if isinstance(layer, keras.Model):
        return "a model inside the model; call its layers one by one"
    if type(layer) is not getattr(keras.layers, name, None) or name not in _LAYERS:
        return f"not one of {', '.join(_LAYERS)}"
    if node.calls != 1:
        return f"called {node.calls} times; weights that are shared cannot be quantized"
    if layer.dtype_policy.name != "float32":
        return f"computes in {layer.dtype_policy.name}; only float32 is carried over"
    config = layer.get_config()
    if config.get("data_format") == "channels_first":
        return "channels come first; LiteRT wants them last"
    activation = config.get("activation", "linear")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        return f"activation {activation!r} is not one of {', '.join(sorted(_ACTIVATIONS))}"
    return None


def _entries(layer: Any, inputs: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the layers of the twin that stand for one layer."""
    kind = type(layer).__name__
    renamed = _RENAMED.get(kind, {})
    config = layer.get_config()
    arguments = {renamed.get(key, key): config[key] for key in config if key in _ARGUMENTS}
    weights = {
        renamed.get(weight.name, weight.name): f"{layer.name}/{weight.name}"
        for weight in layer.weights
    }
    activation = config.get("activation", "linear")
    apart = kind != "Activation" and activation not in _FUSED
    if apart:
        arguments["activation"] = "linear"
    entry = {"class": kind, "name": layer.name, "config": arguments, "inputs": inputs}
    entry |= {"weights": weights, "trainable": bool(layer.trainable)}
    # A separable convolution is two: the 8-bit training would make them of it, under other names.
    yield from _separated(entry) if kind == "SeparableConv2D" else [entry]
    if apart:
        yield {
            "class": "Activation",
            "name": f"{layer.name}__activation",
            "config": {"activation": activation},
            "inputs": [layer.name],
            "weights": {},
            "trainable": True,
        }


def _separated(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the depthwise and the pointwise convolution of a separable one."""
    config = entry["config"]
    weights = entry["weights"]
    depthwise = {key: config[key] for key in (*_SLIDING, "depth_multiplier")}
    kernel = "depthwise_kernel"
    first = f"{entry['name']}__depthwise"
    yield {
        **entry,
        "class": "DepthwiseConv2D",
        "name": first,
        "config": {**depthwise, "use_bias": False},
        "weights": {kernel: weights[kernel]},
    }
    pointwise = {key: config[key] for key in ("filters", "use_bias", "activation", "data_format")}
    bias = {"bias": weights["bias"]} if "bias" in weights else {}
    yield {
        **entry,
        "class": "Conv2D",
        "config": {**pointwise, "kernel_size": 1},
        "inputs": [first],
        "weights": {"kernel": weights["pointwise_kernel"], **bias},
    }
