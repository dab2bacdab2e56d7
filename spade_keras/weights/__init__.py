"""Trained networks that ship with the package, and the record of how each was made.

`[network] weights` of a recipe names one. Nothing here imports keras, so recipes are checked fast.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from spade_keras.errors import WeightsError

__all__ = ["FOLDER", "path", "record", "weights_of"]

FOLDER = Path(__file__).parent


def weights_of(network: str) -> tuple[str, ...]:
    """Returns the names of the weights that ship for a network, such as ("mni152",)."""
    found = FOLDER.glob(f"{network}-*.keras")
    return tuple(sorted(file.stem.removeprefix(f"{network}-") for file in found))


def path(network: str, weights: str) -> Path:
    """Returns the file of a trained network, for `spade_keras.load_model`.

    Args:
        network: Its name in `NETWORKS`, such as "unrolled_pgd".
        weights: Its name in `weights_of(network)`: the data it was trained on.

    Raises:
        WeightsError: If there is none, or its content is not what its record says.

    Example:
        >>> from spade_keras import weights
        >>> weights.path("unrolled_pgd", "mni152").name
        'unrolled_pgd-mni152.keras'
    """
    expected = record(network, weights)["sha256"]
    file = FOLDER / f"{network}-{weights}.keras"
    received = hashlib.sha256(file.read_bytes()).hexdigest()
    if received != expected:
        raise WeightsError(
            f"`{file}` is damaged: reinstall spade-keras, or train it again by `make pretrained`. "
            f"Received: sha256={received} instead of {expected}"
        )
    return file


def record(network: str, weights: str) -> dict[str, Any]:
    """Returns how a trained network was made: recipe, commit, seed, steps, seconds and scores.

    Its "requires" holds the keys of a recipe that must be as they were: those of the network give
    the weights their shapes, the others decide which of the bundled images were trained on.

    Raises:
        WeightsError: If there is none of that name.
    """
    known = weights_of(network)
    if weights not in known:
        listed = ", ".join(f'"{name}"' for name in known) or "there are none"
        raise WeightsError(
            f'`weights` must be one that ships for "{network}" ({listed}). '
            f'Received: weights="{weights}"'
        )
    found: dict[str, Any] = json.loads((FOLDER / f"{network}-{weights}.json").read_text())
    return found
