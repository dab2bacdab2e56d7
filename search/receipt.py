"""The latency receipt: what was measured, of which model files, on which device."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from spade_keras import __version__, latency, pruning
from spade_keras.errors import ReceiptError, SpadeError
from spade_keras.files import write_json_atomic
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.space import Configuration
from spade_keras.typing import Record

KIND = "spade-keras latency receipt"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class ModelIdentity:
    """The identity of a `.keras` file: its name, and hashes of the file and of the weights in it.

    When the same model is saved again, `sha256` changes and `weights_sha256` stays: it covers the
    weights' names, shapes, dtypes and values, without optimizers.
    """

    name: str
    sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, path: str | Path) -> ModelIdentity:
        """Reads a `.keras` file; no model is built."""
        path = Path(path)
        try:
            content = path.read_bytes()
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                weights_sha256 = _weights_sha256(archive.read("model.weights.h5"))
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise ValueError(
                f"`path` must be a whole .keras file. Received: path={path}: {error}"
            ) from error
        return cls(path.name, hashlib.sha256(content).hexdigest(), weights_sha256)

    def matches(self, other: ModelIdentity) -> bool:
        """Whether both are the same file, or the same model saved twice."""
        return self.sha256 == other.sha256 or self.weights_sha256 == other.weights_sha256


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Quality(Record):
    """How well an accepted model does its work.

    `value` is its score of that `name`, higher is better, and `least` what is acceptable, None
    where a user's function scores; `agreement` is `OutputAgreement` with the full model, in dB.
    """

    name: str
    value: float
    least: float | None
    agreement: float

    @property
    def warning(self) -> str | None:
        """Says that a score is not acceptable, and the remedy; None if it is, or is not known."""
        if self.least is None or self.value >= self.least:  # NaN warns
            return None
        return (
            f"Quality not kept: {self.name} {self.value:.4g}, below the least acceptable "
            f"{self.least:.4g}. Refit the slim model to inputs (--data with --compensate), "
            "fine-tune it (--finetune), or allow more time."
        )


@dataclass(frozen=True)
class Receipt:
    """A plan that was accepted, and the measurement it was accepted by.

    `comparison` is of the full (`a`) and the slim model (`b`), with the fingerprint; `imports` are
    the modules that register the models' own classes; `date` is in UTC. `trial` is the number of
    the one whose configuration this is, or was widened to.
    """

    budget: LatencyBudget
    comparison: latency.Comparison
    plan: pruning.PruningPlan
    configuration: Configuration
    full: ModelIdentity
    slim: ModelIdentity
    trial: int
    quality: Quality
    date: str = field(default_factory=_now)
    version: str = __version__
    imports: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """See `Quality.warning`."""
        return self.quality.warning

    @property
    def measured(self) -> str:
        """Says whether the measurement meets the budget."""
        return (
            f"{'meets' if self.holds else 'misses'} the budget: {self.budget}; measured: "
            f"{self.budget.describe(self.comparison)}"
        )

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Device, software and shapes of the measurement."""
        return self.comparison.b.fingerprint

    @property
    def digest(self) -> str:
        """SHA-256 of its content, which `write_receipt` puts beside it."""
        return _digest(self.as_dict())

    @property
    def holds(self) -> bool:
        """Whether the measurement meets the budget, safety margin aside."""
        return self.budget.is_met(self.comparison)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, which `from_dict` reads."""
        times = {
            name: {key: value for key, value in time.as_dict().items() if key != "fingerprint"}
            for name, time in (("full", self.comparison.a), ("slim", self.comparison.b))
        }
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "date": self.date,
            "spade_keras": self.version,
            "verdict": " ".join(filter(None, (self.warning, self.measured))),
            "budget": asdict(self.budget),
            "ratio": self.comparison.ratio.as_dict(),
            "latency": times,
            "fingerprint": dict(self.fingerprint),
            "files": {"full": asdict(self.full), "slim": asdict(self.slim)},
            "imports": list(self.imports),
            "trial": self.trial,
            "quality": self.quality.as_dict(),
            "configuration": self.configuration.as_dict(),
            "plan": json.loads(self.plan.to_json()),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Receipt:
        """Reads what `as_dict` returned."""
        fingerprint = content["fingerprint"]
        full, slim = (
            latency.Latency.from_dict({**time, "fingerprint": fingerprint})
            for time in (content["latency"]["full"], content["latency"]["slim"])
        )
        return cls(
            budget=LatencyBudget(**content["budget"]),
            comparison=latency.Comparison(full, slim, latency.Ratio(**content["ratio"])),
            plan=pruning.PruningPlan.from_json(json.dumps(content["plan"])),
            configuration=Configuration.from_dict(content["configuration"]),
            full=ModelIdentity(**content["files"]["full"]),
            slim=ModelIdentity(**content["files"]["slim"]),
            date=content["date"],
            version=content["spade_keras"],
            imports=tuple(content["imports"]),
            trial=content["trial"],
            quality=Quality.from_dict(content["quality"]),
        )


def write_receipt(path: str | Path, receipt: Receipt) -> None:
    """Writes a receipt with a digest of its content; the file appears whole or not at all."""
    write_json_atomic(path, {**receipt.as_dict(), "digest": receipt.digest})


def read_receipt(path: str | Path) -> Receipt:
    """Reads a receipt. Its digest detects damage and accidental edits; it is not a signature.

    Raises:
        ReceiptError: If the file is no receipt, has another version, is corrupt or was edited.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReceiptError(
            f"`receipt` must be a JSON file that `spade-keras search` wrote. Received: "
            f"receipt={path}: {error}"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ReceiptError(
            f"`receipt` must be a {KIND}, as `spade-keras search` writes receipt.json. Received: "
            f"receipt={path}, which is none."
        )
    if content.get("format_version") != FORMAT_VERSION:
        raise ReceiptError(
            f"`receipt` must be of format_version {FORMAT_VERSION}. Received: receipt={path} of "
            f"format_version {content.get('format_version')!r}. Read it with the version of "
            f"spade-keras that wrote it: {content.get('spade_keras')}."
        )
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise ReceiptError(
            "`receipt` must be as it was written: its digest does not fit its content, so it was "
            f"damaged or edited. Received: receipt={path}. Get it again, or measure again with "
            "`spade-keras search`."
        )
    return Receipt.from_dict(content)


def network_digest(network: keras.Model) -> str:
    """Returns a SHA-256 digest of a network's class and of all its weights, in hexadecimal."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for weight in network.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def check_same(
    stored: dict[str, Any], now: dict[str, Any], where: str, *, mix_devices: bool
) -> None:
    """Refuses to continue a study, found at `where`, that was started with other settings."""
    causes = {
        "network": "Its network has other weights",
        "space": "It searches other widths",
        "budget": "It has another budget, so its constraints do not compare",
        "quality": "It maximizes something else",
        "directions": "It has another number of objectives",
    }
    for key, cause in causes.items():
        if stored.get(key) != now[key]:
            raise SpadeError(
                f"The study {where} cannot be continued: {cause}. Use another name or file. "
                f"Received: {key}={now[key]}, stored: {stored.get(key)}"
            )
    if stored.get("fingerprint") != now["fingerprint"] and not mix_devices:
        found = differences(stored.get("fingerprint") or {}, now["fingerprint"])
        changes = [f"{name} was {before}, is {after}" for name, (before, after) in found.items()]
        raise SpadeError(
            f"The study {where} was timed under other circumstances: {'; '.join(changes)}. "
            "Times of different devices do not compare. Use another name, or pass "
            "`mix_devices=True` (--mix-devices) to mix them all the same."
        )


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compares two fingerprints: dotted name -> both values, where they differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*then, *now)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _weights_sha256(content: bytes) -> str:
    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            digest.update(f"{name} {item.shape} {item.dtype}\n".encode())
            digest.update(item[()].tobytes())

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(add)
    return digest.hexdigest()
