"""One rule per layer: how its channels are labeled and how it is rebuilt with fewer.

`RULES` maps the name of a Keras layer (`"Conv2D"`) or operation (`"ops.Reshape"`) to its rule.
"""

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

# A layer or operation that fits a rule below needs no more than its name there.
_LAYERS = {
    "linear:DenseRule": "Dense",
    "linear:EinsumDenseRule": "EinsumDense",
    "linear:EmbeddingRule": "Embedding ReversibleEmbedding",
    "linear:ConvRule": "Conv1D Conv2D Conv3D",
    "linear:ConvTransposeRule": "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
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
        "ReLU LeakyReLU ELU Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D "
        "AlphaDropout GaussianDropout GaussianNoise ActivityRegularization Identity Masking "
        "StochasticDepth"
    ),
    "passing:ActivationRule": "Activation",
    "passing:SoftmaxRule": "Softmax",
    "passing:SpatialRule": (
        "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D "
        "AveragePooling3D AdaptiveAveragePooling1D AdaptiveAveragePooling2D "
        "AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D "
        "UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D "
        "Cropping1D Cropping2D Cropping3D Resizing CenterCrop"
    ),
    "passing:GlobalPoolingRule": (
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D"
    ),
    "passing:MergeRule": "Add Subtract Multiply Average Maximum Minimum CustomScaleLayer",
    "passing:ConcatenateRule": "Concatenate",
    "shapes:ReshapeRule": "Reshape",
    "shapes:FlattenRule": "Flatten",
    "shapes:TransposeRule": "Permute",
    "shapes:RepeatVectorRule": "RepeatVector",
    "reduction:DotRule": "Dot",
    "attention:AttentionRule": "Attention AdditiveAttention",
    "attention:MultiHeadAttentionRule": "MultiHeadAttention",
    "attention:GroupedQueryAttentionRule": "GroupedQueryAttention",
    "wrappers:RecurrentRule": (
        "SimpleRNN LSTM GRU RNN ConvLSTM1D ConvLSTM2D ConvLSTM3D Bidirectional"
    ),
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
    "passing:ElementwiseOpRule": (
        "Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Maximum Minimum Fmax Fmin "
        "Power Mod Fmod Arctan2 Logaddexp Logaddexp2 Hypot Equal NotEqual Greater GreaterEqual "
        "Less LessEqual LogicalAnd LogicalOr LogicalXor Where Heaviside Nextafter Isclose"
    ),
    "passing:ConcatenateRule": "Concatenate",
    "shapes:ReshapeRule": "Reshape Squeeze ExpandDims Ravel",
    "shapes:TransposeRule": "Transpose Swapaxes Moveaxis",
    "shapes:BroadcastRule": "BroadcastTo",
    "shapes:StackRule": "Stack",
    "shapes:UnstackRule": "Unstack",
    "shapes:DepthToSpaceRule": "DepthToSpace",
    "shapes:SpaceToDepthRule": "SpaceToDepth",
    "indexing:SplitRule": "Split",
    "indexing:GetItemRule": "GetItem",
    "indexing:TakeRule": "Take",
    "indexing:SliceRule": "Slice",
    "indexing:PadRule": "Pad",
    "indexing:RollRule": "Roll",
    "indexing:FlipRule": "Flip",
    "indexing:RepeatRule": "Repeat Tile",
    "reduction:ReductionRule": (
        "Sum Mean Max Min Amax Amin Prod Var Std Any All Logsumexp Median CountNonzero"
    ),
    "rule:AxisMixing": "Normalize",
    "reduction:GluRule": "Glu",
    "reduction:MatmulRule": "Matmul",
    "attention:DotProductAttentionRule": "DotProductAttention",
}

RULES: dict[str, str] = {
    prefix + name: rule
    for prefix, table in (("", _LAYERS), ("ops.", _OPERATIONS))
    for rule, names in table.items()
    for name in names.split()
}
"""`"module:Class"` of the rule by layer or operation name; imported at first use."""

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
