"""Photographs degraded by blur, decimation and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from spade_keras import data
from spade_keras.errors import SpadeError
from spade_keras.metrics import evaluate, get_convention
from spade_keras.operators import Downsampling, LinearOperator
from spade_keras.tasks.sources import Source
from spade_keras.tasks.task import SPLITS, DataFacts, Samples, check_some_left

_KERNEL_SIZE = 25
_TRAINING_KERNELS, _TEST_KERNELS = 24, 4
_LUMA = np.array([0.299, 0.587, 0.114])


class Photographs(Source):
    """Patches of some photographs to train on, the centers of others to judge by."""

    convention_name = "sr_y"
    convention = get_convention("sr_y").description

    def __init__(self, settings: Any, seed: int) -> None:
        super().__init__(settings, seed)
        self.channels = settings.channels

    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Splits the photographs and makes low-resolution images of them."""
        settings = self.settings
        images, skipped = self._images()
        check_some_left(settings, "images", len(images), f"images ({len(images)})")
        parts = data.random_split(
            len(images),
            validation=settings.validation_images,
            test=settings.test_images,
            seed=self.seed,
        )
        names = list(images)
        for index, (split, part) in enumerate(zip(SPLITS, parts, strict=True)):
            chosen = {names[i]: images[names[i]] for i in part}
            low = self._degrade(chosen, split, seed=len(SPLITS) * self.seed + index)
            low.save(folder / f"{split}.npz")
            say(f"{split}: {len(low)} images from {', '.join(chosen)}")
        return DataFacts(self._note(len(images)), skipped)

    def operator(self, samples: Samples) -> LinearOperator:
        """Returns blur and decimation."""
        return Downsampling(self.settings.scale)

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, Any]:
        """Returns PSNR, SSIM and NMSE of the luma, a border of the scale left out."""
        return evaluate(
            [*np.asarray(samples.targets)],
            [*outputs],
            convention="sr_y",
            border=self.settings.scale,
        ).as_dict()

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns cubic interpolation between the measured pixels, which ignores the blur."""
        scale, measured = self.settings.scale, samples.inputs["measurements"]
        _, height, width, channels = measured.shape
        options: dict[str, Any] = {
            "matrix": (1 / scale, 1 / scale, 1),
            "output_shape": (scale * height, scale * width, channels),
            "order": 3,
            "mode": "grid-wrap",
        }
        images = [ndimage.affine_transform(image, **options) for image in measured]
        return {"interpolated": np.stack(images)}

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Returns the luma."""
        return image @ _LUMA if image.shape[-1] == 3 else image[..., 0]

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the scale."""
        return {"scale": self.settings.scale}

    def _images(self) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
        settings = self.settings
        if settings.path is None:
            return data.load_photographs(channels=settings.channels), {}
        found = data.open_images(
            Path(settings.path).expanduser(),
            channels=settings.channels,
            skip_bad=settings.skip_bad,
        )
        return dict(zip(map(str, found.files), found.images, strict=True)), found.skipped

    def _degrade(
        self, images: Mapping[str, np.ndarray], split: str, seed: int
    ) -> data.MeasuredSlices:
        settings = self.settings
        pixels: Sequence[np.ndarray] = list(images.values())
        if split == "train":
            patches = data.random_patches(pixels, settings.patches, settings.patch, seed=seed)
            return data.simulate_super_resolution(
                patches,
                _made_kernels(_TRAINING_KERNELS, min(_KERNEL_SIZE, settings.patch), seed),
                settings.scale,
                noise_std=(0.0, settings.noise_std),
                seed=seed,
            )
        if settings.kernels is not None and split == "test":
            kernels = data.load_kernels(Path(settings.kernels).expanduser())
        else:
            kernels = _made_kernels(_TEST_KERNELS, min(_KERNEL_SIZE, settings.image_size), seed)
        return data.simulate_super_resolution(
            np.stack([self._center(name, image) for name, image in images.items()]),
            kernels,
            settings.scale,
            noise_std=settings.noise_std,
            every_kernel=True,
            seed=seed,
        )

    def _center(self, name: str, image: np.ndarray) -> np.ndarray:
        size = self.settings.image_size
        height, width = image.shape[:2]
        if min(height, width) < size:
            raise SpadeError(
                f"`data.image_size` must be at most the sides of every image that is held out. "
                f"Received: data.image_size={size}, but {name} has {height} x {width} pixels"
            )
        top, left = (height - size) // 2, (width - size) // 2
        return image[top : top + size, left : left + size]

    def _note(self, count: int) -> str:
        settings = self.settings
        origin = "photographs of scikit-image"
        if settings.path is not None:
            origin = f"images of {Path(settings.path).name}"
        kernels = f"{_TEST_KERNELS} blur kernels, Gaussian and motion, that are not among those of"
        if settings.kernels is not None:
            kernels = f"each of the blur kernels of {Path(settings.kernels).name}; others are for"
        return (
            f"{count} {origin}, split at random. Held-out ones are cut to the central "
            f"{settings.image_size} x {settings.image_size} pixels and degraded by {kernels} "
            f"training; circular blur, every {settings.scale}. pixel kept, noise of standard "
            f"deviation {settings.noise_std:g}; kernels and noise levels are known to the network."
        )


def _made_kernels(count: int, size: int, seed: int) -> np.ndarray:
    """Gaussians of all sizes and directions; every fourth kernel is a motion path instead."""
    rng = np.random.default_rng(seed)
    kernels = []
    for index in range(count):
        if index % 4 == 3:
            length = float(rng.uniform(4, size * 0.6))
            kernels.append(data.motion_kernel(int(rng.integers(2**31)), length=length, size=size))
        else:
            first, second = rng.uniform(0.6, 2.4, 2)
            angle = float(rng.uniform(0, 180))
            kernels.append(data.gaussian_kernel((float(first), float(second)), angle, size=size))
    return np.stack(kernels)
