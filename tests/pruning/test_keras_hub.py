"""Backbones of KerasHub, built without presets: pruned by half and proved equal."""

import keras
import pytest

from spade_keras.pruning import find_groups, make_plan, verify_plan

if keras.backend.backend() != "tensorflow":
    pytest.skip("one backend is enough for somebody else's models", allow_module_level=True)
models = pytest.importorskip("keras_hub").models

IMAGE = {"image_shape": (32, 32, 3)}
CASES = {
    "ResNet": (
        lambda: models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[2, 2],
            stackwise_num_strides=[1, 2],
            block_type="bottleneck_block",
            **IMAGE,
        ),
        {"stack1_block0_3_conv"},
    ),
    "VGG": (
        lambda: models.VGGBackbone(
            stackwise_num_repeats=[2, 2], stackwise_num_filters=[16, 32], **IMAGE
        ),
        {"block2_conv2"},
    ),
    "DenseNet": (
        lambda: models.DenseNetBackbone(
            stackwise_num_repeats=[3, 3], compression_ratio=0.5, growth_rate=8, **IMAGE
        ),
        {"transition1_conv", *(f"stack2_block{i}_2_conv" for i in (1, 2, 3))},
    ),
    "Xception": (
        lambda: models.XceptionBackbone(
            stackwise_conv_filters=[[16, 16], [32, 32], [32, 32]],
            stackwise_pooling=[True, True, False],
            image_shape=(64, 64, 3),
        ),
        {"block3_sepconv2"},
    ),
    "Bert": (
        lambda: models.BertBackbone(
            vocabulary_size=50,
            num_layers=2,
            num_heads=4,
            hidden_dim=32,
            intermediate_dim=64,
            max_sequence_length=16,
        ),
        {"token_embedding", "pooled_dense"},
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_backbone(name):
    make, fixed = CASES[name]
    model = make()
    assert {group.name for group in find_groups(model) if group.fixed} == fixed
    report = verify_plan(model, make_plan(model, ratio=0.5))
    assert report.slim_parameters < 0.65 * report.parameters
