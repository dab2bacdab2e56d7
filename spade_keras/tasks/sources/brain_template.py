"""Simulated multi-coil MRI of a brain template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spade_keras import data
from spade_keras.data.multicoil import center_crop
from spade_keras.metrics import SLAB_CONVENTION, image_quality
from spade_keras.tasks.sources import Source
from spade_keras.tasks.task import SPLITS, DataFacts, Samples

NOTE = (
    "MNI152 T1 template: one image averaged from many brains, smoother than any patient's. "
    "Training, validation and test are slabs of that one volume with gaps between them, so "
    "the figures show generalization along one brain, not across subjects. Coils, phase and "
    "noise are simulated, and the coil maps are known exactly."
)


class BrainTemplate(Source):
    """Slabs of one volume, each slice with its own phase, coils and noise."""

    convention_name = "slab"
    convention = SLAB_CONVENTION

    def __init__(self, settings: Any, seed: int) -> None:
        super().__init__(settings, seed)
        self.of_template = True  # volumes of files lie as the template does

    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Simulates the acquisition of three disjoint slabs."""
        settings = self.settings
        volume = self._volume()
        slabs = data.slab_split(
            len(volume),
            validation=settings.validation_slices,
            test=settings.test_slices,
            gap=settings.gap_slices,
        )
        for index, (split, slab) in enumerate(zip(SPLITS, slabs, strict=True)):
            slices = data.simulate_multicoil(
                volume[slab],
                coils=settings.coils,
                acceleration=settings.acceleration,
                acs_lines=settings.acs_lines,
                noise_std=settings.noise_std,
                seed=len(SPLITS) * self.seed + index,
            )
            slices.save(folder / f"{split}.npz")
            say(f"{split}: {len(slices)} slices, true acceleration {slices.true_acceleration:.2f}")
        return DataFacts(NOTE if settings.path is None else self._note())

    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Returns PSNR, SSIM and NMSE of the magnitudes, each with its standard deviation."""
        truth = np.linalg.norm(np.asarray(samples.targets), axis=-1)
        return image_quality(truth, np.linalg.norm(outputs, axis=-1)).as_dict()

    def _volume(self) -> np.ndarray:
        height, width = self.settings.height, self.settings.width
        if self.settings.path is None:
            return data.load_brain_template(height, width)
        path = Path(self.settings.path).expanduser()
        if path.suffix in (".npy", ".npz"):
            stack = np.linalg.norm(data.load_stack(path, peak=1.0), axis=-1)
        else:
            stack = data.load_nifti(path)
        return np.ascontiguousarray(center_crop(stack, height, width))

    def _note(self) -> str:
        return (
            f"Slices of {Path(self.settings.path).name}, cropped or padded around the center; "
            "training, validation and test are slabs of that one volume with gaps between them. "
            "Coils, phase and noise are simulated, and the coil maps are known exactly."
        )
