"""ResNet-50, DenseNet-121 and MobileNetV2 in PyTorch, weight for weight as in Keras."""

from __future__ import annotations

import torch
from torch import nn


def _conv(inputs: int, filters: int, size: int, *, stride: int = 1, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, size, stride=stride, padding=size // 2, **settings)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, width, 1, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, 4 * width, 1),
            nn.BatchNorm2d(4 * width),
        )
        self.shortcut = nn.Identity()
        if inputs != 4 * width:
            project = _conv(inputs, 4 * width, 1, stride=stride)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    layers = [_conv(3, 64, 7, stride=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(_Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            _conv(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            _conv(4 * growth, growth, 3, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], dim=1)


def densenet121() -> nn.Module:
    layers = [_conv(3, 64, 7, stride=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    width = 64
    for number, blocks in enumerate((6, 12, 24, 16)):
        if number:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), _conv(width, width // 2, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            width //= 2
        for _ in range(blocks):
            layers.append(_DenseLayer(width, 32))
            width += 32
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 1000))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_conv(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        layers += [
            _conv(width, width, 3, stride=stride, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            _conv(width, filters, 1, bias=False),
            nn.BatchNorm2d(filters),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2() -> nn.Module:
    layers = [_conv(3, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    inputs = 32
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, filters, blocks, stride in stages:
        for block in range(blocks):
            step = stride if block == 0 else 1
            layers.append(_InvertedResidual(inputs, filters, step, expansion))
            inputs = filters
    layers += [_conv(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


ARCHITECTURES = {
    "ResNet50": resnet50,
    "DenseNet121": densenet121,
    "MobileNetV2": mobilenet_v2,
}
