"""What must hold between the keys of a recipe, beyond each key's own type and range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from spade_keras.recipe_problems import Values

# Axial slices that a bundled source offers, where that is known before it is read.
SLICES = {"mni152": 112}


def broken_rules(values: Values) -> list[str]:
    """Checks every rule whose keys are themselves in order.

    Args:
        values: The recipe's values.

    Returns:
        One sentence per broken rule.
    """
    problems: list[str] = []
    for rule in _RULES:
        try:
            problems.extend(rule(values))
        except KeyError:
            continue  # One of its keys is already reported.
    return problems


def _path_exists(values: Values) -> Iterator[str]:
    path = values.get("data.path")
    if path is not None and not Path(path).expanduser().is_file():
        yield (
            f"`data.path` must be an existing file (a relative one is looked up in "
            f"{Path.cwd()}). Received: data.path={path}"
        )


def _training_slices(values: Values) -> int | None:
    """Slices left for training; None where the source does not say beforehand."""
    source = values.get("data.source")
    if values.get("data.path") is not None or source not in SLICES:
        return None
    held_out = values.get("data.validation_slices") + values.get("data.test_slices")
    return SLICES[source] - int(held_out) - 2 * int(values.get("data.gap_slices"))


def _slabs_leave_training_slices(values: Values) -> Iterator[str]:
    left = _training_slices(values)
    if left is not None and left < 1:
        source = values.get("data.source")
        keys = ("data.validation_slices", "data.test_slices", "data.gap_slices")
        received = ", ".join(f"{key}={values.get(key)}" for key in keys)
        yield (
            f"`data.validation_slices` + `data.test_slices` + 2 x `data.gap_slices` must be below "
            f"{SLICES[source]}, the slices of `{source}`, so that some are left to train on. "
            f"Received: {received}"
        )


def _batches_fit_slices(values: Values) -> Iterator[str]:
    left = _training_slices(values)
    if left is None or left < 1:
        return
    limits = {"training.batch_size": left, "finetuning.batch_size": left}
    if values.get("finetuning.on") == "test":
        limits["finetuning.batch_size"] = values.get("data.test_slices")
    for key, limit in limits.items():
        if values.get(key) > limit:
            yield (
                f"`{key}` must be at most the number of slices to learn from ({limit}). "
                f"Received: {key}={values.get(key)}"
            )


def _acceleration_fits_width(values: Values) -> Iterator[str]:
    width = values.get("data.width")
    acceleration = values.get("data.acceleration")
    if acceleration > width // 2:
        yield (
            f"`data.acceleration` must be at most half of `data.width` ({width // 2}), so that at "
            f"least two lines are sampled. Received: data.acceleration={acceleration}"
        )


def _acs_fits_width(values: Values) -> Iterator[str]:
    width = values.get("data.width")
    lines = values.get("data.acs_lines")
    if lines > width:
        yield (
            f"`data.acs_lines` must be at most `data.width` ({width}). "
            f"Received: data.acs_lines={lines}"
        )


def _kernel_is_odd(values: Values) -> Iterator[str]:
    size = values.get("network.prior.kernel_size")
    if size % 2 == 0:
        yield (
            f"`network.prior.kernel_size` must be odd, so that the kernel has a center. "
            f"Received: network.prior.kernel_size={size}"
        )


def _minimum_width_fits_filters(values: Values) -> Iterator[str]:
    filters = values.get("network.prior.filters")
    for key in ("search.minimum_width", "search.width_multiple"):
        width = values.get(key)
        if width > min(filters):
            yield (
                f"`{key}` must be at most the smallest of `network.prior.filters` "
                f"({min(filters)}). Received: {key}={width}"
            )


def _supervised_keeps_off_test(values: Values) -> Iterator[str]:
    if values.get("finetuning.strategy") == "supervised" and values.get("finetuning.on") == "test":
        yield (
            '`finetuning.on` must be "train" when `finetuning.strategy` is "supervised": it would '
            'learn the test images themselves. Received: finetuning.on="test". Strategies that '
            'may see test measurements: "school", "self_supervised".'
        )


def _importance_needs_weights_alone(values: Values) -> Iterator[str]:
    importance = values.get("pruning.importance")
    reasons = {
        "taylor": "needs gradients on data, which only `make_plan` in Python can be given",
        "batch_norm_scale": "needs batch normalization, which `dncnn` does not have",
    }
    if importance in reasons:
        yield (
            f"`pruning.importance` must be one that reads the prior's kernels alone, such as "
            f'"group_l1"; "{importance}" {reasons[importance]}. '
            f'Received: pruning.importance="{importance}"'
        )


_RULES: tuple[Callable[[Values], Iterator[str]], ...] = (
    _path_exists,
    _slabs_leave_training_slices,
    _batches_fit_slices,
    _acceleration_fits_width,
    _acs_fits_width,
    _kernel_is_odd,
    _minimum_width_fits_filters,
    _supervised_keeps_off_test,
    _importance_needs_weights_alone,
)
