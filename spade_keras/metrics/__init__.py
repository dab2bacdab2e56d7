"""Quality of images and of classifiers, each number under a named convention."""

from spade_keras.metrics.conventions import (
    CLASS_CONVENTION,
    CONVENTIONS,
    SLAB_CONVENTION,
    Convention,
    get_convention,
)
from spade_keras.metrics.evaluation import (
    Scores,
    are_probabilities,
    class_quality,
    evaluate,
    image_quality,
)
from spade_keras.metrics.image_metrics import (
    NMSE,
    PSNR,
    SSIM,
    nmse_per_image,
    psnr_per_image,
    ssim_per_image,
)

__all__ = [
    "CLASS_CONVENTION",
    "CONVENTIONS",
    "NMSE",
    "PSNR",
    "SLAB_CONVENTION",
    "SSIM",
    "Convention",
    "Scores",
    "are_probabilities",
    "class_quality",
    "evaluate",
    "get_convention",
    "image_quality",
    "nmse_per_image",
    "psnr_per_image",
    "ssim_per_image",
]
