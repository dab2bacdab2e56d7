"""Replaying a receipt: the same files timed again, on this device or another."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras import latency
from spade_keras.errors import ReceiptError
from spade_keras.files import load_model
from spade_keras.search.candidate import in_dtype, realize
from spade_keras.search.finalists import Compare, compare_for
from spade_keras.search.receipt import ModelIdentity, Receipt, differences


@dataclass(frozen=True)
class Replay:
    """The result of replaying a receipt.

    `differences` are the entries of the fingerprint that differ from the receipt -> then, now;
    `rebuilt` is whether the slim model was rebuilt from the full one and the plan.
    """

    receipt: Receipt
    comparison: latency.Comparison
    differences: dict[str, tuple[Any, Any]]
    rebuilt: bool

    @property
    def holds(self) -> bool:
        """Whether the new measurement meets the budget."""
        return self.receipt.budget.is_met(self.comparison)

    @property
    def same_device(self) -> bool:
        """Whether the device is the receipt's; software may differ."""
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
            f"  receipt  {receipt.budget.describe(receipt.comparison)}, {receipt.date}",
            f"  now      {receipt.budget.describe(self.comparison)}",
        ]
        if receipt.budget.is_undecided(self.comparison):
            lines.append(
                "  The budget lies within the interval, so it was not shown to be met. Measure "
                "again on a quieter machine, or with more --pairs."
            )
        if self.rebuilt:
            lines.append("  The slim model was rebuilt from the full one and the plan.")
        lines += [
            f"  differs from the receipt: {name}: {then} -> {now}"
            for name, (then, now) in self.differences.items()
        ]
        return "\n".join(lines)


def replay(
    receipt: Receipt,
    full: str | Path,
    slim: str | Path | None = None,
    *,
    inputs: Any = None,
    pairs: int | None = None,
    compare: Compare | None = None,
) -> Replay:
    """Times the `.keras` files of a receipt again, on the device in use.

    Without a slim model it is rebuilt from the full one and the plan, not fine-tuned, which does
    not change its time. Without inputs they are standard normal numbers of the recorded shapes,
    zeros for integers and booleans. See `compare_for` for `pairs` and `compare`.

    Raises:
        ReceiptError: If a file is not the one in the receipt, or `inputs` have other shapes.
    """
    _check_identity("full", receipt.full, full)
    if slim is not None:
        _check_identity("slim", receipt.slim, slim)
    recorded, dtype = receipt.fingerprint, receipt.budget.dtype
    described = recorded["inputs"]
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(full)
        made = Path(folder) / "slim.keras" if slim is None else Path(slim)
        if slim is None or dtype is not None:
            network = in_dtype(load_model(full), dtype)
        if slim is None:
            realize(network, receipt.configuration, receipt.plan).save(made)
        if dtype is not None:
            reference = Path(folder) / "full.keras"
            network.save(reference)
        comparison = compare_for(
            receipt.budget,
            reference,
            made,
            _random_inputs(described) if inputs is None else inputs,
            pairs=pairs,
            mode=recorded["mode"] if recorded["backend"] == keras.backend.backend() else None,
            imports=receipt.imports,
            compare=compare,
        )
    now = comparison.b.fingerprint
    if now["inputs"] != described:
        raise ReceiptError(
            f"`inputs` must have the shapes and dtypes of the receipt: {described}. Received: "
            f"{now['inputs']}"
        )
    return Replay(receipt, comparison, differences(recorded, now), slim is None)


def find_file(wanted: ModelIdentity, receipt: str | Path) -> Path | None:
    """Finds a file by its name: beside the receipt's file, in the folder above, in the current one.

    Its content is not checked.
    """
    folder = Path(receipt).parent
    found = (place / wanted.name for place in (folder, folder.parent, Path()))
    return next((path for path in found if path.is_file()), None)


def _check_identity(role: str, recorded: ModelIdentity, path: str | Path) -> None:
    try:
        found = ModelIdentity.of(path)
    except ValueError as error:
        raise ReceiptError(f"`{role}` cannot be checked: {error}") from error
    if not recorded.matches(found):
        raise ReceiptError(
            f"`{role}` must be the file of the receipt, {recorded.name} with sha256 "
            f"{recorded.sha256[:16]}..., or the same model saved again. Received: {role}={path} "
            f"with sha256 {found.sha256[:16]}... and other weights."
        )


def _random_inputs(described: Sequence[Mapping[str, Any]]) -> Any:
    """Arrays of the recorded shapes, structured by their names."""
    rng = np.random.default_rng(0)
    arrays = {}
    for entry in described:
        shape, dtype = tuple(entry["shape"]), str(entry["dtype"])
        is_float = dtype.startswith("float")
        drawn = rng.standard_normal(shape) if is_float else np.zeros(shape)
        arrays[entry["name"]] = drawn.astype(dtype)
    if list(arrays) == [""]:
        return arrays[""]
    if all(name.isdigit() for name in arrays):
        return list(arrays.values())
    return arrays
