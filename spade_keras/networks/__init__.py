"""Model-based reconstruction networks."""

from spade_keras.networks import priors
from spade_keras.networks.unrolled_pgd import UnrolledPGD

NETWORKS = {"unrolled_pgd": UnrolledPGD}

__all__ = ["NETWORKS", "UnrolledPGD", "priors"]
