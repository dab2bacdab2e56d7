"""Which `.keras` file it was: hashes of the file and of the weights in it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py


@dataclass(frozen=True)
class ModelIdentity:
    """What tells one saved model from another.

    Args:
        name: The file's name, for people.
        sha256: Of the file. It changes when the same model is saved again.
        weights_sha256: Of the weights' names, shapes, dtypes and values, optimizers left out. It
            stays when the same model is saved again.
    """

    name: str
    sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, path: str | Path) -> ModelIdentity:
        """Reads a `.keras` file; no model is built.

        Args:
            path: The file.

        Raises:
            ValueError: If it is missing or no `.keras` file.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                weights = archive.read("model.weights.h5")
            weights_sha256 = _weights_sha256(weights)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise ValueError(
                f"`path` must be a whole .keras file. Received: path={path}: {error}"
            ) from error
        return cls(path.name, hashlib.sha256(content).hexdigest(), weights_sha256)

    def matches(self, other: ModelIdentity) -> bool:
        """Whether both are the same file, or the same model saved twice."""
        return self.sha256 == other.sha256 or self.weights_sha256 == other.weights_sha256

    def as_dict(self) -> dict[str, str]:
        """Returns plain JSON values, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelIdentity:
        """Reads what `as_dict` returned."""
        return cls(**content)


def _weights_sha256(content: bytes) -> str:
    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            digest.update(f"{name} {item.shape} {item.dtype}\n".encode())
            digest.update(item[()].tobytes())

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(add)
    return digest.hexdigest()
