"""The tables `[data]` and `[network]` of a reconstruction, whose keys depend on their names.

`recipe.schemas` derives the tables of networks, priors and sources that a user registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from spade_keras import weights
from spade_keras.recipe.sections import (
    FullNetwork,
    SearchRecipe,
    Section,
    even_kernel,
    missing_file,
)
from spade_keras.registry import MASKS, NETWORKS, PRIORS, SOURCES
from spade_keras.typing import NameIn, Width

SLICES = 112
"""Axial slices of the bundled brain template."""
POOLING = ("unet", "res_unet")
"""Priors that halve the image at every level."""
_SLABS = "`data.validation_slices` + `data.test_slices` + 2 x `data.gap_slices`"

Source = Annotated[str, AfterValidator(NameIn(SOURCES))]
MaskName = Annotated[str, AfterValidator(NameIn(MASKS))]
NetworkName = Annotated[str, AfterValidator(NameIn(NETWORKS))]
PriorName = Annotated[str, AfterValidator(NameIn(PRIORS))]
Pixels = Annotated[int, Field(ge=16, le=1024)]
Coils = Annotated[int, Field(ge=1, le=64)]
Acceleration = Annotated[int, Field(ge=1, le=64)]
Lines = Annotated[int, Field(ge=0, le=1024)]
Iterations = Annotated[int, Field(ge=1, le=100)]


class Measurements(Section):
    """Data of a registered source; with `path` those of a file or folder."""

    takes_folder: ClassVar[bool] = True
    source: Source
    path: str | None = None

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        yield from missing_file("data.path", self.path, or_folder=self.takes_folder)


class Scan(Measurements):
    """Multi-coil MRI of `height` x `width` pixels, undersampled along the width."""

    height: Pixels = 64
    width: Pixels = 64
    coils: Coils = 4
    acceleration: Acceleration = 4
    acs_lines: Lines = 8
    noise_std: float = Field(default=0.01, ge=0)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        if self.acceleration > self.width // 2:
            yield (
                f"`data.acceleration` must be at most half of `data.width` ({self.width // 2}), "
                "so that at least two lines are sampled"
            )
        if self.acs_lines > self.width:
            yield f"`data.acs_lines` must be at most `data.width` ({self.width})"
        allowed = round(self.width / self.acceleration)
        drawn = getattr(self, "mask", None) in ("random", "gaussian") and self.path is None
        if drawn and allowed < self.acs_lines:
            yield (
                f"`data.acs_lines` must be at most the {allowed} lines that `data.acceleration` "
                f"({self.acceleration}) leaves of `data.width` ({self.width})"
            )
        yield from super().mistakes()


class BrainTemplate(Scan):
    """Images, simulated measurements and their split into slabs.

    With `path` the slices are those of a NIfTI volume or of a stack of images instead.
    """

    takes_folder = False
    height: Pixels = 96
    width: Pixels = 96
    validation_slices: int = Field(default=16, ge=1)
    test_slices: int = Field(default=16, ge=1)
    gap_slices: int = Field(default=6, ge=0)

    @property
    def training_samples(self) -> int | None:
        """Slices that are left for training; None where a file decides."""
        held_out = self.validation_slices + self.test_slices + 2 * self.gap_slices
        return SLICES - held_out if self.path is None else None

    @property
    def test_samples(self) -> int:
        """Slices to test on."""
        return self.test_slices

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        left = self.training_samples
        if left is not None and left < 1:
            yield (
                f"{_SLABS} must be below {SLICES}, the slices of `{self.source}`, so that some "
                "are left to train on"
            )
        yield from super().mistakes()


class FastMRI(Scan):
    """fastMRI volumes, split by patient: those of `path`, or small ones made in that layout.

    `slices`, `height`, `width`, `coils`, `noise_std` and `volumes` describe the made ones.
    """

    skip_bad: bool = False
    mask: MaskName = "equispaced"
    coil_maps: Literal["none", "espirit"] = "none"
    validation_volumes: int = Field(default=1, ge=1)
    test_volumes: int = Field(default=1, ge=1)
    volumes: int = Field(default=6, ge=3, le=100)
    slices: int = Field(default=8, ge=1, le=112)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        if self.path is None and self.validation_volumes + self.test_volumes >= self.volumes:
            yield (
                "`data.validation_volumes` + `data.test_volumes` must be below `data.volumes` "
                f"({self.volumes}), so that some are left to train on"
            )
        yield from super().mistakes()


class KSpace(Scan):
    """Measured k-space without any true image: an `.npy` file, or simulated measurements.

    Two shares of the samples outside the central `acs_lines`, `held_out` each, are kept from every
    network: one for validation, one for test. Coil maps are estimated by ESPIRiT; those of the
    simulated coils are known. An epoch has `repeats` passes over the training slices: by default
    one, or 32 over a single slice.
    """

    takes_folder = False
    acceleration: Acceleration = 5
    noise_std: float = Field(default=0.005, ge=0)
    mask: MaskName = "poisson_disc"
    calibration: int = Field(default=24, ge=4, le=256)
    kernel_width: int = Field(default=6, ge=2, le=16)
    held_out: float = Field(default=0.1, gt=0, le=0.3)
    repeats: int | None = Field(default=None, ge=1, le=10_000)
    validation_slices: int = Field(default=4, ge=1)
    test_slices: int = Field(default=4, ge=1)
    gap_slices: int = Field(default=6, ge=0)
    slices: int = Field(default=40, ge=1, le=112)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        held_out = self.validation_slices + self.test_slices + 2 * self.gap_slices
        if self.path is None and 1 < self.slices <= held_out:
            yield f"{_SLABS} must be below `data.slices` ({self.slices}), unless that is 1"
        yield from super().mistakes()


class Photographs(Measurements):
    """Photographs that are blurred, decimated and noisy: bundled ones, or a folder's.

    With `kernels` the blur kernels are those of a file, and every test image is seen through each.
    """

    skip_bad: bool = False
    kernels: str | None = None
    scale: int = Field(default=2, ge=1, le=8)
    channels: Literal[1, 3] = 3
    noise_std: float = Field(default=0.01, ge=0, le=1)
    patch: Pixels = 48
    patches: int = Field(default=200, ge=1)
    validation_images: int = Field(default=1, ge=1)
    test_images: int = Field(default=2, ge=1)
    image_size: int = Field(default=192, ge=16, le=4096)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        yield from missing_file("data.kernels", self.kernels)
        for key in ("patch", "image_size"):
            if getattr(self, key) % self.scale:
                yield f"`data.{key}` must be a multiple of `data.scale` ({self.scale})"
        yield from super().mistakes()


class Prior(Section):
    """The denoiser inside the network; `filters` has one width per hidden convolution or level."""

    name: PriorName
    filters: tuple[Width, ...] = Field(min_length=1, max_length=64, strict=False)


class BundledPrior(Prior):
    """A prior of this package."""

    kernel_size: int = Field(default=3, ge=1, le=15)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        yield from even_kernel("network.prior.kernel_size", self.kernel_size)
        if self.name in POOLING and self.kernel_size != 3:
            yield f'`network.prior.kernel_size` must be 3 for "{self.name}"'


class CoilMapPrior(Section):
    """The U-Net that makes coil maps; `filters` has one width per level."""

    filters: tuple[Width, ...] = Field(
        default=(8, 16, 32, 64, 128), min_length=1, max_length=8, strict=False
    )


class Network(FullNetwork):
    """A network made from an operator and a prior; `weights` names trained ones, or "none"."""

    name: NetworkName
    prior: Prior
    weights: str = "none"

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        known = ("none", *weights.weights_of(self.name))
        if self.weights not in known:
            listed = ", ".join(f'"{name}"' for name in known)
            yield f'`network.weights` must be one that ships for "{self.name}": {listed}'
        yield from self.prior.mistakes()


class Unrolled(Network):
    """A network of `iterations` steps that share one prior."""

    iterations: Iterations = 5


class DeepEquilibrium(Network):
    """A network that iterates to a tolerance; time is counted in `iterations` while searching."""

    iterations: Iterations = 15
    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    max_iterations: int = Field(default=50, ge=2, le=1000)
    gradient: Literal["truncated", "implicit", "unroll"] = "truncated"
    gradient_steps: int = Field(default=5, ge=1, le=100)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        if self.iterations > self.max_iterations:
            yield (
                f"`network.iterations` must be at most `network.max_iterations` "
                f"({self.max_iterations})"
            )
        yield from super().mistakes()


class VarNet(Network):
    """Cascades with a prior each; `output` is a complex image or its magnitude over all coils."""

    iterations: Iterations = 8
    output: Literal["image", "magnitude"] = "image"


class E2EVarNet(VarNet):
    """A variational network that makes the coil maps itself."""

    sensitivity: CoilMapPrior


class USRNet(Network):
    """Iterations with a closed-form data step; `hidden` is the width that makes their settings."""

    iterations: Iterations = 6
    hidden: int = Field(default=32, ge=1, le=1024)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        if isinstance(self.prior, BundledPrior) and self.prior.name != "res_unet":
            yield (
                '`network.prior.name` must be "res_unet" for "usrnet", which passes it the noise '
                "level"
            )
        yield from super().mistakes()


class ReconstructionRecipe(SearchRecipe):
    """A network that reconstructs images from measurements."""

    data: Measurements
    network: Network


DATA: dict[str, type[Measurements]] = {
    "fastmri": FastMRI,
    "kspace": KSpace,
    "mni152": BrainTemplate,
    "photographs": Photographs,
}
"""The table `[data]`, by its `source`."""

RECONSTRUCTION_NETWORKS: dict[str, type[Network]] = {
    "deep_equilibrium": DeepEquilibrium,
    "e2e_varnet": E2EVarNet,
    "unrolled_pgd": Unrolled,
    "usrnet": USRNet,
    "varnet": VarNet,
}
"""The table `[network]`, by its `name`."""

BUNDLED_PRIORS: dict[str, type[Prior]] = dict.fromkeys(
    ("dncnn", "edsr", "res_unet", "unet"), BundledPrior
)
"""The table `[network.prior]`, by its `name`."""
