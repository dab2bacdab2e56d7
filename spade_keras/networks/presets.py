"""Networks of published sizes: the entries of `PRESETS`."""

from collections.abc import Sequence
from typing import Any

import keras

from spade_keras.networks.priors import edsr, res_unet, unet
from spade_keras.networks.usrnet import USRNet
from spade_keras.networks.varnet import E2EVarNet, VarNet
from spade_keras.operators import CartesianMRI, Downsampling


def edsr_13x64(**kwargs: Any) -> keras.Model:
    """The prior of 13 residual blocks of 64 channels: 999,426 parameters; see `priors.edsr`."""
    return edsr(filters=(64,) * 13, **kwargs)


def varnet_8x18(**kwargs: Any) -> VarNet:
    """`VarNet` of 8 cascades, U-Nets of 4 poolings and 18 channels: 19,634,712 parameters."""
    return VarNet(CartesianMRI(), unet(), iterations=8, **kwargs)


def e2e_varnet_8x18(**kwargs: Any) -> E2EVarNet:
    """`varnet_8x18` with a sensitivity network of 8 channels: 20,119,610 parameters."""
    return E2EVarNet(CartesianMRI(), unet(), iterations=8, **kwargs)


def usrnet(scales: Sequence[int] = (2, 3, 4), **kwargs: Any) -> USRNet:
    """`USRNet` of 8 iterations, 64-128-256-512 channels, for color: 17.02 M parameters."""
    prior = res_unet(condition_channels=1)
    return USRNet([Downsampling(scale) for scale in scales], prior, 8, **kwargs)


def usrnet_tiny(scales: Sequence[int] = (2, 3, 4), **kwargs: Any) -> USRNet:
    """`USRNet` of 6 iterations, 16-32-64-64 channels, for color: 0.59 M parameters."""
    prior = res_unet(filters=(16, 32, 64, 64), condition_channels=1)
    return USRNet([Downsampling(scale) for scale in scales], prior, 6, hidden=32, **kwargs)
