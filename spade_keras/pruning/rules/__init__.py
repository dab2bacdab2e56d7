"""One rule per layer: how its channels are labeled and how it is made again with fewer.

`RULES` maps the name of a Keras layer (`"Conv2D"`) or operation (`"ops.Reshape"`) to its rule.
"""

from __future__ import annotations

from typing import Any

from spade_keras.pruning.rules.attention import (
    AttentionRule,
    DotProductAttentionRule,
    GroupedQueryAttentionRule,
    MultiHeadAttentionRule,
)
from spade_keras.pruning.rules.convolution import (
    ConvRule,
    ConvTransposeRule,
    DepthwiseRule,
    SeparableRule,
)
from spade_keras.pruning.rules.dense import DenseRule, EinsumDenseRule, EmbeddingRule
from spade_keras.pruning.rules.elementwise import ConcatenateRule, ElementwiseOpRule, MergeRule
from spade_keras.pruning.rules.indexing import (
    FlipRule,
    GetItemRule,
    PadRule,
    RepeatRule,
    RollRule,
    SliceRule,
    SplitRule,
    TakeRule,
)
from spade_keras.pruning.rules.normalization import (
    BatchNormalizationRule,
    GroupNormalizationRule,
    LayerNormalizationRule,
    LayerScaleRule,
    PReLURule,
    ScaleListRule,
    UnitNormalizationRule,
)
from spade_keras.pruning.rules.passing import ActivationRule, Boundary, PassThrough, SoftmaxRule
from spade_keras.pruning.rules.pooling import (
    DepthToSpaceRule,
    GlobalPoolingRule,
    SpaceToDepthRule,
    SpatialRule,
)
from spade_keras.pruning.rules.recurrent import BidirectionalRule, RecurrentRule
from spade_keras.pruning.rules.reduction import (
    DotRule,
    GluRule,
    MatmulRule,
    NormalizeRule,
    ReductionRule,
)
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule
from spade_keras.pruning.rules.shapes import (
    BroadcastRule,
    FlattenRule,
    RepeatVectorRule,
    ReshapeRule,
    StackRule,
    TransposeRule,
    UnstackRule,
)
from spade_keras.pruning.rules.wrappers import SpectralNormalizationRule, TimeDistributedRule

__all__ = [
    "RULES",
    "Boundary",
    "Change",
    "ChannelCall",
    "ChannelRule",
    "register_channel_rule",
    "rule_for",
]

_PASSING_LAYERS = (
    "ReLU LeakyReLU ELU Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
    "GaussianDropout GaussianNoise ActivityRegularization Identity Masking "
    "StochasticDepth"
)
_PASSING_OPS = (
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
    "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink "
    "Threshold Absolute Abs Fabs Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt Ceil Clip Copy "
    "Cos Cosh Deg2rad Rad2deg Exp Exp2 Expm1 Floor Log Log10 Log1p Log2 Negative NanToNum "
    "Reciprocal Rint Round Sign Signbit Sin Sinc Sinh Square Sqrt Tan Tanh Trunc Rsqrt Erf Erfc "
    "Erfinv Cast SaturateCast StopGradient LogicalNot Isfinite Isinf Isnan Real Imag Conjugate "
    "Angle OnesLike ZerosLike ConvertToTensor"
)
_SPATIAL_LAYERS = (
    "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D "
    "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D "
    "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D UpSampling1D UpSampling2D "
    "UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D "
    "Resizing CenterCrop"
)
_SPATIAL_OPS = "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool Resize PadImages CropImages"
_GLOBAL_LAYERS = (
    "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D "
    "GlobalMaxPooling2D GlobalMaxPooling3D"
)
_REDUCTIONS = "Sum Mean Max Min Amax Amin Prod Var Std Any All Logsumexp Median CountNonzero"
_MERGING_LAYERS = "Add Subtract Multiply Average Maximum Minimum"
_ELEMENTWISE_OPS = (
    "Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Maximum Minimum Fmax Fmin "
    "Power Mod Fmod Arctan2 Logaddexp Logaddexp2 Hypot Equal NotEqual Greater GreaterEqual Less "
    "LessEqual LogicalAnd LogicalOr LogicalXor Where Heaviside Nextafter Isclose"
)


def rule_for(operation_class: type) -> ChannelRule | None:
    """The rule of a class, None where nobody has taught it.

    Args:
        operation_class: Class of a layer or operation.
    """
    if operation_class not in _FOUND:
        _FOUND[operation_class] = _find(operation_class)
    return _FOUND[operation_class]


RULES: dict[str, ChannelRule] = {
    "Dense": DenseRule(),
    "EinsumDense": EinsumDenseRule(),
    "Embedding": EmbeddingRule(),
    "ReversibleEmbedding": EmbeddingRule(),
    "Conv1D": ConvRule(),
    "Conv2D": ConvRule(),
    "Conv3D": ConvRule(),
    "Conv1DTranspose": ConvTransposeRule(),
    "Conv2DTranspose": ConvTransposeRule(),
    "Conv3DTranspose": ConvTransposeRule(),
    "DepthwiseConv1D": DepthwiseRule(),
    "DepthwiseConv2D": DepthwiseRule(),
    "SeparableConv1D": SeparableRule(),
    "SeparableConv2D": SeparableRule(),
    "BatchNormalization": BatchNormalizationRule(),
    "LayerNormalization": LayerNormalizationRule(),
    "RMSNormalization": LayerNormalizationRule(),
    "GroupNormalization": GroupNormalizationRule(),
    "UnitNormalization": UnitNormalizationRule(),
    "PReLU": PReLURule(),
    "Rescaling": ScaleListRule(),
    "Normalization": ScaleListRule(),
    "LayerScale": LayerScaleRule(),
    "CustomScaleLayer": MergeRule(),
    "Activation": ActivationRule(),
    "Softmax": SoftmaxRule(),
    "Concatenate": ConcatenateRule(),
    "ops.Softmax": SoftmaxRule(),
    "ops.LogSoftmax": SoftmaxRule(),
    "ops.Concatenate": ConcatenateRule(),
    "Reshape": ReshapeRule(),
    "Flatten": FlattenRule(),
    "Permute": TransposeRule(),
    "RepeatVector": RepeatVectorRule(),
    "ops.Reshape": ReshapeRule(),
    "ops.Squeeze": ReshapeRule(),
    "ops.ExpandDims": ReshapeRule(),
    "ops.Ravel": ReshapeRule(),
    "ops.Transpose": TransposeRule(),
    "ops.Swapaxes": TransposeRule(),
    "ops.Moveaxis": TransposeRule(),
    "ops.BroadcastTo": BroadcastRule(),
    "ops.Stack": StackRule(),
    "ops.Unstack": UnstackRule(),
    "ops.Split": SplitRule(),
    "ops.GetItem": GetItemRule(),
    "ops.Take": TakeRule(),
    "ops.Slice": SliceRule(),
    "ops.Pad": PadRule(),
    "ops.Roll": RollRule(),
    "ops.Flip": FlipRule(),
    "ops.Repeat": RepeatRule(),
    "ops.Tile": RepeatRule(),
    "ops.DepthToSpace": DepthToSpaceRule(),
    "ops.SpaceToDepth": SpaceToDepthRule(),
    "ops.Normalize": NormalizeRule(),
    "ops.Glu": GluRule(),
    "ops.Matmul": MatmulRule(),
    "ops.DotProductAttention": DotProductAttentionRule(),
    "Dot": DotRule(),
    "Attention": AttentionRule(),
    "AdditiveAttention": AttentionRule(),
    "MultiHeadAttention": MultiHeadAttentionRule(),
    "GroupedQueryAttention": GroupedQueryAttentionRule(),
    "Bidirectional": BidirectionalRule(),
    "TimeDistributed": TimeDistributedRule(rule_for),
    "SpectralNormalization": SpectralNormalizationRule(rule_for),
    **dict.fromkeys(["SimpleRNN", "LSTM", "GRU", "RNN"], RecurrentRule()),
    **dict.fromkeys(["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"], RecurrentRule()),
    **dict.fromkeys(_SPATIAL_LAYERS.split(), SpatialRule()),
    **dict.fromkeys(_GLOBAL_LAYERS.split(), GlobalPoolingRule()),
    **{f"ops.{name}": SpatialRule() for name in _SPATIAL_OPS.split()},
    **{f"ops.{name}": ReductionRule() for name in _REDUCTIONS.split()},
    **dict.fromkeys(_PASSING_LAYERS.split(), PassThrough()),
    **{f"ops.{name}": PassThrough() for name in _PASSING_OPS.split()},
    **dict.fromkeys(_MERGING_LAYERS.split(), MergeRule()),
    **{f"ops.{name}": ElementwiseOpRule() for name in _ELEMENTWISE_OPS.split()},
}

_REGISTERED: dict[type, ChannelRule] = {}
_FOUND: dict[type, ChannelRule | None] = {}


def register_channel_rule(layer_class: type, rule: ChannelRule) -> None:
    """Teaches the pruner a layer or operation class.

    Args:
        layer_class: The class; subclasses are not covered, for their `call` may differ.
        rule: How its channels go through.

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
    """How many classes were registered so far: analyses made before know nothing of later ones."""
    return len(_REGISTERED)


def _find(operation_class: Any) -> ChannelRule | None:
    if operation_class in _REGISTERED:
        return _REGISTERED[operation_class]
    module = operation_class.__module__
    if module.startswith(("keras.src.layers.", "keras.src.applications.")):
        return RULES.get(operation_class.__name__)
    if module.startswith("keras.src.ops."):
        return RULES.get(f"ops.{operation_class.__name__}")
    return None
