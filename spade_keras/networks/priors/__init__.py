"""Denoisers as Functional models with per-layer filters."""

from spade_keras.networks.priors.dncnn import dncnn
from spade_keras.networks.priors.edsr import edsr
from spade_keras.networks.priors.res_unet import res_unet
from spade_keras.networks.priors.unet import unet
from spade_keras.registry import PRIORS

__all__ = ["PRIORS", "dncnn", "edsr", "res_unet", "unet"]
