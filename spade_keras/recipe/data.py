"""The table `[data]` of a reconstruction: what it holds depends on `data.source`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from spade_keras.recipe.messages import OneOf
from spade_keras.recipe.sections import Section, Source

# Spelled out so that this module needs no keras; a test asserts that they are those of `MASKS`.
MASKS = ("equispaced", "gaussian", "poisson_disc", "random")

MaskName = Annotated[str, AfterValidator(OneOf(MASKS, "spade_keras.data:MASKS"))]


class BrainTemplate(Section):
    """Images, simulated measurements and their split into slabs.

    With `path` the slices are those of a NIfTI volume or of a stack of images instead.
    """

    source: Source
    path: str | None = None
    height: int = Field(default=96, ge=16, le=1024)
    width: int = Field(default=96, ge=16, le=1024)
    coils: int = Field(default=4, ge=1, le=64)
    acceleration: int = Field(default=4, ge=1, le=64)
    acs_lines: int = Field(default=8, ge=0, le=1024)
    noise_std: float = Field(default=0.01, ge=0)
    validation_slices: int = Field(default=16, ge=1)
    test_slices: int = Field(default=16, ge=1)
    gap_slices: int = Field(default=6, ge=0)


class FastMRI(Section):
    """fastMRI volumes, split by patient: those of `path`, or small ones made in that layout.

    `slices`, `height`, `width`, `coils`, `noise_std` and `volumes` describe the made ones.
    """

    source: Source
    path: str | None = None
    skip_bad: bool = False
    mask: MaskName = "equispaced"
    acceleration: int = Field(default=4, ge=1, le=64)
    acs_lines: int = Field(default=8, ge=0, le=1024)
    coil_maps: Literal["none", "espirit"] = "none"
    validation_volumes: int = Field(default=1, ge=1)
    test_volumes: int = Field(default=1, ge=1)
    volumes: int = Field(default=6, ge=3, le=100)
    slices: int = Field(default=8, ge=1, le=112)
    height: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=64, ge=16, le=1024)
    coils: int = Field(default=4, ge=1, le=64)
    noise_std: float = Field(default=0.01, ge=0)


class KSpace(Section):
    """Measured k-space without any true image: an `.npy` file, or simulated measurements.

    Of the points of every slice that are sampled outside of the central `acs_lines`, two shares,
    `held_out` each, are given to no network: one for validation, one for test. Coil maps are
    estimated by ESPIRiT; those of the simulated coils are known. An epoch has `repeats` passes over
    the training slices: by default one, or 32 over a single slice.
    """

    source: Source
    path: str | None = None
    calibration: int = Field(default=24, ge=4, le=256)
    kernel_width: int = Field(default=6, ge=2, le=16)
    held_out: float = Field(default=0.1, gt=0, le=0.3)
    acs_lines: int = Field(default=8, ge=0, le=1024)
    repeats: int | None = Field(default=None, ge=1, le=10_000)
    validation_slices: int = Field(default=4, ge=1)
    test_slices: int = Field(default=4, ge=1)
    gap_slices: int = Field(default=6, ge=0)
    slices: int = Field(default=40, ge=1, le=112)
    height: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=64, ge=16, le=1024)
    coils: int = Field(default=4, ge=1, le=64)
    mask: MaskName = "poisson_disc"
    acceleration: int = Field(default=5, ge=1, le=64)
    noise_std: float = Field(default=0.005, ge=0)


class Photographs(Section):
    """Photographs that are blurred, decimated and noisy: bundled ones, or a folder's.

    With `kernels` the blur kernels are those of a file, and every test image is seen through each.
    """

    source: Source
    path: str | None = None
    skip_bad: bool = False
    kernels: str | None = None
    scale: int = Field(default=2, ge=1, le=8)
    channels: Literal[1, 3] = 3
    noise_std: float = Field(default=0.01, ge=0, le=1)
    patch: int = Field(default=48, ge=16, le=1024)
    patches: int = Field(default=200, ge=1)
    validation_images: int = Field(default=1, ge=1)
    test_images: int = Field(default=2, ge=1)
    image_size: int = Field(default=192, ge=16, le=4096)


DATA: dict[str, type[Section]] = {
    "fastmri": FastMRI,
    "kspace": KSpace,
    "mni152": BrainTemplate,
    "photographs": Photographs,
}
"""What `[data]` of a reconstruction holds, by its `source`."""
