"""Quality of images and of classifiers, each number under a named convention."""

from spade_keras.metrics.class_quality import (
    CLASS_CONVENTION,
    ClassQuality,
    are_probabilities,
    class_quality,
)
from spade_keras.metrics.image_quality import CONVENTION, ImageQuality, image_quality
from spade_keras.metrics.psnr import PSNR, psnr_per_image

__all__ = [
    "CLASS_CONVENTION",
    "CONVENTION",
    "PSNR",
    "ClassQuality",
    "ImageQuality",
    "are_probabilities",
    "class_quality",
    "image_quality",
    "psnr_per_image",
]
