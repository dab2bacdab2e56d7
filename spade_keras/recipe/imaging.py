"""The tables `[data]` and `[network]` of a reconstruction, whose keys depend on their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from spade_keras.recipe.sections import (
    ExistingFile,
    FileOrFolder,
    FullNetwork,
    KernelSize,
    SearchRecipe,
    Section,
    rule,
)
from spade_keras.registry import MASKS, NETWORKS, PRIORS, SOURCES
from spade_keras.typing import NameIn, Width

SLICES = 112  # axial ones of the bundled brain template
POOLING = ("unet", "res_unet")  # priors that halve the image at every level

MaskName = Annotated[str, AfterValidator(NameIn(MASKS))]
Pixels = Annotated[int, Field(ge=16, le=1024)]
Acceleration = Annotated[int, Field(ge=1, le=64)]
Iterations = Annotated[int, Field(ge=1, le=100)]


class Measurements(Section):
    """Data of a registered source; with `path` those of a file or folder."""

    source: Annotated[str, AfterValidator(NameIn(SOURCES))]
    path: FileOrFolder | None = None


class Scan(Measurements):
    """Multi-coil MRI of `height` x `width` pixels, undersampled along the width."""

    height: Pixels = 64
    width: Pixels = 64
    coils: int = Field(default=4, ge=1, le=64)
    acceleration: Acceleration = 4
    acs_lines: int = Field(default=8, ge=0, le=1024)
    noise_std: float = Field(default=0.01, ge=0)


class BrainTemplate(Scan):
    """Images, simulated measurements and their split into slabs.

    With `path` the slices are those of a NIfTI volume or of a stack of images instead.
    """

    path: ExistingFile | None = None
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


class KSpace(Scan):
    """Measured k-space without any true image: an `.npy` file, or simulated measurements.

    Two shares of the samples outside the central `acs_lines`, `held_out` each, are kept from every
    network: one for validation, one for test. Coil maps are estimated by ESPIRiT; those of the
    simulated coils are known. An epoch has `repeats` passes over the training slices: by default
    one, or 32 over a single slice.
    """

    path: ExistingFile | None = None
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


class Photographs(Measurements):
    """Photographs that are blurred, decimated and noisy: bundled ones, or a folder's.

    With `kernels` the blur kernels are those of a file, and every test image is seen through each.
    """

    skip_bad: bool = False
    kernels: ExistingFile | None = None
    scale: int = Field(default=2, ge=1, le=8)
    channels: Literal[1, 3] = 3
    noise_std: float = Field(default=0.01, ge=0, le=1)
    patch: Pixels = 48
    patches: int = Field(default=200, ge=1)
    validation_images: int = Field(default=1, ge=1)
    test_images: int = Field(default=2, ge=1)
    image_size: int = Field(default=192, ge=16, le=4096)


class Prior(Section):
    """The denoiser inside the network; `filters` has one width per hidden convolution or level."""

    name: Annotated[str, AfterValidator(NameIn(PRIORS))]
    filters: tuple[Width, ...] = Field(min_length=1, max_length=64, strict=False)


class BundledPrior(Prior):
    """A prior of this package."""

    kernel_size: KernelSize = 3


class CoilMapPrior(Section):
    """The U-Net that makes coil maps; `filters` has one width per level."""

    filters: tuple[Width, ...] = Field(
        (8, 16, 32, 64, 128), min_length=1, max_length=8, strict=False
    )


class Network(FullNetwork):
    """A network made from an operator and a prior."""

    name: Annotated[str, AfterValidator(NameIn(NETWORKS))]
    prior: Prior


class BundledNetwork(Network):
    """A network of this package; `weights` names trained ones that ship with it, or "none"."""

    weights: str = "none"


class Unrolled(BundledNetwork):
    """A network of `iterations` steps that share one prior."""

    iterations: Iterations = 5


class DeepEquilibrium(BundledNetwork):
    """A network that iterates to a tolerance; time is counted in `iterations` while searching."""

    iterations: Iterations = 15
    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    max_iterations: int = Field(default=50, ge=2, le=1000)
    gradient: Literal["truncated", "implicit", "unroll"] = "truncated"
    gradient_steps: int = Field(default=5, ge=1, le=100)


class VarNet(BundledNetwork):
    """Cascades with a prior each; `output` is a complex image or its magnitude over all coils."""

    iterations: Iterations = 8
    output: Literal["image", "magnitude"] = "image"


class E2EVarNet(VarNet):
    """A variational network that makes the coil maps itself."""

    sensitivity: CoilMapPrior


class USRNet(BundledNetwork):
    """Iterations with a closed-form data step; `hidden` is the width that makes their settings."""

    iterations: Iterations = 6
    hidden: int = Field(default=32, ge=1, le=1024)


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

RECONSTRUCTION_NETWORKS: dict[str, type[BundledNetwork]] = {
    "deep_equilibrium": DeepEquilibrium,
    "e2e_varnet": E2EVarNet,
    "unrolled_pgd": Unrolled,
    "usrnet": USRNet,
    "varnet": VarNet,
}
"""The table `[network]`, by its `name`."""

PRIOR_NAMES = ("dncnn", "edsr", "res_unet", "unet")
BUNDLED_PRIORS: dict[str, type[Prior]] = dict.fromkeys(PRIOR_NAMES, BundledPrior)
"""The table `[network.prior]`, by its `name`."""


@rule
def _lines_fit_the_width(data: Scan) -> Iterator[str]:
    if data.acceleration > data.width // 2:
        yield (
            f"`data.acceleration` must be at most half of `data.width` ({data.width // 2}), so "
            "that at least two lines are sampled"
        )
    if data.acs_lines > data.width:
        yield f"`data.acs_lines` must be at most `data.width` ({data.width})"
    allowed = round(data.width / data.acceleration)
    drawn = getattr(data, "mask", None) in ("random", "gaussian") and data.path is None
    if drawn and allowed < data.acs_lines:
        yield (
            f"`data.acs_lines` must be at most the {allowed} lines that `data.acceleration` "
            f"({data.acceleration}) leaves of `data.width` ({data.width})"
        )


@rule
def _slices_are_left(data: BrainTemplate | KSpace) -> Iterator[str]:
    held_out = data.validation_slices + data.test_slices + 2 * data.gap_slices
    keys = "`data.validation_slices` + `data.test_slices` + 2 x `data.gap_slices`"
    if data.path is not None:
        return
    if isinstance(data, KSpace):
        if 1 < data.slices <= held_out:
            yield f"{keys} must be below `data.slices` ({data.slices}), unless that is 1"
    elif held_out >= SLICES:
        yield (
            f"{keys} must be below {SLICES}, the slices of `{data.source}`, so that some are left "
            "to train on"
        )


@rule
def _volumes_are_left(data: FastMRI) -> Iterator[str]:
    if data.path is None and data.validation_volumes + data.test_volumes >= data.volumes:
        yield (
            "`data.validation_volumes` + `data.test_volumes` must be below `data.volumes` "
            f"({data.volumes}), so that some are left to train on"
        )


@rule
def _scale_divides_sizes(data: Photographs) -> Iterator[str]:
    for key in ("patch", "image_size"):
        if getattr(data, key) % data.scale:
            yield f"`data.{key}` must be a multiple of `data.scale` ({data.scale})"


@rule
def _kernel_is_fixed(network: Network) -> Iterator[str]:
    prior = network.prior
    if isinstance(prior, BundledPrior) and prior.name in POOLING and prior.kernel_size != 3:
        yield f'`network.prior.kernel_size` must be 3 for "{prior.name}"'


@rule
def _iterations_are_solved(network: DeepEquilibrium) -> Iterator[str]:
    most = network.max_iterations
    if network.iterations > most:
        yield f"`network.iterations` must be at most `network.max_iterations` ({most})"


@rule
def _prior_takes_the_noise_level(network: USRNet) -> Iterator[str]:
    if isinstance(network.prior, BundledPrior) and network.prior.name != "res_unet":
        reason = 'for "usrnet", which passes it the noise level'
        yield f'`network.prior.name` must be "res_unet" {reason}'
