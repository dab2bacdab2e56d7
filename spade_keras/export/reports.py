"""What was exported, and how the exported models behave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_keras.latency import Latency, Ratio


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported model.

    Args:
        folder: Where it is.
        format: "saved_model".
        backend: The Keras backend that it came from.
        inputs: Shape, its batch axis None, and dtype of every input of the signature.
        size_bytes: Size of all its files.
        seconds: Time that exporting took.
    """

    folder: Path
    format: str
    backend: str
    inputs: Mapping[str, Mapping[str, Any]]
    size_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """Exported models as a process that knows TensorFlow alone finds them.

    Args:
        max_abs_error: Per model, the largest distance of its outputs from the expected ones.
        relative_error: The same, divided by the range (max - min) of the expected outputs.
        latency: Per model, its time in that process.
        ratio: Time of the second model / time of the first; None if there is one alone.
    """

    max_abs_error: Mapping[str, float]
    relative_error: Mapping[str, float]
    latency: Mapping[str, Latency]
    ratio: Ratio | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {
            "max_abs_error": dict(self.max_abs_error),
            "relative_error": dict(self.relative_error),
            "latency": {name: latency.as_dict() for name, latency in self.latency.items()},
            "ratio": None if self.ratio is None else self.ratio.as_dict(),
        }
