"""One rule per layer: how its channels are labeled and how it is rebuilt with fewer."""

from __future__ import annotations

import importlib
from typing import Any

from spade_keras.pruning.rules.rule import Boundary, Change, ChannelCall, ChannelRule

__all__ = [
    "RULES",
    "Boundary",
    "Change",
    "ChannelCall",
    "ChannelRule",
    "register_channel_rule",
    "rule_for",
]

# A layer or operation that fits a rule below needs no more than its name there; `#` is 1, 2 and 3.
_LAYERS = {
    "linear:DenseRule": "Dense",
    "linear:EinsumDenseRule": "EinsumDense",
    "linear:EmbeddingRule": "Embedding ReversibleEmbedding",
    "linear:ConvRule": "Conv#D",
    "linear:ConvTransposeRule": "Conv#DTranspose",
    "linear:DepthwiseRule": "DepthwiseConv1D DepthwiseConv2D",
    "linear:SeparableRule": "SeparableConv1D SeparableConv2D",
    "normalization:BatchNormalizationRule": "BatchNormalization",
    "normalization:LayerNormalizationRule": "LayerNormalization RMSNormalization",
    "normalization:GroupNormalizationRule": "GroupNormalization",
    "normalization:UnitNormalizationRule": "UnitNormalization",
    "normalization:PReLURule": "PReLU",
    "normalization:ScaleListRule": "Rescaling Normalization",
    "normalization:LayerScaleRule": "LayerScale",
    "passing:PassThrough": (
        "Activation ReLU LeakyReLU ELU Dropout SpatialDropout#D AlphaDropout GaussianDropout "
        "GaussianNoise ActivityRegularization Identity Masking StochasticDepth"
    ),
    "passing:SoftmaxRule": "Softmax",
    "passing:SpatialRule": (
        "MaxPooling#D AveragePooling#D AdaptiveAveragePooling#D AdaptiveMaxPooling#D "
        "GlobalAveragePooling#D GlobalMaxPooling#D UpSampling#D ZeroPadding#D Cropping#D "
        "Resizing CenterCrop"
    ),
    "passing:ElementwiseRule": "Add Subtract Multiply Average Maximum Minimum CustomScaleLayer",
    "passing:ConcatenateRule": "Concatenate",
    "shapes:ReshapeRule": "Reshape",
    "shapes:FlattenRule": "Flatten",
    "shapes:MoveRule": "Permute RepeatVector",
    "passing:DotRule": "Dot",
    "attention:AttentionRule": "Attention AdditiveAttention",
    "attention:MultiHeadAttentionRule": "MultiHeadAttention",
    "attention:GroupedQueryAttentionRule": "GroupedQueryAttention",
    "wrappers:RecurrentRule": "SimpleRNN LSTM GRU RNN ConvLSTM#D Bidirectional",
    "wrappers:TimeDistributedRule": "TimeDistributed",
    "wrappers:SpectralNormalizationRule": "SpectralNormalization",
}
_OPERATIONS = {
    "passing:PassThrough": (
        "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
        "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh "
        "HardShrink Threshold Absolute Abs Fabs Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt "
        "Ceil Clip Copy Cos Cosh Deg2rad Rad2deg Exp Exp2 Expm1 Floor Log Log10 Log1p Log2 "
        "Negative NanToNum Reciprocal Rint Round Sign Signbit Sin Sinc Sinh Square Sqrt Tan Tanh "
        "Trunc Rsqrt Erf Erfc Erfinv Cast SaturateCast StopGradient LogicalNot Isfinite Isinf "
        "Isnan Real Imag Conjugate Angle OnesLike ZerosLike ConvertToTensor"
    ),
    "passing:SoftmaxRule": "Softmax LogSoftmax",
    "passing:SpatialRule": (
        "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool Resize PadImages CropImages"
    ),
    "passing:ElementwiseRule": (
        "Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Maximum Minimum Fmax Fmin "
        "Power Mod Fmod Arctan2 Logaddexp Logaddexp2 Hypot Equal NotEqual Greater GreaterEqual "
        "Less LessEqual LogicalAnd LogicalOr LogicalXor Where Heaviside Nextafter Isclose"
    ),
    "passing:ConcatenateRule": "Concatenate",
    "shapes:ReshapeRule": "Reshape Squeeze ExpandDims Ravel",
    "shapes:MoveRule": "Transpose Swapaxes Moveaxis Flip",
    "shapes:BroadcastRule": "BroadcastTo",
    "shapes:StackRule": "Stack",
    "shapes:UnstackRule": "Unstack",
    "shapes:PixelShuffleRule": "DepthToSpace SpaceToDepth",
    "indexing:SplitRule": "Split",
    "indexing:GetItemRule": "GetItem",
    "indexing:TakeRule": "Take",
    "indexing:SliceRule": "Slice",
    "indexing:PadRule": "Pad",
    "indexing:RollRule": "Roll",
    "indexing:RepeatRule": "Repeat Tile",
    "passing:ReductionRule": (
        "Sum Mean Max Min Amax Amin Prod Var Std Any All Logsumexp Median CountNonzero"
    ),
    "rule:AxisMixing": "Normalize",
    "passing:GluRule": "Glu",
    "passing:MatmulRule": "Matmul",
    "attention:DotProductAttentionRule": "DotProductAttention",
}

RULES: dict[str, str] = {
    prefix + name: rule
    for prefix, table in (("", _LAYERS), ("ops.", _OPERATIONS))
    for rule, names in table.items()
    for pattern in names.split()
    for name in sorted({pattern.replace("#", size) for size in "123"})
}
"""`"module:Class"` of the rule of a layer (`"Conv2D"`) or operation (`"ops.Reshape"`)."""

_REGISTERED: dict[type, ChannelRule] = {}
_FOUND: dict[type, ChannelRule | None] = {}


def rule_for(operation_class: type) -> ChannelRule | None:
    """The rule of a layer or operation class, None for an unknown one."""
    if operation_class not in _FOUND:
        _FOUND[operation_class] = _REGISTERED.get(operation_class) or _built_in(operation_class)
    return _FOUND[operation_class]


def register_channel_rule(layer_class: type, rule: ChannelRule) -> None:
    """Adds the rule of a layer or operation class.

    Subclasses of it are not covered, since their `call` may differ.

    Raises:
        ValueError: The class has a rule already, or `rule` is not a `ChannelRule`.

    Example:
        >>> import keras
        >>> from spade_keras.pruning.rules import register_channel_rule
        >>> from spade_keras.pruning.rules.passing import PassThrough
        >>> class Shift(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x + 1.0
        >>> register_channel_rule(Shift, PassThrough())
    """
    if not isinstance(rule, ChannelRule):
        raise ValueError(
            "`rule` must be an instance of a ChannelRule subclass. "
            f"Received: rule={rule!r} of type {type(rule).__name__}."
        )
    if rule_for(layer_class) is not None:
        raise ValueError(
            "`layer_class` has a channel rule already. "
            f"Received: layer_class={layer_class.__name__}. Subclass it to give it another."
        )
    _REGISTERED[layer_class] = rule
    _FOUND.pop(layer_class, None)


def registered_count() -> int:
    """How many classes are registered; an analysis made before a registration is stale."""
    return len(_REGISTERED)


def _built_in(operation_class: Any) -> ChannelRule | None:
    module, name = operation_class.__module__, operation_class.__name__
    if module.startswith("keras.src.ops."):
        name = f"ops.{name}"
    elif not module.startswith(("keras.src.layers.", "keras.src.applications.")):
        return None
    if name not in RULES:
        return None
    file, _, rule = RULES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{file}"), rule)()
