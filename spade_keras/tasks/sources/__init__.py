"""Sources of measurements for reconstruction: their splits, scores and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np

from spade_keras.data import MeasuredSlices, true_acceleration
from spade_keras.operators import CartesianMRI, LinearOperator
from spade_keras.registry import SOURCES
from spade_keras.tasks.task import DataFacts, Samples

if TYPE_CHECKING:
    from spade_keras.recipe.sections import Section

__all__ = ["IMAGE_COLUMNS", "SOURCES", "Source"]

IMAGE_COLUMNS = {"psnr_db": "PSNR / dB", "ssim": "SSIM", "nmse": "NMSE"}


class Source(ABC):
    """Measurements of one kind: how they are made or read, and how images of them are judged.

    `@SOURCES.register("name")` on a subclass makes it a `data.source` of recipes.

    Args:
        settings: The table `[data]`.
        seed: Seed of the run.
    """

    section: ClassVar[type[Section]]
    """Schema of `[data]`, for a source that takes more keys than `source` and `path`."""
    convention_name: str
    """Name of the convention of `scores`; see `Task`, as for the next two."""
    convention: str
    columns: Mapping[str, str] = IMAGE_COLUMNS
    magnitudes: bool = False
    """Whether the true images are magnitudes, of one channel."""
    channels: int = 2
    """Channels of the images."""

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.of_template = getattr(settings, "path", "") is None
        """Whether pictures are of the brain template, which lies on its side."""

    @abstractmethod
    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Writes what `load` reads; see `Task.make_data`."""

    def load(self, folder: Path, split: str) -> Samples:
        """Reads the `MeasuredSlices` that `make` saved to `<split>.npz`."""
        slices = MeasuredSlices.load(folder / f"{split}.npz")
        return Samples(slices.inputs, slices.targets)

    @abstractmethod
    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Scores images; see `Task.scores`."""

    def operator(self, samples: Samples) -> LinearOperator:
        """Returns the forward model of some samples."""
        return CartesianMRI()

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns the zero-filled images."""
        images = [self.zero_filled(samples.take(index, 1)) for index in range(len(samples))]
        return {"zero_filled": np.concatenate(images)}

    def zero_filled(self, sample: Samples) -> np.ndarray:
        """Returns the image A^H y of one sample."""
        operator = self.operator(sample)
        parameters = operator.parameters(sample.inputs)
        image = operator.adjoint(sample.inputs["measurements"], **parameters)
        return keras.ops.convert_to_numpy(image)

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Returns the picture `(height, width)` of an image: its magnitude, the front up."""
        magnitude = np.linalg.norm(image, axis=-1)
        return np.rot90(magnitude) if self.of_template else magnitude

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the true acceleration of the test samples."""
        return {"true_acceleration": true_acceleration(test.inputs["mask"])}
