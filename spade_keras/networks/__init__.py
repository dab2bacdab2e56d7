"""Model-based reconstruction networks."""

from spade_keras.networks import presets, priors
from spade_keras.networks.e2e_varnet import E2EVarNet
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.unrolled_pgd import UnrolledPGD
from spade_keras.networks.usrnet import USRNet
from spade_keras.networks.varnet import VarNet

NETWORKS = {
    "e2e_varnet": E2EVarNet,
    "unrolled_pgd": UnrolledPGD,
    "usrnet": USRNet,
    "varnet": VarNet,
}

__all__ = [
    "NETWORKS",
    "E2EVarNet",
    "NormUNet",
    "USRNet",
    "UnrolledPGD",
    "VarNet",
    "presets",
    "priors",
]
