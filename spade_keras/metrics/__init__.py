"""Quality of images and of classifiers, each number under a named convention."""

from spade_keras.metrics.class_quality import (
    CLASS_CONVENTION,
    ClassQuality,
    are_probabilities,
    class_quality,
)
from spade_keras.metrics.conventions import CONVENTIONS, Convention, get_convention
from spade_keras.metrics.evaluation import Quality, evaluate
from spade_keras.metrics.image_quality import CONVENTION, ImageQuality, image_quality
from spade_keras.metrics.nmse import NMSE, nmse_per_image
from spade_keras.metrics.psnr import PSNR, psnr_per_image
from spade_keras.metrics.ssim import SSIM, ssim_per_image

__all__ = [
    "CLASS_CONVENTION",
    "CONVENTION",
    "CONVENTIONS",
    "NMSE",
    "PSNR",
    "SSIM",
    "ClassQuality",
    "Convention",
    "ImageQuality",
    "Quality",
    "are_probabilities",
    "class_quality",
    "evaluate",
    "get_convention",
    "image_quality",
    "nmse_per_image",
    "psnr_per_image",
    "ssim_per_image",
]
