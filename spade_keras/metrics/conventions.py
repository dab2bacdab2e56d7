"""Named conventions: the images compared, per slice or volume, data range and window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """The way PSNR, SSIM and NMSE are computed.

    Attributes:
        name: Name to print with every number.
        description: Meaning of the numbers.
        window: Window of SSIM: `"uniform"` (7x7) or `"gaussian"` (11x11, standard deviation 1.5).
        per_volume: Whether the slices of a volume give one number, and its maximum the range.
        luma: Whether images are rounded to 8 bits and colors reduced to their luma.
    """

    name: str
    description: str
    window: str
    per_volume: bool = False
    luma: bool = False


CONVENTIONS: dict[str, Convention] = {
    "fastmri": Convention(
        "fastmri",
        "magnitudes; per volume; data range = maximum of the true volume; PSNR and NMSE over all "
        "its pixels, NMSE = ||error||^2 / ||truth||^2; SSIM with a uniform 7x7 window, mean over "
        "its slices; a larger prediction is cropped around the center",
        window="uniform",
        per_volume=True,
    ),
    "image": Convention(
        "image",
        "per image, of complex images the magnitude; data range given, 1 for images in [0, 1]; "
        "SSIM with a uniform 7x7 window, mean over channels",
        window="uniform",
    ),
    "sr_y": Convention(
        "sr_y",
        "per image; clipped to [0, 1], rounded to 8 bits, luma Y = 16 + (65.481 R + 128.553 G + "
        "24.966 B) / 255, not rounded again; a border of as many pixels as the scale cropped; data "
        "range 255; SSIM with a Gaussian 11x11 window of standard deviation 1.5",
        window="gaussian",
        luma=True,
    ),
}
"""Conventions by name. The same images give numbers dB apart under different ones."""

SLAB_CONVENTION = (
    "magnitude images; per slice, then mean and standard deviation over slices; data range = "
    "maximum of the truth over all slices of the test slab; SSIM with a uniform 7x7 window; "
    "NMSE = ||error||^2 / ||truth||^2"
)
"""The convention of `image_quality`; print it with the numbers."""

CLASS_CONVENTION = (
    "accuracy: share of test samples whose largest score is that of their class; cross-entropy: "
    "mean of -ln p(class), in nats"
)
"""The convention of `class_quality`; print it with the numbers."""

LUMA_WEIGHTS = (65.481, 128.553, 24.966)
"""Of R, G and B in 8 bits, over 255; ITU-R BT.601 with an offset of 16."""


def get_convention(name: str) -> Convention:
    """Returns the convention of that name."""
    if name not in CONVENTIONS:
        raise ValueError(
            f"`convention` must be one of {sorted(CONVENTIONS)}. Received: convention={name!r}"
        )
    return CONVENTIONS[name]
