"""The result of an evaluation: scores with the convention that defines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_FORMATS = {
    "psnr_db": "PSNR {:.2f} dB",
    "ssim": "SSIM {:.4f}",
    "nmse": "NMSE {:.4f}",
    "accuracy": "accuracy {:.4f}",
    "cross_entropy": "cross-entropy {:.4f}",
}


@dataclass(frozen=True)
class Scores:
    """Numbers under one convention.

    Attributes:
        convention: Its name.
        values: Score -> one value per image or volume, or a single one over all samples.
    """

    convention: str
    values: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the values of a score."""
        return self.values[name]

    def as_dict(self) -> dict[str, Any]:
        """Returns the convention and the mean of each score, with its spread where it has one.

        The standard deviation over images or volumes is called `<score>_std`.
        """
        means = {name: float(np.mean(v)) for name, v in self.values.items()}
        spreads = {f"{n}_std": float(np.std(v)) for n, v in self.values.items() if np.ndim(v)}
        return {"convention": self.convention, **means, **spreads}

    def __str__(self) -> str:
        numbers = self.as_dict()
        said = ", ".join(_FORMATS[name].format(numbers[name]) for name in self.values)
        count = max(np.size(v) for v in self.values.values())
        return f"{said} (convention {self.convention}, mean of {count})"
