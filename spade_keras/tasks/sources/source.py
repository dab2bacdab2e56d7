"""What a reconstruction asks of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.operators import CartesianMRI, LinearOperator
from spade_keras.tasks.task import DataFacts, Samples

IMAGE_COLUMNS = {"psnr_db": "PSNR / dB", "ssim": "SSIM", "nmse": "NMSE"}


class Source(ABC):
    """Measurements of one kind: how they are made or read, and how images of them are judged.

    Args:
        settings: The table `[data]`.
        seed: Of the run.
    """

    convention_name: str
    """Name of the convention of `scores`; to be printed with its numbers."""
    convention: str
    """What the numbers of `scores` mean."""
    columns: Mapping[str, str] = IMAGE_COLUMNS
    """Scores that a table shows: key of `scores` -> heading, the most important first."""
    magnitudes: bool = False
    """Whether the true images are magnitudes, of one channel."""
    channels: int = 2
    """Channels of the images."""

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    @abstractmethod
    def make(self, folder: Path, say: Callable[[str], None]) -> DataFacts:
        """Writes what `load` reads; see `Task.make_data`."""

    @abstractmethod
    def load(self, folder: Path, split: str) -> Samples:
        """Reads a split."""

    @abstractmethod
    def scores(self, samples: Samples, outputs: np.ndarray) -> dict[str, float]:
        """Scores images; see `Task.scores`."""

    def operator(self, samples: Samples) -> LinearOperator:
        """Returns the forward model of some samples."""
        return CartesianMRI()

    def baselines(self, samples: Samples) -> dict[str, np.ndarray]:
        """Returns the zero-filled images A^H y."""
        operator = self.operator(samples)
        images = [
            operator.adjoint(batch["measurements"], **operator.parameters(batch))
            for batch in _singles(samples)
        ]
        return {"zero_filled": np.concatenate([keras.ops.convert_to_numpy(i) for i in images])}

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Returns an image as one shows it, `(height, width)`: the magnitude of a complex one."""
        return np.linalg.norm(image, axis=-1)

    def facts(self, test: Samples) -> dict[str, Any]:
        """Returns the true acceleration of the test samples."""
        mask = np.asarray(test.inputs["mask"])
        return {"true_acceleration": float(mask.size / mask.sum())}


def _singles(samples: Samples) -> list[Any]:
    return [samples.take(index, 1).inputs for index in range(len(samples))]
