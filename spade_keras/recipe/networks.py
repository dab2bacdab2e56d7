"""The table `[network]` of a reconstruction: what it holds depends on `network.name`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spade_keras.recipe.sections import Filters, FullNetwork, NetworkName, PriorName, Section


class Prior(Section):
    """The denoiser inside the network; `filters` has one width per hidden convolution or level."""

    name: PriorName
    filters: tuple[Filters, ...] = Field(min_length=1, max_length=64, strict=False)
    kernel_size: int = Field(default=3, ge=1, le=15)


class CoilMapPrior(Section):
    """The U-Net that makes coil maps; `filters` has one width per level."""

    filters: tuple[Filters, ...] = Field(
        default=(8, 16, 32, 64, 128), min_length=1, max_length=8, strict=False
    )


class Unrolled(FullNetwork):
    """A network of so many iterations with one prior."""

    name: NetworkName
    iterations: int = Field(default=5, ge=1, le=100)
    prior: Prior


class DeepEquilibrium(FullNetwork):
    """A network that iterates to a tolerance; time is counted in `iterations` while searching."""

    name: NetworkName
    iterations: int = Field(default=15, ge=1, le=100)
    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    max_iterations: int = Field(default=50, ge=2, le=1000)
    gradient: Literal["truncated", "implicit", "unroll"] = "truncated"
    gradient_steps: int = Field(default=5, ge=1, le=100)
    prior: Prior


class VarNet(FullNetwork):
    """Cascades with a prior each; `output` is a complex image or its magnitude over all coils."""

    name: NetworkName
    iterations: int = Field(default=8, ge=1, le=100)
    output: Literal["image", "magnitude"] = "image"
    prior: Prior


class E2EVarNet(VarNet):
    """A variational network that makes the coil maps itself."""

    sensitivity: CoilMapPrior


class USRNet(FullNetwork):
    """Iterations with a closed-form data step; `hidden` is the width that makes their settings."""

    name: NetworkName
    iterations: int = Field(default=6, ge=1, le=100)
    hidden: int = Field(default=32, ge=1, le=1024)
    prior: Prior


RECONSTRUCTION_NETWORKS: dict[str, type[FullNetwork]] = {
    "deep_equilibrium": DeepEquilibrium,
    "e2e_varnet": E2EVarNet,
    "unrolled_pgd": Unrolled,
    "usrnet": USRNet,
    "varnet": VarNet,
}
"""What `[network]` of a reconstruction holds, by its `name`."""
