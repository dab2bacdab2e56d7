"""Model-based reconstruction networks."""

from spade_keras.networks import presets, priors
from spade_keras.networks.deep_equilibrium import DeepEquilibrium, EquilibriumReport
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.reconstruction_network import ReconstructionNetwork
from spade_keras.networks.unrolled_pgd import UnrolledPGD
from spade_keras.networks.usrnet import USRNet
from spade_keras.networks.varnet import E2EVarNet, VarNet
from spade_keras.registry import NETWORKS, PRESETS

__all__ = [
    "NETWORKS",
    "PRESETS",
    "DeepEquilibrium",
    "E2EVarNet",
    "EquilibriumReport",
    "NormUNet",
    "ReconstructionNetwork",
    "USRNet",
    "UnrolledPGD",
    "VarNet",
    "presets",
    "priors",
]
