"""What a study belongs to: a network, and the device that timed it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from spade_keras.errors import SpadeError


def network_digest(network: keras.Model) -> str:
    """Returns a SHA-256 digest of a network's class and of all its weights, in hexadecimal."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for weight in network.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def check_same(
    stored: Mapping[str, Any], now: Mapping[str, Any], where: str, *, mix_devices: bool = False
) -> None:
    """Refuses to go on with a study that was begun for something else.

    Args:
        stored: What the study was begun with.
        now: What it would go on with.
        where: Name and place of the study, for the message.
        mix_devices: Whether times of different devices may stand in one study.

    Raises:
        SpadeError: If a value differs; names it and the remedy.
    """
    remedies = {
        "network": "Its network has other weights. Use another name or file",
        "space": "It searches other widths. Use another name or file",
        "budget": "It has another budget, so its constraints do not compare. Use another name",
        "quality": "Its quality is another one. Use another name or file",
        "directions": "It has other objectives. Use another name or file",
    }
    for key, remedy in remedies.items():
        if stored.get(key) != now[key]:
            raise SpadeError(
                f"The study {where} cannot go on: {remedy}. Received: {key}={now[key]}, stored: "
                f"{stored.get(key)}"
            )
    if stored.get("fingerprint") != now["fingerprint"] and not mix_devices:
        differences = _differences(stored.get("fingerprint") or {}, now["fingerprint"])
        raise SpadeError(
            f"The study {where} was timed under other circumstances: {'; '.join(differences)}. "
            "Times of different devices do not compare. Use another name, or pass "
            "`mix_devices=True` (--mix-devices) to mix them all the same."
        )


def _differences(stored: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*stored, *now}):
        before, after = stored.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{prefix}{key} ")
        elif before != after:
            found.append(f"{prefix}{key} was {before}, is {after}")
    return found
