"""Model-based reconstruction networks."""

from spade_keras.networks import presets, priors
from spade_keras.networks.deep_equilibrium import DeepEquilibrium
from spade_keras.networks.e2e_varnet import E2EVarNet
from spade_keras.networks.equilibrium_report import EquilibriumReport
from spade_keras.networks.norm_unet import NormUNet
from spade_keras.networks.unrolled_pgd import UnrolledPGD
from spade_keras.networks.usrnet import USRNet
from spade_keras.networks.varnet import VarNet

NETWORKS = {
    "deep_equilibrium": DeepEquilibrium,
    "e2e_varnet": E2EVarNet,
    "unrolled_pgd": UnrolledPGD,
    "usrnet": USRNet,
    "varnet": VarNet,
}

__all__ = [
    "NETWORKS",
    "DeepEquilibrium",
    "E2EVarNet",
    "EquilibriumReport",
    "NormUNet",
    "USRNet",
    "UnrolledPGD",
    "VarNet",
    "presets",
    "priors",
]
