"""The latency receipt: what was measured, of which files, on which device; and its replay."""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import __version__, latency, pruning
from spade_keras.errors import ReceiptError
from spade_keras.files import load_model, write_json_atomic
from spade_keras.search.acceptance import Compare, compare_for, measured, undecided
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import realize
from spade_keras.search.model_identity import ModelIdentity
from spade_keras.search.precision import with_dtype
from spade_keras.search.space import Configuration

KIND = "spade-keras latency receipt"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Receipt:
    """A plan that was accepted, and the measurement it was accepted by.

    Args:
        budget: What the slim model had to meet.
        comparison: Full (`a`) and slim model (`b`) as timed in turn, with the fingerprint.
        plan: Which channels stay.
        configuration: Everything that was chosen, the plan's widths among it.
        full: Which file the full model was.
        slim: Which file the slim model was.
        date: When it was measured, in UTC.
        version: Of spade-keras.
        imports: Modules that register the models' own classes.
    """

    budget: LatencyBudget
    comparison: latency.Comparison
    plan: pruning.PruningPlan
    configuration: Configuration
    full: ModelIdentity
    slim: ModelIdentity
    date: str
    version: str = __version__
    imports: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        full: str | Path,
        slim: str | Path,
        *,
        budget: LatencyBudget,
        comparison: latency.Comparison,
        plan: pruning.PruningPlan,
        configuration: Configuration | None = None,
        imports: Sequence[str] = (),
    ) -> Receipt:
        """Makes the receipt of two files that were timed just now.

        Args:
            full: `.keras` file of the full model.
            slim: `.keras` file of the slim model.
            budget: See `Receipt`.
            comparison: See `Receipt`.
            plan: See `Receipt`.
            configuration: See `Receipt`; by default the widths of the plan.
            imports: See `Receipt`.
        """
        return cls(
            budget=budget,
            comparison=comparison,
            plan=plan,
            configuration=configuration or Configuration(plan.widths),
            full=ModelIdentity.of(full),
            slim=ModelIdentity.of(slim),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            imports=tuple(imports),
        )

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Device, software and shapes of the measurement."""
        return self.comparison.b.fingerprint

    @property
    def digest(self) -> str:
        """SHA-256 of its content, which `write_receipt` puts beside it."""
        return _digest(json.loads(json.dumps(self.as_dict())))

    @property
    def holds(self) -> bool:
        """Whether the measurement meets the budget, safety margin aside."""
        return self.budget.excess(self.comparison, margin=False) <= 0

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
            "verdict": f"{'meets' if self.holds else 'misses'} the budget: {self.budget}; "
            f"measured: {measured(self.budget, self.comparison)}",
            "budget": asdict(self.budget),
            "ratio": self.comparison.ratio.as_dict(),
            "latency": times,
            "fingerprint": dict(self.fingerprint),
            "files": {"full": self.full.as_dict(), "slim": self.slim.as_dict()},
            "imports": list(self.imports),
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
            full=ModelIdentity.from_dict(content["files"]["full"]),
            slim=ModelIdentity.from_dict(content["files"]["slim"]),
            date=content["date"],
            version=content["spade_keras"],
            imports=tuple(content["imports"]),
        )


@dataclass(frozen=True)
class Verdict:
    """What replaying a receipt found.

    Args:
        receipt: What was replayed.
        comparison: The new measurement.
        differences: Entries of the fingerprint that are other than in the receipt -> then, now.
        rebuilt: Whether the slim model was made anew from the full one and the plan.
    """

    receipt: Receipt
    comparison: latency.Comparison
    differences: dict[str, tuple[Any, Any]]
    rebuilt: bool

    @property
    def holds(self) -> bool:
        """Whether the new measurement meets the budget."""
        return self.receipt.budget.excess(self.comparison, margin=False) <= 0

    @property
    def same_device(self) -> bool:
        """Whether the device is the receipt's, whatever else changed."""
        return not any(name.split(".")[0] == "device" for name in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "holds": self.holds,
            "same_device": self.same_device,
            "differences": {name: list(values) for name, values in self.differences.items()},
            "rebuilt": self.rebuilt,
            "measured": self.comparison.as_dict(),
        }

    def __str__(self) -> str:
        receipt = self.receipt
        device = "the receipt's device" if self.same_device else "another device"
        lines = [
            f"{'Holds' if self.holds else 'Does not hold'} on {device}. Budget: {receipt.budget}.",
            f"  receipt  {measured(receipt.budget, receipt.comparison)}, {receipt.date}",
            f"  now      {measured(receipt.budget, self.comparison)}",
        ]
        if undecided(receipt.budget, self.comparison):
            lines.append(
                "  The budget lies within the interval, so it was not shown to be met. Measure "
                "again on a quieter machine, or with more --pairs."
            )
        if self.rebuilt:
            lines.append("  The slim model was made anew from the full one and the plan.")
        lines += [
            f"  other than in the receipt: {name}: {then} -> {now}"
            for name, (then, now) in self.differences.items()
        ]
        return "\n".join(lines)


def write_receipt(path: str | Path, receipt: Receipt) -> None:
    """Writes a receipt with a digest of its content; the file appears whole or not at all.

    Args:
        path: The JSON file.
        receipt: The receipt.
    """
    content = json.loads(json.dumps(receipt.as_dict()))
    write_json_atomic(path, {**content, "digest": _digest(content)})


def read_receipt(path: str | Path) -> Receipt:
    """Reads a receipt.

    The digest finds damage and slips of an editor; it is no signature.

    Args:
        path: The JSON file.

    Raises:
        ReceiptError: If it is no receipt, of another version, damaged or changed.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
            f"damaged or edited. Received: receipt={path}. Get it again, or measure anew with "
            "`spade-keras search`."
        )
    return Receipt.from_dict(content)


def replay(
    receipt: Receipt,
    full: str | Path,
    slim: str | Path | None = None,
    *,
    inputs: Any = None,
    pairs: int | None = None,
    compare: Compare | None = None,
) -> Verdict:
    """Measures again what a receipt says, on the device in use.

    Args:
        receipt: The receipt.
        full: `.keras` file of the full model.
        slim: `.keras` file of the slim model. None: it is made from the full one and the plan;
            its weights are then those of the plan, not fine-tuned, and take as long.
        inputs: Inputs to time with. By default standard normal numbers of the recorded shapes,
            zeros for integers and booleans.
        pairs: Timed windows of each model at first; see `compare_for`.
        compare: See `compare_for`.

    Returns:
        Whether it holds, and what is other than in the receipt.

    Raises:
        ReceiptError: If a file is not the one that the receipt speaks of, or `inputs` have other
            shapes.
    """
    full = Path(full)
    _check_identity("full", receipt.full, full)
    described = receipt.fingerprint["inputs"]
    if inputs is None:
        inputs = _random_inputs(described)
    with tempfile.TemporaryDirectory() as folder:
        if slim is not None:
            made = Path(slim)
            _check_identity("slim", receipt.slim, made)
        reference = full
        if slim is None or receipt.budget.dtype is not None:
            network = in_budget_dtype(load_model(full), receipt.budget)
            if receipt.budget.dtype is not None:
                reference = Path(folder) / "full.keras"
                network.save(reference)
        if slim is None:
            made = Path(folder) / "slim.keras"
            realize(network, receipt.configuration, receipt.plan).save(made)
        comparison = compare_for(
            receipt.budget,
            reference,
            made,
            inputs,
            pairs=pairs,
            mode=receipt.fingerprint["mode"] if _same_backend(receipt) else None,
            imports=receipt.imports,
            compare=compare,
        )
    now = comparison.b.fingerprint
    if now["inputs"] != described:
        raise ReceiptError(
            f"`inputs` must have the shapes and dtypes of the receipt: {described}. Received: "
            f"{now['inputs']}"
        )
    return Verdict(receipt, comparison, differences(receipt.fingerprint, now), slim is None)


def find_file(wanted: ModelIdentity, receipt: str | Path) -> Path | None:
    """Finds a file of a receipt by its name.

    Args:
        wanted: Which file.
        receipt: The receipt's file: its folder is looked into first, then the one above, then the
            current one.

    Returns:
        The path, whatever the file holds; None if there is none of that name.
    """
    folder = Path(receipt).parent
    found = (place / wanted.name for place in (folder, folder.parent, Path()))
    return next((path for path in found if path.is_file()), None)


def in_budget_dtype(network: keras.Model, budget: LatencyBudget) -> keras.Model:
    """Returns the full network as the budget times it: in the budget's dtype, if it has one."""
    return network if budget.dtype is None else with_dtype(network, budget.dtype)


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compares two fingerprints.

    Args:
        then: One.
        now: The other.
        prefix: Put before every name.

    Returns:
        Dotted name -> both values, where they differ; None where one has no such entry.
    """
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


def _check_identity(role: str, recorded: ModelIdentity, path: Path) -> None:
    try:
        found = ModelIdentity.of(path)
    except ValueError as error:
        raise ReceiptError(f"`{role}` cannot be checked: {error}") from error
    if not recorded.matches(found):
        raise ReceiptError(
            f"`{role}` must be the file that the receipt speaks of, {recorded.name} with sha256 "
            f"{recorded.sha256[:16]}..., or the same model saved again. Received: {role}={path} "
            f"with sha256 {found.sha256[:16]}... and other weights."
        )


def _same_backend(receipt: Receipt) -> bool:
    return bool(receipt.fingerprint["backend"] == keras.backend.backend())


def _random_inputs(described: Sequence[Mapping[str, Any]]) -> Any:
    """Arrays of the recorded shapes, in the structure that their names tell."""
    rng = np.random.default_rng(0)
    arrays = {}
    for entry in described:
        shape, dtype = tuple(entry["shape"]), str(entry["dtype"])
        arrays[entry["name"]] = (
            rng.standard_normal(shape).astype(dtype)
            if dtype.startswith("float")
            else np.zeros(shape, dtype)
        )
    if list(arrays) == [""]:
        return arrays[""]
    if all(name.isdigit() for name in arrays):
        return list(arrays.values())
    return arrays
