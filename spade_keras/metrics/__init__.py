"""Image quality, each number under a named convention."""

from spade_keras.metrics.image_quality import CONVENTION, ImageQuality, image_quality
from spade_keras.metrics.psnr import PSNR, psnr_per_image

__all__ = ["CONVENTION", "PSNR", "ImageQuality", "image_quality", "psnr_per_image"]
